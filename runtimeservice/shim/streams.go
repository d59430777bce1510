package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// streams are the named pipes between a shim and a monitor, and what is copied between them and the monitor's own
// streams. With a terminal there is one output.
type streams struct {
	dir      string
	Stdin    string // paths for the shim; "" is none
	Stdout   string
	Stderr   string
	keep     []*os.File // writing ends of output pipes, so that they do not end before the shim has opened them
	stdin    *os.File
	outputs  sync.WaitGroup
	readers  []*os.File
	inputEnd chan struct{} // closed when the monitor's input has ended
}

// ends are the monitor's own ends. Nil is none.
type ends struct {
	in       io.Reader
	out, err io.Writer
}

// openStreams makes the pipes in a directory, for those ends that are there.
func openStreams(dir string, e ends) (*streams, error) {
	s := &streams{dir: dir, inputEnd: make(chan struct{})}
	var err error
	if e.in != nil {
		if s.Stdin, err = s.input(e.in); err != nil {
			return nil, errors.Join(err, s.remove())
		}
	}
	for _, o := range []struct {
		name string
		path *string
		to   io.Writer
	}{{"stdout", &s.Stdout, e.out}, {"stderr", &s.Stderr, e.err}} {
		if o.to == nil {
			continue
		}
		if *o.path, err = s.output(o.name, o.to); err != nil {
			return nil, errors.Join(err, s.remove())
		}
	}
	return s, nil
}

// input copies to the shim. The pipe is open for reading too, as the shim opens its end when it likes.
func (s *streams) input(from io.Reader) (string, error) {
	path := filepath.Join(s.dir, "stdin")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return "", fmt.Errorf("make stdin: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("open stdin: %w", err)
	}
	s.stdin = f
	go func() {
		_, _ = io.Copy(f, from)
		close(s.inputEnd)
	}()
	return path, nil
}

func (s *streams) output(name string, to io.Writer) (string, error) {
	path := filepath.Join(s.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", name, err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", errors.Join(fmt.Errorf("open %s: %w", name, err), r.Close())
	}
	s.keep, s.readers = append(s.keep, w), append(s.readers, r)
	s.outputs.Go(func() {
		if _, err := io.Copy(to, r); err != nil {
			_, _ = io.Copy(io.Discard, r) // nobody listens any more; the program must not stand still for that
		}
	})
	return path, nil
}

// drain is called when the process has ended. It returns when all its output is copied, but does not wait long for
// children that hold the pipes.
func (s *streams) drain(patience time.Duration) {
	for _, w := range s.keep {
		w.Close()
	}
	for _, r := range s.readers {
		_ = r.SetReadDeadline(time.Now().Add(patience))
	}
	s.outputs.Wait()
}

func (s *streams) remove() error {
	return os.RemoveAll(s.dir)
}
