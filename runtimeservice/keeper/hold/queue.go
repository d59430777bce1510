package hold

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Put holds the files, which stay the caller's too, by a name that must not be held yet.
func (s *Store) Put(name string, files ...*os.File) error {
	if name == "" || len(name) > maxName || len(files) == 0 || len(files) > maxFiles {
		return fmt.Errorf("hold %d files as %q: at most %d by a name of at most %d bytes", len(files), name, maxFiles, maxName)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return fmt.Errorf("hold %s: %w", f.Name(), err)
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return fmt.Errorf("hold %s: %w", f.Name(), err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[name] != 0 {
		return fmt.Errorf("%q is held already", name)
	}
	s.last++
	if err := s.send(entry{name, s.last}, fds); err != nil {
		return fmt.Errorf("hold files of %s: %w", name, err)
	}
	s.live[name] = s.last
	return nil
}

// Forget lets go of the files in time, Drop at once. What is not held is no error. The next keeper may find what was
// forgotten: it drops the names that it does not know.
func (s *Store) Forget(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, name)
	if s.total <= 2*len(s.live)+slack {
		return nil
	}
	return s.compact()
}

// Drop is described with Forget.
func (s *Store) Drop(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[name] == 0 {
		return nil
	}
	delete(s.live, name)
	return s.compact()
}

// Files returns all that an earlier keeper has put, by name: they are the caller's, and still held. It is called once,
// before any other method.
func (s *Store) Files() (map[string][]*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string][]*os.File{}
	end := entry{name: endMark + strconv.FormatInt(time.Now().UnixNano(), 36)}
	err := s.send(end, nil)
	s.total = 0
	for more := true; err == nil && more; {
		more, err = s.pass(func(e entry, fds []int) bool {
			s.last = max(s.last, e.number)
			if strings.HasPrefix(e.name, endMark) || s.live[e.name] >= e.number { // the second: a kill came while it was put again
				closeFds(fds)
				return false
			}
			closeFiles(all[e.name])
			s.live[e.name], all[e.name] = e.number, nil
			for i, fd := range fds {
				all[e.name] = append(all[e.name], os.NewFile(uintptr(fd), fmt.Sprintf("%s-%d", e.name, i)))
			}
			return true
		}, end)
	}
	if err != nil {
		return all, fmt.Errorf("look through held files: %w", err)
	}
	return all, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// endMark begins the names of entries without files that mark where the queue ended when it was looked through.
const endMark = "\x00"

// entry is how an entry of the queue begins: its number and its name.
type entry struct {
	name   string
	number uint64
}

func (e entry) encode() []byte {
	return append(binary.BigEndian.AppendUint64(nil, e.number), e.name...)
}

func decodeEntry(text []byte) entry {
	if len(text) < 8 {
		return entry{name: endMark} // of nobody
	}
	return entry{name: string(text[8:]), number: binary.BigEndian.Uint64(text)}
}

// compact puts the living entries again and receives all: the dead ones are gone then.
func (s *Store) compact() error {
	again := map[string]bool{}
	for range s.total {
		_, err := s.pass(func(e entry, fds []int) bool {
			defer closeFds(fds)
			if s.live[e.name] != e.number || again[e.name] {
				return false
			}
			again[e.name] = true
			return true
		}, entry{})
		if err != nil {
			return fmt.Errorf("let go of held files: %w", err)
		}
	}
	s.total = len(again)
	return nil
}

// pass takes the first entry out of the queue. Where keep says so it is put at the end before, so that at each instant it is
// in the queue at least once. It tells whether the entry is another than last.
func (s *Store) pass(keep func(e entry, fds []int) bool, last entry) (more bool, err error) {
	e, fds, err := s.receive(unix.MSG_PEEK)
	if err != nil {
		return false, err
	}
	dup := make([]int, 0, len(fds))
	for _, fd := range fds { // keep closes or takes the originals
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, first)
		if err != nil {
			closeFds(append(fds, dup...))
			return false, err
		}
		dup = append(dup, d)
	}
	defer closeFds(dup)
	if keep(e, fds) {
		if err := s.send(e, dup); err != nil {
			return false, err
		}
	}
	_, gone, err := s.receive(0)
	closeFds(gone)
	return e != last, err
}

func (s *Store) send(e entry, fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(s.in, e.encode(), rights, nil, unix.MSG_NOSIGNAL)
		if err == nil {
			s.total++
		}
		if err != unix.EINTR {
			return err
		}
	}
}

func (s *Store) receive(flags int) (e entry, fds []int, err error) {
	text := make([]byte, 8+maxName+1)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	for {
		n, oobn, _, _, err := unix.Recvmsg(s.out, text, oob, flags|unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return e, nil, err
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		for i := range messages {
			some, rightsErr := unix.ParseUnixRights(&messages[i])
			fds, err = append(fds, some...), errors.Join(err, rightsErr)
		}
		return decodeEntry(text[:n]), fds, err
	}
}

func closeFds(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
