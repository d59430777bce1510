// Package server is the keeper: the parent of all containers of a node. It answers the protocol of package keeper,
// runs containers through package oci, and owns their streams. It is linked into cmd/skiff-keeper only, because it
// brings libcontainer along.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/execs"
	"github.com/skiff-node/skiff/runtimeservice/keeper/gate"
	"github.com/skiff-node/skiff/runtimeservice/keeper/handover"
	"github.com/skiff-node/skiff/runtimeservice/keeper/hold"
	"github.com/skiff-node/skiff/runtimeservice/keeper/journal"
	"github.com/skiff-node/skiff/runtimeservice/keeper/wire"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// Config says where the keeper lives.
type Config struct {
	RunDir string          // required: directory of the socket, the journal and the records; on tmpfs
	Log    *slog.Logger    // required
	Build  string          // version of the binary, for people
	Args   []string        // command line of a successor, without the program and -state-fd
	State  *handover.State // set: this process is the successor of the keeper that wrote it
}

// Server is one keeper.
type Server struct {
	cfg      Config
	lock     *os.File
	listener *net.UnixListener
	native   *oci.Native
	journal  *journal.Journal
	store    *hold.Store

	gate *gate.Gate

	// Watchers of containers and execs. Nobody waits for them: containers outlive their keeper.
	work sync.WaitGroup

	mu     sync.Mutex
	table  map[string]*container
	making map[string]struct{} // names of containers that are being created
	stop   context.CancelFunc

	serving  sync.WaitGroup
	sessions map[*session]struct{} // those that are served
	parked   []*session
	host     func(*session) // serves one

	accepting chan struct{} // accept says here that it stands still, and hears that it may go on
	upgrades  chan *os.File // binaries to become
	upgraded  chan error    // tells the session that asked for it
}

// ErrRunning says that another keeper holds the run directory.
var ErrRunning = errors.New("another keeper is running")

// New takes the run directory, finds the containers of an earlier keeper there, and listens. Run must follow.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil || !filepath.IsAbs(cfg.RunDir) {
		return nil, fmt.Errorf("keeper: RunDir %q must be absolute and Log set", cfg.RunDir)
	}
	s := &Server{
		cfg: cfg, gate: gate.New(), table: map[string]*container{}, making: map[string]struct{}{},
		sessions: map[*session]struct{}{}, accepting: make(chan struct{}), upgrades: make(chan *os.File, 1), upgraded: make(chan error, 1),
	}
	if err := s.open(); err != nil {
		s.closeFiles()
		return nil, err
	}
	return s, nil
}

func (s *Server) open() error {
	err := os.MkdirAll(filepath.Join(s.cfg.RunDir, "containers"), 0o700)
	if err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	var events []keeper.Event
	if s.cfg.State != nil {
		events, err = s.cfg.State.Events, recovery{s}.inherit(*s.cfg.State)
	} else {
		s.lock, err = takeLock(filepath.Join(s.cfg.RunDir, "lock"))
	}
	if err != nil {
		return err
	}
	if s.journal, err = journal.Open(filepath.Join(s.cfg.RunDir, "journal"), events...); err != nil {
		return err
	}
	if s.native, err = oci.NewNative(filepath.Join(s.cfg.RunDir, "runc"), s.cfg.Log); err != nil {
		return err
	}
	if s.store, err = hold.Open(s.cfg.RunDir); err != nil {
		return fmt.Errorf("hold files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", err)
	}
	recovery{s}.recover()
	if s.listener != nil {
		return nil
	}
	return s.listen()
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: it holds %s", ErrRunning, path)
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// lockWait is how long the lock may outlive its keeper: a child that a killed keeper had just forked holds it until it
// executes its program.
const lockWait = time.Second

// listen makes the socket under a temporary name, so that nobody ever connects to a dead one by its right name.
func (s *Server) listen() error {
	path := filepath.Join(s.cfg.RunDir, keeper.SocketName)
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false)
	s.listener = l
	if err := os.Chmod(temp, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// Run answers until the context ends or a client asks for shutdown. Containers that run then go on running.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.stop = cancel
	s.mu.Unlock()
	defer s.closeFiles()
	defer s.serving.Wait()
	stopped := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stopped()
	s.host = func(c *session) {
		s.mu.Lock()
		s.sessions[c] = struct{}{}
		s.mu.Unlock()
		s.serving.Go(func() { lines{s}.serve(ctx, c) })
	}
	parked := s.parked
	s.parked = nil
	for _, c := range parked {
		s.host(c)
	}
	go s.reapOrphans(ctx)
	go upgrader{s}.upgradeWhenAsked(ctx)
	return s.accept(ctx)
}

// accept serves whoever connects. While an upgrade is under way it stands still.
func (s *Server) accept(ctx context.Context) error {
	for {
		c, err := s.listener.AcceptUnix()
		switch {
		case err == nil:
			s.host(newSession(wire.New(c)))
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.accepting <- struct{}{}
			<-s.accepting
		default:
			return fmt.Errorf("accept: %w", err)
		}
	}
}

// upgradeWhenAsked carries out upgrades, one after the other. One that succeeds is the last.
func (s upgrader) upgradeWhenAsked(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case binary := <-s.upgrades:
			err := s.upgrade(binary)
			s.cfg.Log.Error("upgrade failed; all goes on as before", "error", err)
			s.tellUpgraded(err)
		}
	}
}

// tellUpgraded tells the session that asked, if it is still there.
func (s *Server) tellUpgraded(err error) {
	select {
	case <-s.upgraded: // of one that left
	default:
	}
	s.upgraded <- err
}

func (s *Server) closeFiles() {
	if s.listener != nil {
		s.listener.Close()
	}
	if s.journal != nil {
		s.journal.Close()
	}
	if s.store != nil {
		s.store.Close()
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

// container finds a row of the table.
func (s *Server) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.table[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("%w: %s", keeper.ErrNotFound, id)
}

// containers are the rows of the table.
func (s *Server) containers() []*container {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*container, 0, len(s.table))
	for _, c := range s.table {
		all = append(all, c)
	}
	return all
}

// newContainer is a row that is not in the table yet.
func (s *Server) newContainer(rec record) *container {
	var rt runtime = s.native
	if r := rec.Create.Runtime; r.Path != "" {
		root := r.Root
		if root == "" {
			root = filepath.Join(s.cfg.RunDir, "foreign", r.Handler)
		}
		rt = &oci.Foreign{Path: r.Path, Args: r.Args, Root: root, Monitor: r.Monitor, Scratch: recordDir(s.cfg.RunDir, rec.Create.ID)}
	}
	c := &container{
		dir: recordDir(s.cfg.RunDir, rec.Create.ID), runtime: rt, journal: s.journal, store: s.store, log: s.cfg.Log,
		rec: rec, exited: make(chan struct{}),
	}
	c.execs = execs.New(execs.Config{
		ID: c.id(), Dir: c.dir, Runtime: rt, Foreign: rec.Create.Runtime.Path != "", Log: s.cfg.Log,
		Created: func() oci.Created { return c.rec.Created }, May: func() error { return c.may(doExec) },
	})
	return c
}

// add puts a container that has an init into the table and watches it.
func (s *Server) add(c *container) {
	s.mu.Lock()
	s.table[c.id()] = c
	s.mu.Unlock()
	s.work.Go(func() { c.watch(s.gate) })
}
