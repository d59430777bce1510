//go:build cgo && seccomp

package filter

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"golang.org/x/sys/unix"
)

// This binary executes itself: as a compiler, and as an init that confines itself and says what getppid answers.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == CompileArg:
		if err := RunCompile(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case len(os.Args) == 2 && os.Args[1] == "init":
		confine()
	}
	os.Exit(m.Run())
}

func confine() {
	runtime.LockOSThread()
	profile := &configs.Seccomp{}
	err := json.Unmarshal([]byte(os.Getenv("PROFILE")), profile)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if err == nil {
		_, err = seccomp.InitSeccomp(profile)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	fmt.Println(int(errno))
	os.Exit(0)
}

// refuse is a profile that answers getppid with an error, and allows the rest.
func refuse(errno uint, more ...*configs.Syscall) *configs.Seccomp {
	return &configs.Seccomp{
		DefaultAction: configs.Allow,
		Syscalls:      append([]*configs.Syscall{{Name: "getppid", Action: configs.Errno, ErrnoRet: &errno}}, more...),
	}
}

func compiled(t *testing.T, profile *configs.Seccomp) []byte {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", CompileArg)
	text, err := json.Marshal(profile)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// answer is what getppid says to an init with that profile and a book of that text.
func answer(t *testing.T, profile *configs.Seccomp, book []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "box")
	if book != nil {
		if err := os.WriteFile(name+Suffix, book, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(profile)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "init")
	cmd.Args[0] = name
	cmd.Env = []string{"PROFILE=" + string(text)}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestRecall tells a filter that was recalled from one that was compiled by changing the program in the book: nobody
// else would do so, and an init believes it only for the very same words.
func TestRecall(t *testing.T) {
	asked := refuse(71)
	entry := compiled(t, asked)
	said, program := binary.NativeEndian.Uint32(entry[8:]), binary.NativeEndian.Uint32(entry[12:])
	if int(16+said+program) != len(entry) || program == 0 || program%8 != 0 {
		t.Fatalf("entry of %d bytes: %d said, %d of program", len(entry), said, program)
	}
	forged := bytes.Replace(entry, retErrno(71), retErrno(72), 1)
	if bytes.Equal(forged, entry) {
		t.Fatal("no such instruction in the program")
	}
	// What was said names the action too; only the program is to change.
	forged = append(append([]byte{}, entry[:16+said]...), bytes.ReplaceAll(entry[16+said:], retErrno(71), retErrno(72))...)
	other := compiled(t, refuse(9))
	book := func(entries ...[]byte) []byte { return append([]byte(magic), bytes.Join(entries, nil)...) }
	longSaid := append([]byte{}, forged...)
	binary.NativeEndian.PutUint32(longSaid[8:], 1<<31)
	longProgram := append([]byte{}, forged...)
	binary.NativeEndian.PutUint32(longProgram[12:], 1<<31)
	zero := uint64(0)
	for name, tc := range map[string]struct {
		profile *configs.Seccomp
		book    []byte
		want    string
	}{
		"no book":                {asked, nil, "71"},
		"empty file":             {asked, []byte{}, "71"},
		"empty book":             {asked, book(), "71"},
		"true book":              {asked, book(entry), "71"},
		"recalled":               {asked, book(forged), "72"},
		"recalled, second":       {asked, book(other, forged), "72"},
		"another book":           {asked, append([]byte("skiff filters 0\x00"), forged...), "71"},
		"cut":                    {asked, book(forged[:len(forged)-1]), "71"},
		"cut in the header":      {asked, book(forged[:9]), "71"},
		"words run over the end": {asked, book(longSaid), "71"},
		"program runs over":      {asked, book(longProgram), "71"},
		"another action":         {refuse(70), book(forged), "70"},
		"one more rule":          {refuse(71, &configs.Syscall{Name: "getpgrp", Action: configs.Trap}), book(forged), "71"},
		"an argument more": {refuse(71, &configs.Syscall{Name: "close", Action: configs.Trap,
			Args: []*configs.Arg{{Index: 0, Value: 1 << 20, ValueTwo: zero, Op: configs.EqualTo}}}), book(forged), "71"},
	} {
		if got := answer(t, tc.profile, tc.book); got != tc.want {
			t.Errorf("%s: getppid fails with %s, want %s", name, got, tc.want)
		}
	}
}

// retErrno is the instruction that ends a call with an error.
func retErrno(errno uint32) []byte {
	return binary.NativeEndian.AppendUint32([]byte{0x06, 0, 0, 0}, 0x00050000|errno)
}

func TestCompileRefuses(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", CompileArg)
	cmd.Stdin = strings.NewReader(`{"default_action": 99}`)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "compile seccomp profile") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestBook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "book")
	b, err := NewBook(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b.Want(nil)
	b.Want(refuse(5))
	b.Want(refuse(5)) // the same again is no work
	b.Want(refuse(6))
	size := len(magic) + len(compiled(t, refuse(5))) + len(compiled(t, refuse(6)))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		info, err := os.Stat(path)
		if err == nil && info.Size() == int64(size) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("book has %d bytes, want %d", info.Size(), size)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for range 2 * maxEntries {
		if err := b.add([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != magic+strings.Repeat("x", maxEntries) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}
