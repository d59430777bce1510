// Package plugin finds the plugins of the node (CSI drivers and others) and introduces them to the parts of the kubelet that
// use them, by the protocol pluginregistration/v1:
//
//	a plugin, or its registrar, listens on a socket in <root>/plugins_registry
//	the kubelet sees the socket and calls GetInfo: type, name, endpoint, versions
//	the handler of that type takes the plugin in
//	the kubelet tells the plugin by NotifyRegistrationStatus how that went
//	the socket goes away: the plugin is unregistered
//
// The directory is what counts, not the events about it: each look compares the sockets that are there with those known. A
// socket that was made anew under its old name is another plugin. Registrations run beside each other, so that a plugin
// that hangs delays nobody else, and one that fails is tried again with growing pauses.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Pauses between attempts to register a plugin, and the time between looks at the directory in case an event was lost.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 2 * time.Minute
	audit      = time.Minute
)

// Handler takes in plugins of one type.
type Handler interface {
	// Register takes a plugin in that listens on the socket endpoint; its error is told to the plugin. A plugin that is
	// registered already replaces the former one. ctx lasts as long as the plugin's socket is there and the watcher runs.
	Register(ctx context.Context, name, endpoint string, versions []string) error
	// Unregister forgets the plugin, if it still has that endpoint.
	Unregister(name, endpoint string)
}

// Config of a Watcher.
type Config struct {
	// Dir is where plugins put their sockets; it is made. Required.
	Dir string
	// Handlers by plugin type, as in registerapi.CSIPlugin.
	Handlers map[string]Handler
	// Log receives registrations and failures. May be nil.
	Log *slog.Logger
}

// Watcher keeps the registered plugins those whose sockets are in the directory.
type Watcher struct {
	cfg Config

	mu    sync.Mutex
	known map[string]*socket // by path
}

// socket is one file that was found. Its identity tells it from a later one of the same name.
type socket struct {
	path  string
	id    string
	stop  context.CancelFunc
	done  chan struct{}
	mu    sync.Mutex
	taken *taken // nil until it is registered
}

// taken is a plugin that its handler has taken in.
type taken struct {
	handler        Handler
	name, endpoint string
}

// New returns a watcher of cfg.Dir.
func New(cfg Config) (*Watcher, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("plugin: Dir %q must be an absolute path", cfg.Dir)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{cfg: cfg, known: map[string]*socket{}}, nil
}

// Run watches until ctx ends. Registered plugins stay registered: a kubelet that stops does not know that they go.
func (w *Watcher) Run(ctx context.Context) error {
	if err := os.MkdirAll(w.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("make the directory of plugin sockets: %w", err)
	}
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the directory of plugin sockets: %w", err)
	}
	defer watch.Close()
	defer w.close()
	beat := time.NewTicker(audit)
	defer beat.Stop()
	for {
		if err := w.look(ctx, watch); err != nil {
			w.cfg.Log.Warn("cannot look for plugins; will be tried again", "dir", w.cfg.Dir, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watch.Events:
		case err := <-watch.Errors:
			w.cfg.Log.Debug("an event about plugin sockets was lost", "err", err)
		case <-beat.C:
		}
	}
}

func (w *Watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.known {
		s.stop()
		<-s.done
	}
}

// look compares the directory with what is known.
func (w *Watcher) look(ctx context.Context, watch *fsnotify.Watcher) error {
	found := map[string]string{}
	err := filepath.WalkDir(w.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it has just gone
		case err != nil:
			return err
		case d.IsDir():
			return watch.Add(path) // adding again is harmless
		case d.Type()&fs.ModeSocket != 0 && !strings.HasPrefix(d.Name(), "."):
			if id, err := identity(path); err == nil {
				found[path] = id
			}
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, s := range w.known {
		if found[path] != s.id {
			delete(w.known, path)
			s.stop()
			<-s.done
			w.forget(s)
		}
	}
	for path, id := range found {
		if w.known[path] == nil {
			w.known[path] = w.begin(ctx, path, id)
		}
	}
	return err
}

// identity tells a socket from another that replaces it: the inode number may be used again, its change time not.
func identity(path string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return "", err
	}
	return fmt.Sprint(st.Dev, " ", st.Ino, " ", st.Ctim.Nano()), nil
}

// begin registers the plugin behind a socket, beside everything else.
func (w *Watcher) begin(ctx context.Context, path, id string) *socket {
	ctx, cancel := context.WithCancel(ctx)
	s := &socket{path: path, id: id, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for pause := firstPause; ; pause = min(2*pause, lastPause) {
			err := w.register(ctx, s)
			if err == nil || ctx.Err() != nil {
				return
			}
			w.cfg.Log.Warn("a plugin could not be registered; will be tried again", "socket", path, "err", err, "after", pause)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}()
	return s
}

func (w *Watcher) forget(s *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == nil {
		return
	}
	w.cfg.Log.Info("a plugin has gone", "plugin", s.taken.name, "socket", s.path)
	s.taken.handler.Unregister(s.taken.name, s.taken.endpoint)
	s.taken = nil
}
