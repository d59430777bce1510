// Package rotate keeps the logs of running containers from growing without bound.
//
// A log that has grown too large is renamed and the runtime is asked to open a new one in its place:
//
//	0.log                      written by the runtime
//	0.log.20261122-193000      the last one renamed; readers that follow the log may still be in it
//	0.log.20261122-190000.gz   earlier ones, compressed
//
// At most MaxFiles are kept, the one being written included. The names are upstream's; log readers know them.
package rotate

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"
)

// Runtime is the part of CRI that rotation needs.
type Runtime interface {
	ContainerStatus(ctx context.Context, in *cri.ContainerStatusRequest, opts ...grpc.CallOption) (*cri.ContainerStatusResponse, error)
	ReopenContainerLog(ctx context.Context, in *cri.ReopenContainerLogRequest, opts ...grpc.CallOption) (*cri.ReopenContainerLogResponse, error)
}

// Config of a Rotator. All fields but Period are required.
type Config struct {
	Runtime Runtime
	// Running are the IDs of the containers that run.
	Running func() []string
	// MaxSize of a log in bytes, and MaxFiles of one container, at least 2.
	MaxSize  int64
	MaxFiles int
	// Period between two looks; 0 means 10 s.
	Period time.Duration
	Log    *slog.Logger
}

// Rotator rotates logs.
type Rotator struct{ cfg Config }

// New makes a rotator.
func New(cfg Config) (*Rotator, error) {
	if cfg.MaxFiles < 2 {
		return nil, fmt.Errorf("containerLogMaxFiles: %d must be greater than 1", cfg.MaxFiles)
	}
	if cfg.Period == 0 {
		cfg.Period = 10 * time.Second
	}
	return &Rotator{cfg}, nil
}

// Run looks after the logs until ctx ends.
func (r *Rotator) Run(ctx context.Context) error {
	ticker := time.NewTicker(r.cfg.Period)
	defer ticker.Stop()
	paths := map[string]string{} // of running containers, by ID; a path never changes
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			r.look(ctx, paths, now)
		}
	}
}

// look rotates what has grown too large.
func (r *Rotator) look(ctx context.Context, paths map[string]string, now time.Time) {
	seen := map[string]bool{}
	for _, id := range r.cfg.Running() {
		seen[id] = true
		if err := r.one(ctx, paths, id, now); err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn("cannot rotate container log", "container", id, "err", err)
		}
	}
	for id := range paths {
		if !seen[id] {
			delete(paths, id)
		}
	}
}

func (r *Rotator) one(ctx context.Context, paths map[string]string, id string, now time.Time) error {
	if paths[id] == "" {
		resp, err := r.cfg.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return fmt.Errorf("container status: %w", err)
		}
		paths[id] = resp.GetStatus().GetLogPath()
	}
	path := paths[id]
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		// A kubelet may have ended between renaming the log and having it opened again.
		return r.reopen(ctx, id)
	}
	if err != nil || info.Size() < r.cfg.MaxSize {
		return err
	}
	if err := r.makeRoom(path); err != nil {
		return err
	}
	renamed := path + "." + now.Format("20060102-150405")
	if err := os.Rename(path, renamed); err != nil {
		return fmt.Errorf("rename log: %w", err)
	}
	if err := r.reopen(ctx, id); err != nil {
		return errors.Join(err, os.Rename(renamed, path))
	}
	return nil
}

func (r *Rotator) reopen(ctx context.Context, id string) error {
	if _, err := r.cfg.Runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("have the log opened again: %w", err)
	}
	return nil
}

const (
	packed   = ".gz"
	unfinish = ".tmp"
)

// makeRoom removes the oldest rotated logs, so that one more is not too many, and compresses those that are left.
func (r *Rotator) makeRoom(path string) error {
	rotated, err := filepath.Glob(path + ".*")
	if err != nil {
		return fmt.Errorf("list rotated logs: %w", err)
	}
	sort.Strings(rotated) // by time
	var kept []string
	for _, f := range rotated {
		if strings.HasSuffix(f, unfinish) {
			if err := os.Remove(f); err != nil {
				return fmt.Errorf("remove unfinished log: %w", err)
			}
			continue
		}
		kept = append(kept, f)
	}
	const others = 2 // the log itself and the one that is about to be rotated
	for len(kept) > r.cfg.MaxFiles-others {
		if err := os.Remove(kept[0]); err != nil {
			return fmt.Errorf("remove old log: %w", err)
		}
		kept = kept[1:]
	}
	for _, f := range kept {
		if strings.HasSuffix(f, packed) {
			continue
		}
		if err := compress(f); err != nil {
			return fmt.Errorf("compress %s: %w", f, err)
		}
	}
	return nil
}

// compress replaces a file by a compressed one, at once.
func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := path + packed + unfinish
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	w := gzip.NewWriter(out)
	_, err = io.Copy(w, in)
	if err := errors.Join(err, w.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path+packed); err != nil {
		return err
	}
	return os.Remove(path)
}
