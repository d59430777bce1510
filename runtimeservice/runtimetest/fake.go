// Package runtimetest holds a stateful fake of the runtime service, for tests of those who call it. It keeps the rules
// of the life cycle and refuses what the real one refuses; nothing runs.
package runtimetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/hub"
)

// Fake is a runtime in memory. Exec answers from Commands.
type Fake struct {
	// Commands maps an argv, joined by spaces, to its outcome; others end with code 127.
	Commands map[string]runtimeservice.ExecResult

	mu          sync.Mutex
	next        int
	sandboxes   map[string]*runtimeservice.Sandbox
	containers  map[string]*runtimeservice.Container
	checkpoints map[string]map[string]bool // by path: the names of the containers
	cidrs       []netip.Prefix
	hub         hub.Hub
}

// NewFake makes an empty runtime.
func NewFake() *Fake {
	return &Fake{
		Commands:  map[string]runtimeservice.ExecResult{},
		sandboxes: map[string]*runtimeservice.Sandbox{}, containers: map[string]*runtimeservice.Container{},
		checkpoints: map[string]map[string]bool{},
	}
}

// Service is the fake by its roles.
func (f *Fake) Service() runtimeservice.Service {
	return runtimeservice.Service{
		Sandboxes: fakeSandboxes{f}, Containers: fakeContainers{f}, Processes: fakeProcesses{f},
		Meters: fakeMeters{f}, Events: &f.hub, Node: fakeNode{f}, Inspector: fakeNode{f},
		Checkpoints: fakeCheckpoints{f},
	}
}

// PodCIDRs are those of the last SetPodCIDRs.
func (f *Fake) PodCIDRs() []netip.Prefix {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cidrs
}

// Exit ends a running container by itself.
func (f *Fake) Exit(id string, code int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.container(id)
	if err != nil {
		return err
	}
	if c.State != runtimeservice.ContainerRunning {
		return fmt.Errorf("container %s is %s: %w", id, c.State, runtimeservice.ErrState)
	}
	f.end(c, code)
	return nil
}

// id gives each object 64 digits, as the real ones have.
func (f *Fake) id() string {
	f.next++
	return fmt.Sprintf("%064x", f.next)
}

func (f *Fake) sandbox(id string) (*runtimeservice.Sandbox, error) {
	if s, ok := f.sandboxes[id]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("sandbox %q: %w", id, runtimeservice.ErrNotFound)
}

func (f *Fake) container(id string) (*runtimeservice.Container, error) {
	if c, ok := f.containers[id]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, runtimeservice.ErrNotFound)
}

func (f *Fake) end(c *runtimeservice.Container, code int) {
	c.State, c.ExitCode, c.FinishedAt, c.Pid = runtimeservice.ContainerExited, code, time.Now(), 0
	c.Reason = runtimeservice.ReasonCompleted
	if code != 0 {
		c.Reason = runtimeservice.ReasonError
	}
	f.tell(runtimeservice.EventStopped, c.ID, c.SandboxID)
}

func (f *Fake) tell(t runtimeservice.EventType, id, sandboxID string) {
	f.hub.Publish(func() runtimeservice.Event {
		e := runtimeservice.Event{ID: id, Type: t, At: time.Now()}
		if s, ok := f.sandboxes[sandboxID]; ok {
			copied := *s
			e.Sandbox = &copied
		}
		for _, c := range f.containers {
			if c.SandboxID == sandboxID {
				e.Containers = append(e.Containers, *c)
			}
		}
		return e
	})
}

type fakeSandboxes struct{ *Fake }

func (f fakeSandboxes) RunSandbox(_ context.Context, c runtimeservice.SandboxConfig) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Metadata.Name == "" || c.Metadata.Namespace == "" || c.Metadata.UID == "" {
		return "", fmt.Errorf("%w: config.metadata: name, namespace and uid are required", runtimeservice.ErrInvalid)
	}
	for id, s := range f.sandboxes {
		if s.Config.Metadata == c.Metadata && s.State == runtimeservice.SandboxReady {
			return id, nil
		}
	}
	s := &runtimeservice.Sandbox{ID: f.id(), Config: c, State: runtimeservice.SandboxReady, CreatedAt: time.Now()}
	if c.Security.Namespaces.Network != runtimeservice.NamespaceNode {
		s.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(f.next >> 8), byte(f.next)})}
	}
	f.sandboxes[s.ID] = s
	f.tell(runtimeservice.EventStarted, s.ID, s.ID)
	return s.ID, nil
}

func (f fakeSandboxes) StopSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.sandboxes[id]
	if !ok {
		return nil
	}
	for _, c := range f.containers {
		if c.SandboxID == id && c.State == runtimeservice.ContainerRunning {
			f.end(c, 137)
		}
	}
	s.State = runtimeservice.SandboxNotReady
	return nil
}

func (f fakeSandboxes) RemoveSandbox(ctx context.Context, id string) error {
	if err := f.StopSandbox(ctx, id); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.SandboxID == id {
			delete(f.containers, c.ID)
		}
	}
	delete(f.sandboxes, id)
	return nil
}

func (f fakeSandboxes) Sandbox(_ context.Context, id string) (runtimeservice.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.sandbox(id)
	if err != nil {
		return runtimeservice.Sandbox{}, err
	}
	return *s, nil
}

func (f fakeSandboxes) ListSandboxes(_ context.Context, filter runtimeservice.Filter) ([]runtimeservice.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []runtimeservice.Sandbox
	for _, s := range f.sandboxes {
		if filter.Matches(s.ID, string(s.State), s.Config.Labels) {
			out = append(out, *s)
		}
	}
	slices.SortFunc(out, func(a, b runtimeservice.Sandbox) int { return strings.Compare(b.ID, a.ID) })
	return out, nil
}

func (f fakeSandboxes) UpdateSandbox(_ context.Context, id string, overhead, resources *runtimeservice.Resources) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.sandbox(id)
	if err != nil {
		return err
	}
	s.Config.Overhead, s.Config.Resources = overhead, resources
	return nil
}

type fakeProcesses struct{ *Fake }

func (f fakeProcesses) running(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.container(id)
	if err == nil && c.State != runtimeservice.ContainerRunning {
		err = fmt.Errorf("container %s is %s: %w", id, c.State, runtimeservice.ErrState)
	}
	return err
}

func (f fakeProcesses) ExecSync(_ context.Context, id string, argv []string, _ time.Duration) (runtimeservice.ExecResult, error) {
	if err := f.running(id); err != nil {
		return runtimeservice.ExecResult{}, err
	}
	if r, ok := f.Commands[strings.Join(argv, " ")]; ok {
		return r, nil
	}
	return runtimeservice.ExecResult{ExitCode: 127}, nil
}

func (f fakeProcesses) Exec(ctx context.Context, id string, argv []string, s runtimeservice.Streams) (int, error) {
	r, err := f.ExecSync(ctx, id, argv, 0)
	if err != nil {
		return 0, err
	}
	if s.Stdout != nil {
		_, err = s.Stdout.Write(r.Stdout)
	}
	if s.Stderr != nil && err == nil {
		_, err = s.Stderr.Write(r.Stderr)
	}
	return r.ExitCode, err
}

// Attach echoes.
func (f fakeProcesses) Attach(_ context.Context, id string, s runtimeservice.Streams) error {
	if err := f.running(id); err != nil || s.Stdin == nil || s.Stdout == nil {
		return err
	}
	_, err := io.Copy(s.Stdout, s.Stdin)
	return err
}

// PortForward echoes.
func (f fakeProcesses) PortForward(_ context.Context, sandboxID string, _ uint16, rw io.ReadWriteCloser) error {
	f.mu.Lock()
	_, err := f.sandbox(sandboxID)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = io.Copy(rw, rw)
	return err
}

type fakeNode struct{ *Fake }

func (f fakeNode) Status(context.Context) runtimeservice.Status {
	return runtimeservice.Status{Handlers: []runtimeservice.Handler{{}, {Name: "runc"}}, Info: map[string]any{"fake": true}}
}

func (f fakeNode) SetPodCIDRs(_ context.Context, cidrs []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cidrs = cidrs
	return nil
}

func (f fakeNode) Spec(_ context.Context, id string) (json.RawMessage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.container(id)
	return json.RawMessage(`{"ociVersion":"1.3.0"}`), err
}
