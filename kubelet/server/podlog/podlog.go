// Package podlog reads container logs in the format of CRI, and follows them while the container runs:
//
//	2026-11-22T19:30:00.000000001Z stdout F a whole line, or the end of one
//	2026-11-22T19:30:00.000000002Z stderr P the beginning of a line that the runtime has cut
//
// A log that is followed may be rotated at any moment: it is renamed, and the runtime opens a new one at the old path. The
// directory is watched before the log is opened, and at each end of the file the path is compared with what is open. So
// no rotation goes unseen, whenever it falls: what is left in the old file is read to its end, then the new one.
package podlog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options say what to read.
type Options struct {
	// Path of the log.
	Path string
	// Tail is how many lines before the end to begin at; negative means at the beginning.
	Tail int64
	// Limit is the most bytes to write; negative means no limit.
	Limit int64
	// Since leaves out lines that are older.
	Since time.Time
	// Timestamps puts the time before each line.
	Timestamps bool
	// Follow goes on until ctx ends or Running says false.
	Follow bool
	// Running tells whether the container may still write. Needed with Follow.
	Running func(ctx context.Context) (bool, error)
	// Stdout and Stderr take the lines; a stream whose writer is nil is left out.
	Stdout, Stderr io.Writer
}

// lookAgain is when a log that is followed is looked at without an event: some file systems send none.
const lookAgain = time.Second

// Read writes the log as the options say.
func Read(ctx context.Context, o Options) error {
	r := &reader{Options: o, out: printer{limit: o.Limit, timestamps: o.Timestamps, fresh: true}}
	if o.Follow {
		watch, err := fsnotify.NewWatcher()
		if err != nil {
			return fmt.Errorf("watch log: %w", err)
		}
		defer watch.Close()
		real, err := filepath.EvalSymlinks(o.Path)
		if err != nil {
			return fmt.Errorf("find log: %w", err)
		}
		if err := watch.Add(filepath.Dir(real)); err != nil {
			return fmt.Errorf("watch the directory of log %s: %w", real, err)
		}
		r.watch = watch
	}
	f, err := os.Open(o.Path)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	r.use(f)
	defer func() { r.file.Close() }()
	if err := r.seek(); err != nil {
		return fmt.Errorf("find the last %d lines of log %s: %w", o.Tail, o.Path, err)
	}
	err = r.run(ctx)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// reader reads one log.
type reader struct {
	Options
	out   printer
	watch *fsnotify.Watcher // nil unless it follows
	file  *os.File
	buf   *bufio.Reader
	part  []byte // the beginning of a line whose end is not written yet
}

func (r *reader) use(f *os.File) { r.file, r.buf = f, bufio.NewReader(f) }

// run writes lines until there are no more.
func (r *reader) run(ctx context.Context) error {
	last := false
	for {
		if err := r.drain(); err != nil {
			return err
		}
		if !r.Follow || last {
			return r.line(r.part) // a line without its end, should there be one
		}
		renewed, err := r.renew()
		if err != nil {
			return err
		}
		if renewed {
			continue
		}
		running, err := r.Running(ctx)
		if err != nil {
			return err
		}
		if !running {
			last = true // it may have written since the end was seen
			continue
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
}

// drain writes what the open file holds, up to its last whole line.
func (r *reader) drain() error {
	for {
		text, err := r.buf.ReadBytes('\n')
		r.part = append(r.part, text...)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		line := r.part
		r.part = nil
		if err := r.line(line); err != nil {
			return err
		}
	}
}

// line writes one line, if it is wanted. What is not in the format is left out.
func (r *reader) line(raw []byte) error {
	e, ok := parse(raw)
	if !ok || e.time.Before(r.Since) {
		return nil
	}
	w := r.Stdout
	if e.stderr {
		w = r.Stderr
	}
	if w == nil {
		return nil
	}
	return r.out.print(w, &e)
}

// renew takes up the file that is at the path now, if it is another than the open one. By then the runtime writes to the
// new one only, so the old one is first read to its end.
func (r *reader) renew() (bool, error) {
	now, err := os.Stat(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // just renamed
	}
	if err != nil {
		return false, fmt.Errorf("look at log: %w", err)
	}
	if open, err := r.file.Stat(); err != nil || os.SameFile(open, now) {
		return false, err
	}
	if err := r.drain(); err != nil {
		return false, err
	}
	f, err := os.Open(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open rotated log: %w", err)
	}
	old, part := r.file, r.part
	r.use(f)
	r.part = nil
	return true, errors.Join(old.Close(), r.line(part))
}

// wait waits for a change in the log's directory.
func (r *reader) wait(ctx context.Context) error {
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.watch.Events:
	case err := <-r.watch.Errors:
		if !errors.Is(err, fsnotify.ErrEventOverflow) {
			return fmt.Errorf("watch log: %w", err)
		}
	case <-timer.C:
	}
	return nil
}

// seek goes to the beginning of the last Tail lines.
func (r *reader) seek() error {
	if r.Tail < 0 {
		return nil
	}
	end, err := r.file.Seek(0, io.SeekEnd)
	if err != nil || r.Tail == 0 {
		return err
	}
	const block = 64 << 10
	buf := make([]byte, block)
	found := int64(0)
	for at := end; at > 0; {
		n := min(at, block)
		at -= n
		if _, err := r.file.ReadAt(buf[:n], at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] != '\n' || at+i == end-1 { // the end of the last line begins none
				continue
			}
			if found++; found == r.Tail {
				_, err := r.file.Seek(at+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = r.file.Seek(0, io.SeekStart)
	return err
}
