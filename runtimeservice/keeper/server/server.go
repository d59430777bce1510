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
	"github.com/skiff-node/skiff/runtimeservice/keeper/hold"
	"github.com/skiff-node/skiff/runtimeservice/keeper/wire"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// Config says where the keeper lives.
type Config struct {
	RunDir string       // required: directory of the socket, the journal and the records; on tmpfs
	Log    *slog.Logger // required
	Build  string       // version of the binary, for people
}

// Server is one keeper.
type Server struct {
	cfg      Config
	lock     *os.File
	listener *net.UnixListener
	native   *oci.Native
	journal  *journal
	store    *hold.Store

	// Watchers of containers and execs. Nobody waits for them: containers outlive their keeper.
	work sync.WaitGroup

	mu     sync.Mutex
	table  map[string]*container
	making map[string]struct{} // names of containers that are being created
	stop   context.CancelFunc
}

// ErrRunning says that another keeper holds the run directory.
var ErrRunning = errors.New("another keeper is running")

// New takes the run directory, finds the containers of an earlier keeper there, and listens. Run must follow.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil || !filepath.IsAbs(cfg.RunDir) {
		return nil, fmt.Errorf("keeper: RunDir %q must be absolute and Log set", cfg.RunDir)
	}
	s := &Server{cfg: cfg, table: map[string]*container{}, making: map[string]struct{}{}}
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
	if s.lock, err = takeLock(filepath.Join(s.cfg.RunDir, "lock")); err != nil {
		return err
	}
	if s.journal, err = openJournal(filepath.Join(s.cfg.RunDir, "journal")); err != nil {
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
	s.recover()
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
	var sessions sync.WaitGroup
	defer sessions.Wait()
	stopped := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stopped()
	go s.reapOrphans(ctx)
	for {
		c, err := s.listener.AcceptUnix()
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		sessions.Go(func() { s.serve(ctx, wire.New(c)) })
	}
}

func (s *Server) closeFiles() {
	if s.listener != nil {
		s.listener.Close()
	}
	if s.journal != nil {
		s.journal.close()
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
		rt = &oci.Foreign{Path: r.Path, Args: r.Args, Root: root, Scratch: recordDir(s.cfg.RunDir, rec.Create.ID)}
	}
	c := &container{
		dir: recordDir(s.cfg.RunDir, rec.Create.ID), runtime: rt, journal: s.journal, store: s.store, log: s.cfg.Log,
		rec: rec, exited: make(chan struct{}),
	}
	c.execs = &execs{of: c, byID: map[string]*execution{}}
	return c
}

// add puts a container that has an init into the table and watches it.
func (s *Server) add(c *container) {
	s.mu.Lock()
	s.table[c.id()] = c
	s.mu.Unlock()
	s.work.Go(c.watch)
}
