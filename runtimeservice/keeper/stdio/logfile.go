package stdio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// logFile is the CRI log of one container, appended to by its streams. A write error (a full disk) loses the lines
// but never stops the container; it is reported when it begins.
type logFile struct {
	path string
	warn func(error)

	mu      sync.Mutex
	file    *os.File // nil: discard
	out     logs.Splitter
	err     logs.Splitter
	buf     []byte
	torn    bool // the last write ended inside a line
	failing bool
}

func openLog(path string, warn func(error)) (*logFile, error) {
	l := &logFile{path: path, warn: warn, out: logs.Splitter{Stream: logs.Stdout}, err: logs.Splitter{Stream: logs.Stderr}}
	if path == "" {
		return l, nil
	}
	f, err := openAppend(path)
	if err != nil {
		return nil, err
	}
	l.file = f
	return l, nil
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
	l.file, l.torn = f, false
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

func (l *logFile) write(stream logs.Stream, chunk []byte) {
	l.append(stream, func(s *logs.Splitter, dst []byte, now time.Time) []byte { return s.Append(dst, chunk, now) })
}

// end closes an unfinished line of the stream.
func (l *logFile) end(stream logs.Stream) {
	l.append(stream, (*logs.Splitter).End)
}

func (l *logFile) append(stream logs.Stream, format func(*logs.Splitter, []byte, time.Time) []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	splitter := &l.out
	if stream == logs.Stderr {
		splitter = &l.err
	}
	l.buf = l.buf[:0]
	if l.torn {
		l.buf = append(l.buf, '\n')
	}
	l.buf = format(splitter, l.buf, time.Now())
	if len(l.buf) == 0 {
		return
	}
	n, err := l.file.Write(l.buf)
	l.torn = n > 0 && l.buf[n-1] != '\n' || n == 0 && l.torn
	if err != nil && !l.failing {
		l.warn(fmt.Errorf("write log, lines are lost: %w", err))
	}
	l.failing = err != nil
	if cap(l.buf) > keepBuffer {
		l.buf = nil
	}
}

// keepBuffer is what an idle container may hold for its next line.
const keepBuffer = 4 << 10

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}
