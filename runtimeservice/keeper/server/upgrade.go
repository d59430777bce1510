package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/handover"
	"github.com/skiff-node/skiff/runtimeservice/keeper/stdio"
)

// How long an upgrade waits: for the new binary to say what it is, for calls under way, and for a client to take what is
// being sent to it.
const (
	checkPatience = 10 * time.Second
	callPatience  = 10 * time.Second
	sendPatience  = 5 * time.Second
)

// upgrader becomes another binary.
type upgrader struct{ *Server }

// begin checks that the binary can take over, and arranges for it. The outcome is told by upgraded.
func (s upgrader) begin(ctx context.Context, binary *os.File) error {
	a, err := ask(ctx, binary)
	if err != nil {
		return err
	}
	if err := handover.Accept(a); err != nil {
		return err
	}
	select {
	case s.upgrades <- binary:
		return nil
	default:
		return fmt.Errorf("%w: an upgrade is under way", keeper.ErrState)
	}
}

// ask has a binary say what it is able to, and whether it understands a state.
func ask(ctx context.Context, binary *os.File, state ...*os.File) (a handover.Ability, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", "-check")
	cmd.Args[0], cmd.Dir, cmd.Env = "skiff-keeper", "/", []string{}
	cmd.ExtraFiles = append([]*os.File{binary}, state...)
	if len(state) > 0 {
		cmd.Args = append(cmd.Args, "-state-fd", "4")
	}
	var said, complained bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complained
	if err := cmd.Run(); err != nil {
		return a, fmt.Errorf("%w: ask it what it is: %w: %s", handover.ErrSuccessor, err, bytes.TrimSpace(complained.Bytes()))
	}
	if err := json.Unmarshal(said.Bytes(), &a); err != nil {
		return a, fmt.Errorf("%w: it says %q of itself: %w", handover.ErrSuccessor, said.Bytes(), err)
	}
	return a, nil
}

// upgrade becomes the binary. It returns only when that fails: then all is as before.
func (s upgrader) upgrade(binary *os.File) error {
	defer binary.Close()
	defer s.gate.Open()
	if !s.gate.Close(callPatience) {
		return fmt.Errorf("%w: a call has been under way for %s", keeper.ErrState, callPatience)
	}
	s.parkSessions()
	defer s.unparkSessions()
	frozen := map[*container][]stdio.Peer{}
	for _, c := range s.containers() {
		frozen[c] = c.streams.Freeze()
	}
	defer func() {
		for c, peers := range frozen {
			c.streams.Thaw(peers)
		}
	}()
	state, err := s.state(frozen)
	if err != nil {
		return err
	}
	return s.become(binary, state)
}

// become executes the binary with the state.
func (s upgrader) become(binary *os.File, state handover.State) error {
	document, err := handover.Write(state)
	if err != nil {
		return err
	}
	defer document.Close()
	if _, err := ask(context.Background(), binary, document); err != nil {
		return err
	}
	number, err := handover.NumberOf(document)
	if err != nil {
		return err
	}
	program, err := handover.NumberOf(binary)
	if err != nil {
		return err
	}
	// Not our own soft limit or number of threads, but what we were started with.
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GOMAXPROCS=") {
			env = append(env, v)
		}
	}
	args := append(append([]string{"skiff-keeper"}, s.cfg.Args...), "-state-fd", strconv.Itoa(number))
	if err := state.Inherit(true, number); err != nil {
		return errors.Join(err, state.Inherit(false))
	}
	err = syscall.Exec("/proc/self/fd/"+strconv.Itoa(program), args, env)
	return errors.Join(fmt.Errorf("execute the new keeper: %w", err), state.Inherit(false, number))
}

// parkSessions stops accepting and serving. The gate is closed.
func (s upgrader) parkSessions() {
	_ = s.listener.SetDeadline(time.Unix(1, 0))
	<-s.accepting // all that was accepted is in sessions now
	s.mu.Lock()
	for c := range s.sessions {
		c.conn.SetReadDeadline(time.Unix(1, 0))
		c.conn.SetWriteDeadline(time.Now().Add(sendPatience))
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// unparkSessions goes on after a failed upgrade.
func (s upgrader) unparkSessions() {
	s.mu.Lock()
	parked := s.parked
	s.parked = nil
	s.mu.Unlock()
	for _, c := range parked {
		c.conn.SetDeadline(time.Time{})
		s.host(c)
	}
	_ = s.listener.SetDeadline(time.Time{})
	s.accepting <- struct{}{}
}

// state describes all that is handed over. Nothing moves.
func (s upgrader) state(frozen map[*container][]stdio.Peer) (handover.State, error) {
	out := handover.State{Build: s.cfg.Build, Events: s.journal.After(0)}
	var err error
	if out.Lock, err = handover.NumberOf(s.lock); err != nil {
		return out, err
	}
	if out.Listener, err = handover.NumberOf(s.listener); err != nil {
		return out, err
	}
	for c, peers := range frozen {
		row, err := c.state(peers)
		if err != nil {
			return out, fmt.Errorf("hand over container %s: %w", c.id(), err)
		}
		out.Containers = append(out.Containers, row)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.parked {
		number, err := c.conn.Number()
		if err != nil {
			return out, fmt.Errorf("hand over connection: %w", err)
		}
		out.Sessions = append(out.Sessions, handover.Session{File: number, Greeted: c.greeted, Pending: c.pending})
	}
	return out, nil
}

func (c *container) state(peers []stdio.Peer) (out handover.Container, err error) {
	c.mu.Lock()
	out.Record, err = json.Marshal(c.rec)
	c.mu.Unlock()
	if err != nil {
		return out, err
	}
	if ours := c.streams.Ours(); ours != nil {
		if out.Ours, err = handover.PointTo(ours); err != nil {
			return out, err
		}
	}
	for _, p := range peers {
		number, err := handover.NumberOf(p.File)
		if err != nil {
			return out, err
		}
		out.Peers = append(out.Peers, handover.Peer{File: number, Stream: string(p.Stream), Rest: p.Rest})
	}
	out.Execs, err = c.execs.State()
	return out, err
}

// inheritedConn makes a connection, or with net.FileListener a listener, of one.
func inheritedConn(number int) (*net.UnixConn, error) {
	f := handover.Inherited(number, "session")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("file %d is a connection of another kind", number)
	}
	return u, nil
}
