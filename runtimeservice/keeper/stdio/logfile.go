package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// logFile is the CRI log of one container, appended to by its streams. A write error (a full disk) loses the lines
// but never stops the container; it is reported when it begins.
type logFile struct {
	path string
	warn func(error)

	mu      sync.Mutex
	file    *os.File // nil: discard
	closed  bool
	out     logs.Splitter
	err     logs.Splitter
	buf     []byte
	torn    bool // the last write ended inside a line
	failing bool
}

// openLog opens the log for appending. With an error it returns a log that discards, until it is reopened.
func openLog(path string, warn func(error)) (*logFile, error) {
	l := &logFile{path: path, warn: warn, out: logs.Splitter{Stream: logs.Stdout}, err: logs.Splitter{Stream: logs.Stderr}}
	if path == "" {
		return l, nil
	}
	f, err := openAppend(path)
	l.file = f
	return l, err
}

func openAppend(path string) (*os.File, error) {
	const flags = os.O_APPEND | os.O_CREATE | os.O_WRONLY
	f, err := os.OpenFile(path, flags, 0o640)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("make directory of log: %w", err)
		}
		f, err = os.OpenFile(path, flags, 0o640)
	}
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// reopen goes on in a new file at the same path; the old one has been renamed.
func (l *logFile) reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := openAppend(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	old := l.file
	if l.closed {
		old = f
	} else {
		l.file, l.torn = f, false
	}
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

// write appends what was read of a stream. The spool, which may be nil, is told where.
func (l *logFile) write(stream logs.Stream, chunk []byte, from *spool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append(stream, from, func(s *logs.Splitter, dst []byte, now time.Time) []byte { return s.Append(dst, chunk, now) })
}

// end closes an unfinished line of the stream.
func (l *logFile) end(stream logs.Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append(stream, nil, (*logs.Splitter).End)
}

// append is called with the lock held.
func (l *logFile) append(stream logs.Stream, from *spool, format func(*logs.Splitter, []byte, time.Time) []byte) {
	if l.file == nil {
		return
	}
	l.buf = l.buf[:0]
	if l.torn {
		l.buf = append(l.buf, '\n')
	}
	l.buf = format(l.splitter(stream), l.buf, time.Now())
	if len(l.buf) == 0 {
		return
	}
	if from != nil {
		l.note(from)
	}
	l.put(l.buf)
	if cap(l.buf) > keepBuffer {
		l.buf = nil
	}
}

func (l *logFile) splitter(stream logs.Stream) *logs.Splitter {
	if stream == logs.Stderr {
		return &l.err
	}
	return &l.out
}

// note marks in the spool where the buffer is going to be. Without a mark a kill repeats some lines at worst.
func (l *logFile) note(in *spool) {
	if m, ok := l.place(); ok {
		m.Size = int64(len(l.buf))
		_ = in.note(m)
	}
}

// place is the end of the log.
func (l *logFile) place() (mark, bool) {
	var st unix.Stat_t
	if err := unix.Fstat(int(l.file.Fd()), &st); err != nil {
		return mark{}, false
	}
	return mark{Dev: st.Dev, Ino: st.Ino, At: st.Size}, true
}

// complete writes what an earlier keeper had taken from a stream, but for what it had written at the mark already.
func (l *logFile) complete(stream logs.Stream, chunk []byte, m mark, from *spool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	text := l.splitter(stream).Append(nil, chunk, time.Now())
	if m == (mark{}) {
		l.buf = text
		l.note(from)
	}
	now, ok := l.place()
	if written := now.At - m.At; m.Size > 0 && ok && now.Dev == m.Dev && now.Ino == m.Ino && written > 0 {
		if m.Size > int64(len(text)) { // it began by ending a torn line
			text = append([]byte{'\n'}, text...)
		}
		text = text[min(int64(len(text)), written):]
	}
	if len(text) > 0 {
		l.put(text)
	}
}

// resume learns from the end of the log how an earlier keeper has left it.
func (l *logFile) resume() {
	if l.file == nil {
		return
	}
	tail, err := readTail(l.path)
	if err != nil {
		return
	}
	l.torn = len(tail) > 0 && tail[len(tail)-1] != '\n'
	l.out, l.err = logs.Resume(logs.Stdout, tail), logs.Resume(logs.Stderr, tail)
}

// tailSize is how much of a log's end is looked at: a few of the longest entries.
const tailSize = 4 * logs.MaxContent

func readTail(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tail := make([]byte, min(tailSize, info.Size()))
	n, err := f.ReadAt(tail, info.Size()-int64(len(tail)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return tail[:n], nil
}

// put writes to the file, and tells when lines begin to be lost.
func (l *logFile) put(text []byte) {
	n, err := l.file.Write(text)
	l.torn = n > 0 && text[n-1] != '\n' || n == 0 && l.torn
	if err != nil && !l.failing {
		l.warn(fmt.Errorf("write log, lines are lost: %w", err))
	}
	l.failing = err != nil
}

// keepBuffer is what an idle container may hold for its next line.
const keepBuffer = 4 << 10

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}
