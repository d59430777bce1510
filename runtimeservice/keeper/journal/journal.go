package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// Keep is how many events can be replayed; a client that was away for longer lists.
const Keep = 1024

// Journal numbers the events, keeps the last ones, and tells subscribers that there are new ones. On disk it is one
// JSON object a line, appended with one write each, so that only a last line can be torn; now and then it is
// rewritten by rename with the last Keep of them.
type Journal struct {
	path string

	mu     sync.Mutex
	file   *os.File
	lines  int
	last   uint64
	events []keeper.Event // the newest Keep, in order
	wake   map[chan struct{}]struct{}
}

// Open reads the journal. More are events that may not be in it.
func Open(path string, more ...keeper.Event) (*Journal, error) {
	j := &Journal{path: path, wake: map[chan struct{}]struct{}{}}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var e keeper.Event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Seq <= j.last {
			continue // torn
		}
		j.last = e.Seq
		j.remember(e)
	}
	for _, e := range more {
		if e.Seq > j.last {
			j.last = e.Seq
			j.remember(e)
		}
	}
	if err := j.rewrite(); err != nil {
		return nil, err
	}
	return j, nil
}

// rewrite replaces the file by the events that are remembered.
func (j *Journal) rewrite() error {
	var text []byte
	for _, e := range j.events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	temp := filepath.Join(filepath.Dir(j.path), ".journal.new")
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("rewrite journal: %w", err)
	}
	if _, err := f.Write(text); err != nil {
		f.Close()
		return fmt.Errorf("rewrite journal: %w", err)
	}
	if err := os.Rename(temp, j.path); err != nil {
		f.Close()
		return fmt.Errorf("rewrite journal: %w", err)
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.lines = f, len(j.events)
	return nil
}

func (j *Journal) remember(e keeper.Event) {
	j.events = append(j.events, e)
	if extra := len(j.events) - Keep; extra > 0 {
		j.events = append(j.events[:0], j.events[extra:]...)
	}
}

// Publish gives the event its number, writes it down and then announces it. When it cannot be written the event is
// announced all the same, and the error returned.
func (j *Journal) Publish(e keeper.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.Seq = j.last
	line, err := json.Marshal(e)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	j.remember(e)
	j.lines++
	if err == nil && j.lines > 4*Keep {
		err = j.rewrite()
	}
	for w := range j.wake {
		select {
		case w <- struct{}{}:
		default:
		}
	}
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// After returns the events that are remembered with a number greater than seq.
func (j *Journal) After(seq uint64) []keeper.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, e := range j.events {
		if e.Seq > seq {
			return append([]keeper.Event(nil), j.events[i:]...)
		}
	}
	return nil
}

func (j *Journal) Seq() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// Subscribe returns a channel that receives when there may be new events.
func (j *Journal) Subscribe() (wake <-chan struct{}, cancel func()) {
	w := make(chan struct{}, 1)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.wake[w] = struct{}{}
	return w, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.wake, w)
	}
}

func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}
