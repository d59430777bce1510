// Package daemon is `skiff server`: the components of one machine in one process, started in the order of their
// needs, watched, and stopped together.
//
// A component is named, says when it is ready, and runs until its context ends. A component whose Run returns before
// that has failed; the server then stops the others and says which one it was, why, and where its log is. What the
// components are made of is in wire.go; this file only knows the order.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Component is one part of the server.
type Component struct {
	Name  string
	After []string // components that must be ready first
	Log   string   // where people read more
	// Start runs the component until ctx ends. It calls ready once, when others may rely on it; detail is for
	// people. A nil return before ctx ended counts as a failure too.
	Start func(ctx context.Context, ready func(detail string)) error
}

// State of a component.
type State string

// The states of a component: waiting ─► starting ─► ready ─► stopped, and failed from any.
const (
	Waiting  State = "waiting"
	Starting State = "starting"
	Ready    State = "ready"
	Failed   State = "failed"
	Stopped  State = "stopped"
)

// Status is what is known of a component now.
type Status struct {
	Name   string    `json:"name"`
	State  State     `json:"state"`
	Detail string    `json:"detail,omitempty"`
	Pid    int       `json:"pid,omitempty"`
	Log    string    `json:"log,omitempty"`
	Since  time.Time `json:"since"`
}

// Server runs components.
type Server struct {
	components []Component
	changed    func(Status)

	mu     sync.Mutex
	status map[string]Status
	ready  map[string]chan struct{}
	all    chan struct{}
}

// New makes a server. changed, when not nil, is told of every change of a component, one at a time.
func New(components []Component, changed func(Status)) (*Server, error) {
	s := &Server{components: components, changed: changed, status: map[string]Status{}, ready: map[string]chan struct{}{}, all: make(chan struct{})}
	for _, c := range components {
		if s.ready[c.Name] != nil {
			return nil, fmt.Errorf("component %q is there twice", c.Name)
		}
		for _, need := range c.After {
			if s.ready[need] == nil {
				return nil, fmt.Errorf("component %q needs %q, which does not stand before it", c.Name, need)
			}
		}
		s.ready[c.Name] = make(chan struct{})
		s.status[c.Name] = Status{Name: c.Name, State: Waiting, Log: c.Log, Since: time.Now()}
	}
	return s, nil
}

// Ready is closed when every component has been ready once.
func (s *Server) Ready() <-chan struct{} { return s.all }

// Status lists the components in their order.
func (s *Server) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Status
	for _, c := range s.components {
		out = append(out, s.status[c.Name])
	}
	return out
}

// Run starts everything and blocks until ctx ends (nil) or a component fails (its error, named).
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range s.components {
		g.Go(func() error { return s.run(ctx, c) })
	}
	g.Go(func() error {
		for _, c := range s.components {
			select {
			case <-s.ready[c.Name]:
			case <-ctx.Done():
				return nil
			}
		}
		close(s.all)
		return nil
	})
	return g.Wait()
}

func (s *Server) run(ctx context.Context, c Component) error {
	for _, need := range c.After {
		select {
		case <-s.ready[need]:
		case <-ctx.Done():
			s.set(c, Stopped, "")
			return nil
		}
	}
	s.set(c, Starting, "")
	var once sync.Once
	err := c.Start(ctx, func(detail string) {
		s.set(c, Ready, detail)
		once.Do(func() { close(s.ready[c.Name]) })
	})
	if ctx.Err() != nil {
		s.set(c, Stopped, "")
		return nil
	}
	if err == nil {
		err = errors.New("it ended by itself")
	}
	s.set(c, Failed, err.Error())
	if c.Log != "" {
		return fmt.Errorf("%s: %w (log: %s)", c.Name, err, c.Log)
	}
	return fmt.Errorf("%s: %w", c.Name, err)
}

func (s *Server) set(c Component, state State, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Name: c.Name, State: state, Detail: detail, Log: c.Log, Since: time.Now()}
	s.status[c.Name] = st
	slog.Info("component", "name", c.Name, "state", state, "detail", detail)
	if s.changed != nil {
		s.changed(st)
	}
}
