package stdio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// spool is where output is between a container's pipe and its log, so that a keeper that is killed there neither loses nor
// repeats a line. It is a file on a tmpfs, which outlives the keeper:
//
//	┌───────────────────────────────────────┬─────────────────┐
//	│ mark: log's device, inode, size; size │ output          │
//	└───────────────────────────────────────┴─────────────────┘
//	  take:  splice(2) moves from the pipe into the file, in one step that a kill cannot divide
//	  mark:  where the log is going to be written, just before it is
//	  clear: the file is emptied when the log is written
//
// The next keeper finds the file empty, or not marked: then nothing of it is in the log; or marked: then the log's size
// says how much of it is.
type spool struct {
	file *os.File
}

// mark is where a chunk is about to be written to, and how long it is there. A chunk is never empty, so a mark of zeros
// is none.
type mark struct {
	Dev, Ino uint64
	At, Size int64
}

const markSize = 32

func openSpool(path string) (*spool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	return &spool{file: f}, nil
}

// take moves what is in the pipe into the empty spool, and reads it.
func (s *spool) take(pipe int, chunk []byte) (int, error) {
	n, err := s.splice(pipe, len(chunk))
	if err != nil || n == 0 {
		return 0, err
	}
	return s.file.ReadAt(chunk[:n], markSize)
}

func (s *spool) splice(pipe, most int) (int, error) {
	for {
		at := int64(markSize)
		n, err := unix.Splice(pipe, nil, int(s.file.Fd()), &at, most, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return int(n), err
		}
	}
}

// note marks where the chunk is going to be.
func (s *spool) note(m mark) error {
	text, err := binary.Append(nil, binary.LittleEndian, m)
	if err != nil {
		return err
	}
	_, err = s.file.WriteAt(text, 0)
	return err
}

func (s *spool) clear() {
	_ = unix.Ftruncate(int(s.file.Fd()), 0)
}

// left is what an earlier keeper did not come to clear.
func (s *spool) left() (chunk []byte, m mark, err error) {
	text, err := os.ReadFile(s.file.Name())
	if err != nil || len(text) <= markSize {
		return nil, m, err
	}
	if _, err := binary.Decode(text[:markSize], binary.LittleEndian, &m); err != nil {
		return nil, m, err
	}
	return text[markSize:], m, nil
}

// unspoolable tells that a pipe cannot be spliced into this file: the run directory is on no tmpfs, or it is full.
func unspoolable(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM)
}

// recoverSpools writes to the log what an earlier keeper took from the pipes and did not write, or not wholly.
func recoverSpools(log *logFile, spools map[logs.Stream]*spool) error {
	type rest struct {
		stream logs.Stream
		chunk  []byte
		mark   mark
	}
	var begun, untouched []rest
	for stream, sp := range spools {
		chunk, m, err := sp.left()
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		switch {
		case len(chunk) == 0:
		case m == mark{}:
			untouched = append(untouched, rest{stream, chunk, m})
		default:
			begun = append(begun, rest{stream, chunk, m})
		}
	}
	// First what the log may end in the middle of.
	for _, r := range append(begun, untouched...) {
		log.complete(r.stream, r.chunk, r.mark, spools[r.stream])
		spools[r.stream].clear()
	}
	return nil
}
