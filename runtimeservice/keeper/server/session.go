package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	rt "runtime"
	"runtime/debug"
	"time"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/handover"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/keeper/stdio"
	"github.com/skiff-node/skiff/runtimeservice/keeper/wire"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// helloTimeout bounds how long a peer may take to introduce itself.
const helloTimeout = 10 * time.Second

// call is one request being answered. A method that takes a file over sets it to nil in files; what is left is closed.
type call struct {
	on    *session
	body  json.RawMessage
	files []*os.File
	reply []*os.File // sent with the answer, then closed
	then  func()     // called when the answer is sent

	pending *handover.Pending // set when an answer is to be awaited
	now     bool              // answer now as well
}

func (c *call) decode(v any) error {
	if err := json.Unmarshal(c.body, v); err != nil {
		return fmt.Errorf("%w: body: %w", keeper.ErrInvalid, err)
	}
	return nil
}

// method answers one call.
type method func(s api, ctx context.Context, c *call) (any, error)

// session is one connection. Between two requests, and while an answer is awaited, it can be parked: then it is all that
// a successor needs to go on with it.
type session struct {
	conn    *wire.Conn
	greeted bool
	pending *handover.Pending
	busy    chan struct{} // holds one while a request is carried out
}

func newSession(conn *wire.Conn) *session {
	return &session{conn: conn, busy: make(chan struct{}, 1)}
}

// lines are the connections.
type lines struct{ *Server }

// serve answers one connection until it ends or is parked.
func (s lines) serve(ctx context.Context, c *session) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, c)
	}()
	// The keeper stops when it is told to, even with peers that are silent.
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		err := s.step(ctx, c)
		switch {
		case err == nil:
			continue
		case errors.Is(err, errParked) && ctx.Err() == nil:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.parked = append(s.parked, c)
			return
		case !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil:
			s.cfg.Log.Warn("connection ends", "error", err)
		}
		c.conn.Close()
		return
	}
}

// errParked says that the gate is closed.
var errParked = errors.New("parked")

// step brings a session one message on. Its error is the connection's.
func (s lines) step(ctx context.Context, c *session) error {
	if c.pending != nil {
		return s.settle(ctx, c)
	}
	err := c.conn.AwaitInput()
	if !s.gate.Enter() {
		return errParked
	}
	defer s.gate.Leave()
	if err != nil {
		return err
	}
	if !c.greeted {
		if err := s.greet(c.conn); err != nil {
			return err
		}
		c.greeted = true
		return nil
	}
	var req keeper.Request
	// A frame that has begun comes soon: the gate waits for it.
	c.conn.SetReadDeadline(time.Now().Add(frameTimeout))
	files, err := c.conn.Receive(&req)
	if err != nil {
		return err
	}
	c.conn.SetReadDeadline(time.Time{})
	if ctx.Err() != nil { // whose deadline this was
		wire.CloseAll(files)
		return ctx.Err()
	}
	return s.answer(ctx, c, req, files)
}

// frameTimeout bounds how long the rest of a frame may take.
const frameTimeout = 10 * time.Second

// greet checks who connects and that we speak the same protocol.
func (s lines) greet(conn *wire.Conn) error {
	uid, err := conn.PeerUID()
	if err != nil {
		return err
	}
	if uid != 0 && int(uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not use the keeper", uid)
	}
	conn.SetDeadline(time.Now().Add(helloTimeout))
	var theirs keeper.Hello
	files, err := conn.Receive(&theirs)
	wire.CloseAll(files)
	if err != nil {
		return fmt.Errorf("receive hello: %w", err)
	}
	ours := keeper.Hello{Major: keeper.VersionMajor, Minor: keeper.VersionMinor, Pid: os.Getpid(), Build: s.cfg.Build}
	if err := conn.Send(ours); err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	if theirs.Major != keeper.VersionMajor {
		return fmt.Errorf("peer speaks protocol %d.%d, we %d.%d", theirs.Major, theirs.Minor, keeper.VersionMajor, keeper.VersionMinor)
	}
	return conn.SetDeadline(time.Time{})
}

// answer carries one request out, or begins to: what it leaves pending is settled later.
func (s lines) answer(ctx context.Context, on *session, req keeper.Request, files []*os.File) error {
	c := &call{on: on, body: req.Body, files: files}
	on.busy <- struct{}{}
	defer func() { <-on.busy }()
	body, err := s.dispatch(ctx, req.Method, c)
	wire.CloseAll(c.files)
	defer wire.CloseAll(c.reply)
	if c.then != nil {
		defer c.then()
	}
	if err == nil && c.pending != nil {
		on.pending = c.pending
		if !c.now {
			return nil
		}
	}
	return reply(on.conn, body, err, c.reply...)
}

func reply(conn *wire.Conn, body any, err error, files ...*os.File) error {
	out := keeper.Reply{}
	if err != nil {
		out.Code, out.Error = code(err), err.Error()
	} else if out.Body, err = json.Marshal(body); err != nil {
		out.Code, out.Error = keeper.CodeInternal, err.Error()
	}
	return conn.Send(out, files...)
}

// dispatch turns a panic of one call into its error: the keeper is the parent of all the other containers.
func (s lines) dispatch(ctx context.Context, name string, c *call) (body any, err error) {
	m, ok := methods[name]
	if !ok {
		return nil, fmt.Errorf("%w: unknown method %q", keeper.ErrInvalid, name)
	}
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("panic", "method", name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("keeper bug: %v (go %s)", p, rt.Version())
		}
	}()
	return m(api(s), ctx, c)
}

// settle waits for what a session's pending request is about, and answers it.
func (s lines) settle(ctx context.Context, c *session) error {
	p := c.pending
	switch p.Method {
	case keeper.MethodEvents:
		return s.stream(ctx, c)
	case keeper.MethodUpgrade:
		select {
		case <-s.gate.Changed(false):
			return errParked
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.upgraded:
			c.pending = nil
			return reply(c.conn, keeper.Upgraded{Build: s.cfg.Build}, err)
		}
	}
	exited, answer, err := s.awaited(p)
	if err == nil {
		select {
		case <-exited:
		case <-s.gate.Changed(false):
			return errParked
		case <-ctx.Done():
			return ctx.Err()
		}
		if !s.gate.Enter() {
			return errParked
		}
		defer s.gate.Leave()
	}
	c.pending = nil
	return reply(c.conn, answer(), err)
}

// awaited finds what a wait or an exec waits for, and what its answer is then.
func (s lines) awaited(p *handover.Pending) (exited <-chan struct{}, answer func() any, err error) {
	nothing := func() any { return nil }
	c, err := s.container(p.ID)
	if err != nil {
		return nil, nothing, err
	}
	if p.ExecID == "" {
		return c.exited, func() any { return c.row().Exit }, nil
	}
	e, err := c.execs.Find(p.ExecID)
	if err != nil {
		return nil, nothing, err
	}
	return e.Exited(), func() any {
		exit := c.execs.Tell(e)
		if p.Method == keeper.MethodExec {
			return keeper.ExecReply{Pid: e.Pid(), Exit: &exit}
		}
		return exit
	}, nil
}

// stream replays and then follows the journal until the peer goes away.
func (s lines) stream(ctx context.Context, c *session) error {
	wake, cancel := s.journal.Subscribe()
	defer cancel()
	input := make(chan error, 1)
	// The peer sends nothing more: what it sends, or its end, is the end.
	go func() { input <- c.conn.AwaitInput() }()
	for {
		for _, e := range s.journal.After(c.pending.After) {
			if err := c.conn.Send(e); err != nil {
				c.conn.SetReadDeadline(time.Unix(1, 0))
				<-input
				return err
			}
			c.pending.After = e.Seq
		}
		select {
		case <-ctx.Done():
			<-input // whose deadline has been set
			return ctx.Err()
		case <-s.gate.Changed(false):
			c.conn.SetReadDeadline(time.Unix(1, 0))
			if err := <-input; err == nil {
				return io.EOF
			}
			return errParked
		case <-input:
			return io.EOF
		case <-wake:
		}
	}
}

// code classifies an error for the peer.
func code(err error) string {
	for _, c := range []struct {
		is   error
		code string
	}{
		{keeper.ErrNotFound, keeper.CodeNotFound},
		{keeper.ErrExists, keeper.CodeExists},
		{keeper.ErrInvalid, keeper.CodeInvalid},
		{oci.ErrSpec, keeper.CodeInvalid},
		{stdio.ErrNoStream, keeper.CodeInvalid},
		{handover.ErrSuccessor, keeper.CodeInvalid},
		{keeper.ErrState, keeper.CodeState},
		{oci.ErrGone, keeper.CodeState},
		{proc.ErrGone, keeper.CodeState},
		{stdio.ErrEnded, keeper.CodeState},
	} {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return keeper.CodeInternal
}
