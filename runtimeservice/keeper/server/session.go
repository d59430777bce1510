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
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/keeper/stdio"
	"github.com/skiff-node/skiff/runtimeservice/keeper/wire"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// helloTimeout bounds how long a peer may take to introduce itself.
const helloTimeout = 10 * time.Second

// call is one request being answered. A method that takes a file over sets it to nil in files; what is left is closed.
type call struct {
	body  json.RawMessage
	files []*os.File
	reply []*os.File // sent with the answer, then closed
	then  func()     // called when the answer is sent
}

func (c *call) decode(v any) error {
	if err := json.Unmarshal(c.body, v); err != nil {
		return fmt.Errorf("%w: body: %w", keeper.ErrInvalid, err)
	}
	return nil
}

// method answers one call.
type method func(s api, ctx context.Context, c *call) (any, error)

// serve answers one connection until it ends.
func (s *Server) serve(ctx context.Context, conn *wire.Conn) {
	defer conn.Close()
	// The keeper stops when it is told to, even with peers that are silent.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.greet(conn); err != nil {
		s.cfg.Log.Warn("refused a connection", "error", err)
		return
	}
	for {
		var req keeper.Request
		files, err := conn.Receive(&req)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
				s.cfg.Log.Warn("connection ends", "error", err)
			}
			return
		}
		if req.Method == keeper.MethodEvents {
			wire.CloseAll(files)
			s.stream(ctx, conn, req.Body)
			return
		}
		if err := s.answer(ctx, conn, req, files); err != nil {
			return
		}
	}
}

// greet checks who connects and that we speak the same protocol.
func (s *Server) greet(conn *wire.Conn) error {
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

// answer carries one request out. Its error is the connection's.
func (s *Server) answer(ctx context.Context, conn *wire.Conn, req keeper.Request, files []*os.File) error {
	c := &call{body: req.Body, files: files}
	body, err := s.dispatch(ctx, req.Method, c)
	wire.CloseAll(c.files)
	defer wire.CloseAll(c.reply)
	reply := keeper.Reply{}
	if err != nil {
		reply.Code, reply.Error = code(err), err.Error()
	} else if reply.Body, err = json.Marshal(body); err != nil {
		reply.Code, reply.Error = keeper.CodeInternal, err.Error()
	}
	if c.then != nil {
		defer c.then()
	}
	return conn.Send(reply, c.reply...)
}

// dispatch turns a panic of one call into its error: the keeper is the parent of all the other containers.
func (s *Server) dispatch(ctx context.Context, name string, c *call) (body any, err error) {
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
	return m(api{s}, ctx, c)
}

// stream replays and then follows the journal until the peer goes away.
func (s *Server) stream(ctx context.Context, conn *wire.Conn, body json.RawMessage) {
	var since keeper.Since
	if err := json.Unmarshal(body, &since); err != nil {
		_ = conn.Send(keeper.Reply{Code: keeper.CodeInvalid, Error: err.Error()})
		return
	}
	wake, cancel := s.journal.subscribe()
	defer cancel()
	if conn.Send(keeper.Reply{}) != nil {
		return
	}
	gone := make(chan struct{})
	go func() { // the peer sends nothing more: any end of reading is its end
		defer close(gone)
		var nothing json.RawMessage
		files, _ := conn.Receive(&nothing)
		wire.CloseAll(files)
	}()
	defer func() { conn.Close(); <-gone }()
	for after := since.After; ; {
		for _, e := range s.journal.after(after) {
			if conn.Send(e) != nil {
				return
			}
			after = e.Seq
		}
		select {
		case <-ctx.Done():
			return
		case <-gone:
			return
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
