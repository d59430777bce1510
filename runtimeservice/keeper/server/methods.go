package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/handover"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// api answers the methods: it decodes, finds the container, and calls it.
type api struct {
	*Server
}

// methods is the protocol's table.
var methods = map[string]method{
	keeper.MethodCreate:     api.create,
	keeper.MethodStart:      api.start,
	keeper.MethodKill:       api.kill,
	keeper.MethodDelete:     api.remove,
	keeper.MethodUpdate:     api.update,
	keeper.MethodCheckpoint: api.checkpoint,
	keeper.MethodExec:       api.exec,
	keeper.MethodWait:       api.wait,
	keeper.MethodAttach:     api.attach,
	keeper.MethodResize:     api.resize,
	keeper.MethodReopenLog:  api.reopenLog,
	keeper.MethodList:       api.list,
	keeper.MethodEvents:     api.events,
	keeper.MethodShutdown:   api.shutdown,
	keeper.MethodUpgrade:    api.upgrade,
	keeper.MethodTakeOver:   api.takeOver,
}

func (s api) create(ctx context.Context, c *call) (any, error) {
	var req keeper.Create
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if err := validID(req.ID); err != nil {
		return nil, err
	}
	if err := s.claim(req.ID); err != nil {
		return nil, err
	}
	defer s.unclaim(req.ID)
	spec := req.Spec
	req.Spec = nil
	made := s.newContainer(record{Version: recordVersion, Create: req, Row: keeper.Container{ID: req.ID}})
	if err := made.create(ctx, spec); err != nil {
		return nil, err
	}
	s.add(made)
	row := made.row()
	return keeper.Started{Pid: row.Pid, At: row.CreatedAt}, nil
}

// validID keeps a name from being a path.
func validID(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > 255 || strings.ContainsAny(id, "/\x00") {
		return fmt.Errorf("%w: container id %q", keeper.ErrInvalid, id)
	}
	return nil
}

func (s api) claim(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, busy := s.making[id]
	if _, taken := s.table[id]; taken || busy {
		return fmt.Errorf("%w: container %s", keeper.ErrExists, id)
	}
	s.making[id] = struct{}{}
	return nil
}

func (s api) unclaim(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.making, id)
}

// target decodes a request that names a container, and finds it.
func (s api) target(c *call, req any, id *string) (*container, error) {
	if err := c.decode(req); err != nil {
		return nil, err
	}
	return s.container(*id)
}

func (s api) start(ctx context.Context, c *call) (any, error) {
	var req keeper.Target
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	return on.start(ctx)
}

func (s api) kill(ctx context.Context, c *call) (any, error) {
	var req keeper.Kill
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	if req.Signal < 0 || req.Signal > 64 {
		return nil, fmt.Errorf("%w: signal %d", keeper.ErrInvalid, req.Signal)
	}
	if req.ExecID != "" {
		return struct{}{}, on.execs.Kill(req.ExecID, req.Signal, req.All)
	}
	return struct{}{}, on.kill(ctx, req.Signal, req.All)
}

func (s api) remove(ctx context.Context, c *call) (any, error) {
	var req keeper.Target
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	if err := on.remove(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table[req.ID] == on {
		delete(s.table, req.ID)
	}
	return struct{}{}, nil
}

func (s api) update(ctx context.Context, c *call) (any, error) {
	var req keeper.Update
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	if err := on.may(doUpdate); err != nil {
		return nil, err
	}
	return struct{}{}, on.runtime.Update(ctx, req.ID, req.Resources)
}

// checkpointer is a runtime that can write a container to files.
type checkpointer interface {
	Checkpoint(ctx context.Context, id, images string, pipes map[int]string) error
}

func (s api) checkpoint(ctx context.Context, c *call) (any, error) {
	var req keeper.Checkpoint
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	if err := on.may(doExec); err != nil { // the same states
		return nil, err
	}
	runtime, ok := on.runtime.(checkpointer)
	if !ok {
		return nil, fmt.Errorf("%w: the runtime of container %s writes no checkpoints", keeper.ErrState, req.ID)
	}
	return struct{}{}, runtime.Checkpoint(ctx, req.ID, req.Images, on.streamsConfig().Named())
}

func (s api) exec(ctx context.Context, c *call) (any, error) {
	var req keeper.Exec
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	in, out, errs, err := c.streams(req.Stdin, req.Stdout, req.Stderr)
	if err != nil {
		return nil, err
	}
	if req.TTY && len(c.files) > 0 {
		return nil, fmt.Errorf("%w: an exec with a terminal takes no files: it returns the master", keeper.ErrInvalid)
	}
	for _, f := range c.files {
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil { // programs expect it so
			return nil, fmt.Errorf("prepare stream: %w", err)
		}
	}
	e, master, err := on.execs.Start(ctx, req, oci.IO{Stdin: in, Stdout: out, Stderr: errs, TTY: req.TTY})
	if err != nil {
		return nil, err
	}
	s.work.Go(func() { e.Watch(s.gate) })
	c.closeFiles() // or a reader of the process's output would never see its end
	if master != nil {
		// Hung up before the program is executed, the signal could be lost with what executes it.
		awaitProgram(e.Pid())
		c.reply = append(c.reply, master)
	}
	if !req.Wait {
		return keeper.ExecReply{Pid: e.Pid()}, nil
	}
	c.pending = &handover.Pending{Method: keeper.MethodExec, ID: req.ID, ExecID: req.ExecID}
	return nil, nil
}

// streams distributes the files that came with a call.
func (c *call) streams(in, out, errs bool) (stdin, stdout, stderr *os.File, err error) {
	files := c.files
	for _, want := range []struct {
		named bool
		to    **os.File
	}{{in, &stdin}, {out, &stdout}, {errs, &stderr}} {
		if !want.named {
			continue
		}
		if len(files) == 0 {
			return nil, nil, nil, fmt.Errorf("%w: fewer files than streams", keeper.ErrInvalid)
		}
		*want.to, files = files[0], files[1:]
	}
	if len(files) > 0 {
		return nil, nil, nil, fmt.Errorf("%w: more files than streams", keeper.ErrInvalid)
	}
	return stdin, stdout, stderr, nil
}

func (c *call) closeFiles() {
	for i, f := range c.files {
		f.Close()
		c.files[i] = nil
	}
}

func (s api) wait(_ context.Context, c *call) (any, error) {
	var req keeper.Target
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	c.pending = &handover.Pending{Method: keeper.MethodWait, ID: req.ID, ExecID: req.ExecID}
	return nil, nil
}

// events answers at once; the events follow.
func (s api) events(_ context.Context, c *call) (any, error) {
	var since keeper.Since
	if err := c.decode(&since); err != nil {
		return nil, err
	}
	c.pending, c.now = &handover.Pending{Method: keeper.MethodEvents, After: since.After}, true
	return struct{}{}, nil
}

// takeOver waits for the calls of other sessions, and kills execs without waiting until they are gone.
func (s api) takeOver(ctx context.Context, c *call) (any, error) {
	for _, other := range s.others(c.on) {
		select {
		case other.busy <- struct{}{}:
			<-other.busy
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var errs []error
	for _, on := range s.containers() {
		for _, id := range on.execs.Running() {
			if err := on.execs.Kill(id, int(unix.SIGKILL), true); err != nil && !errors.Is(err, proc.ErrGone) && !errors.Is(err, keeper.ErrNotFound) {
				errs = append(errs, fmt.Errorf("end exec %s in %s: %w", id, on.id(), err))
			}
		}
	}
	return struct{}{}, errors.Join(errs...)
}

// others are the sessions but one.
func (s api) others(than *session) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*session
	for c := range s.sessions {
		if c != than {
			out = append(out, c)
		}
	}
	return out
}

// upgrade looks at the binary; the rest is done when no call is under way, this one included.
func (s api) upgrade(ctx context.Context, c *call) (any, error) {
	if len(c.files) != 1 {
		return nil, fmt.Errorf("%w: an upgrade carries one file, the new binary", keeper.ErrInvalid)
	}
	if err := upgrader(s).begin(ctx, c.files[0]); err != nil {
		return nil, err
	}
	c.files = nil
	c.pending = &handover.Pending{Method: keeper.MethodUpgrade}
	return nil, nil
}

func (s api) attach(_ context.Context, c *call) (any, error) {
	var req keeper.Attach
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	if err := on.may(doAttach); err != nil {
		return nil, err
	}
	in, out, errs, err := c.streams(req.Stdin, req.Stdout, req.Stderr)
	if err != nil {
		return nil, err
	}
	c.files = nil
	return struct{}{}, on.streams.Attach(in, out, errs)
}

func (s api) resize(_ context.Context, c *call) (any, error) {
	var req keeper.Resize
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	return struct{}{}, on.resize(req)
}

func (s api) reopenLog(_ context.Context, c *call) (any, error) {
	var req keeper.Target
	on, err := s.target(c, &req, &req.ID)
	if err != nil {
		return nil, err
	}
	return struct{}{}, on.streams.Reopen()
}

func (s api) list(context.Context, *call) (any, error) {
	seq := s.journal.Seq() // before the rows: an event twice is harmless, one missed is not
	out := keeper.Listing{Seq: seq, Containers: []keeper.Container{}}
	for _, c := range s.containers() {
		if row := c.row(); row.State != nothing {
			out.Containers = append(out.Containers, row)
		}
	}
	sort.Slice(out.Containers, func(i, k int) bool { return out.Containers[i].ID < out.Containers[k].ID })
	return out, nil
}

func (s api) shutdown(_ context.Context, c *call) (any, error) {
	for _, c := range s.containers() {
		if state := c.row().State; state == keeper.Created || state == keeper.Running {
			return nil, fmt.Errorf("%w: container %s is %s", keeper.ErrState, c.id(), state)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.making) > 0 {
		return nil, fmt.Errorf("%w: a container is being created", keeper.ErrState)
	}
	c.then = func() {
		s.store.Release()
		s.stop()
	}
	return struct{}{}, nil
}
