// Package filter saves compiling a container's seccomp filter anew at each start and exec, which costs libseccomp more
// than all the rest of an exec.
//
// libcontainer hands the profile to libseccomp in the container's init, a rule at a time, and loads the program that
// comes out. Between the two stands this package, in C, as libseccomp is called from Go: it writes down what libseccomp is
// told and, if the very same was said before, returns the program that libseccomp made then. So the kernel gets the same
// bytes, at the same point of the init, with the same flags. Nothing is recognised by a name or a hash alone: the words
// themselves are compared, the version of the library and the kernel's level among them.
//
//	keeper                                   init of a container
//	  │ first container with a profile         │ map the book, before nsenter
//	  ├─► skiff-keeper compile-filter          │ … mounts, namespaces …
//	  │   (a process of its own)               │ rules ─► written down
//	  │ ◄── entry                              │ export ─► in the book? its program
//	  └─► book, replaced by rename             │                  else libseccomp
//
// The first container with a profile compiles by itself, and whoever finds no book.
package filter

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
)

// CompileArg is the argument with which this binary is executed to compile: RunCompile answers.
const CompileArg = "compile-filter"

// maxEntries bounds the book; the oldest entry makes room.
const maxEntries = 32

// Book keeps the compiled filters of one keeper in a file.
type Book struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	seen    map[[sha256.Size]byte]bool // profiles that were compiled, or are being
	entries [][]byte                   // oldest first
}

// NewBook starts an empty book at path. One that another binary left is not to be believed.
func NewBook(path string, log *slog.Logger) (*Book, error) {
	b := &Book{path: path, log: log, seen: map[[sha256.Size]byte]bool{}}
	if err := b.write(); err != nil {
		return nil, err
	}
	return b, nil
}

// Want has the profile compiled, in the background, unless it was already.
func (b *Book) Want(profile *configs.Seccomp) {
	if profile == nil {
		return
	}
	text, err := json.Marshal(profile)
	if err != nil {
		return // libcontainer will say why
	}
	key := sha256.Sum256(text)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[key] {
		return
	}
	b.seen[key] = true // also when it fails: then libseccomp will fail again
	go func() {
		if err := b.compile(text); err != nil {
			b.log.Warn("seccomp profile is compiled at each start", "error", err)
		}
	}()
}

// compile runs libseccomp in a process of its own: what it allocates, and whatever it stumbles on, must not be the keeper's.
func (b *Book) compile(profile []byte) error {
	cmd := exec.Command("/proc/self/exe", CompileArg)
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Stdin = bytes.NewReader(profile)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.add(out.Bytes())
}

// add is called with mu held.
func (b *Book) add(entry []byte) error {
	b.entries = append(b.entries, entry)
	if len(b.entries) > maxEntries {
		b.entries = b.entries[len(b.entries)-maxEntries:]
	}
	return b.write()
}

// write replaces the file. An init that has the old one open goes on with that.
func (b *Book) write() error {
	text := append([]byte(magic), bytes.Join(b.entries, nil)...)
	temp := b.path + ".new"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return fmt.Errorf("write filters: %w", err)
	}
	if err := os.Rename(temp, b.path); err != nil {
		return fmt.Errorf("write filters: %w", err)
	}
	return nil
}

// RunCompile reads a profile from standard input and writes the entry to standard output.
func RunCompile() error {
	profile := &configs.Seccomp{}
	if err := json.NewDecoder(os.Stdin).Decode(profile); err != nil {
		return fmt.Errorf("read seccomp profile: %w", err)
	}
	entry, err := Compile(profile)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(entry)
	return err
}
