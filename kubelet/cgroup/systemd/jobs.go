package systemd

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// jobs are those that systemd has told to be over, for as long as somebody may wait for one of them.
type jobs struct {
	followed sync.WaitGroup // connections

	mu      sync.Mutex
	waiting int
	over    map[dbus.ObjectPath]string // results
	changed chan struct{}              // closed when there is another one
}

// follow takes in what a connection tells, until it is closed.
func (j *jobs) follow(conn *dbus.Conn) {
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals) // it closes the channel when the connection ends
	j.followed.Add(1)
	go func() {
		defer j.followed.Done()
		for s := range signals {
			if s.Name == manager+".JobRemoved" && len(s.Body) == 4 {
				path, _ := s.Body[1].(dbus.ObjectPath)
				result, _ := s.Body[3].(string)
				j.ended(path, result)
			}
		}
	}()
}

func (j *jobs) ended(path dbus.ObjectPath, result string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.waiting == 0 {
		return // a job of somebody else's
	}
	j.over[path] = result
	close(j.changed)
	j.changed = make(chan struct{})
}

// begin and end stand around a call that begins a job.
func (j *jobs) begin() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.waiting == 0 {
		j.over, j.changed = map[dbus.ObjectPath]string{}, make(chan struct{})
	}
	j.waiting++
}

func (j *jobs) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.waiting--; j.waiting == 0 {
		j.over = nil
	}
}

// wait waits for the end of a job and returns its result.
func (j *jobs) wait(conn *dbus.Conn, path dbus.ObjectPath) (string, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		j.mu.Lock()
		result, over := j.over[path]
		changed := j.changed
		j.mu.Unlock()
		if over {
			return result, nil
		}
		select {
		case <-changed:
		case <-conn.Context().Done():
			return "", errors.New("the connection was lost")
		case <-late.C:
			return "", fmt.Errorf("the job is not over after %s", patience)
		}
	}
}
