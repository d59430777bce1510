// Package engine implements imageservice.Service: it joins the leaves (remote, content, unpack, snapshot, manifest,
// record, archive) into pulls, imports, root file systems and garbage collection.
//
// How an image arrives, by pull or import:
//
//	target (index or manifest) ─► manifest ─► configuration ─► layers, in parallel:
//	     blob downloaded and verified ─► unpacked into its own directory ─► attributes of implied directories
//	─► one sync of the file system ─► record written ─► the image is in the catalog
//
// A lease holds every blob and layer on the way, so that garbage collection does not take them; a failed or killed
// arrival leaves only what a sweep removes.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/engine/catalog"
	"github.com/skiff-node/skiff/imageservice/engine/meter"
	"github.com/skiff-node/skiff/imageservice/engine/trust"
)

// Config is what an engine needs to know.
type Config struct {
	// Root is the directory of the image store, e.g. /var/lib/skiff/images. Required, absolute. One engine at a time.
	Root string
	// CertsDirs are the directories with registry configuration, <dir>/<host>/hosts.toml, searched in order. Optional.
	CertsDirs []string
	// DockerConfig is a docker config.json with credentials, used where a request brings none. Optional.
	DockerConfig string
	// Pinned are names of images that must not be collected; "*" stands for any run of characters. Optional.
	Pinned []string
	// Policy is a signature policy, containers-policy.json(5). Optional; without one everything is accepted, but a file
	// that is named here and cannot be read refuses everything.
	Policy string
	// Platform is the platform to choose from multi-platform images. Optional, by default this machine.
	Platform *ocispec.Platform
	// StallTimeout ends a pull when a blob of it has received less than StallBytes for so long. Optional, by default 5
	// minutes and 64 KiB.
	StallTimeout time.Duration
	StallBytes   int64
	// Downloads and Unpacks are how many blobs are fetched and layers unpacked at once, over all pulls. Optional,
	// by default 6 and the number of processors (at least 2).
	Downloads, Unpacks int
	// UsageAge is for how long a measured usage of a writable layer is good. Optional, by default 10 seconds.
	UsageAge time.Duration
	// Log is optional.
	Log *slog.Logger
}

// Engine is the image service of a node. Its methods are safe for concurrent use.
type Engine struct {
	cfg      Config // as at the start
	settings atomic.Pointer[Settings]
	log      *slog.Logger
	machine  platforms.MatchComparer
	platform string

	catalog *catalog.Catalog
	pool    *pool
	rootfs  *rootfs
	janitor *janitor
	guard   *trust.Guard
	flights flights
	meter   meter.Meter
	fetch   *semaphore.Weighted
	unpack  *semaphore.Weighted

	lock   *storeLock
	stop   context.CancelFunc
	worker sync.WaitGroup
}

var _ imageservice.Service = (*Engine)(nil)

// New opens the image store at cfg.Root, making it if need be, and cleans up after a predecessor that was killed.
func New(cfg Config) (*Engine, error) {
	e := &Engine{cfg: cfg}
	if err := e.defaults(); err != nil {
		return nil, err
	}
	e.guard = trust.New(cfg.Policy)
	lock, err := lockStore(cfg.Root)
	if err != nil {
		return nil, err
	}
	e.lock = lock
	if err := e.load(); err != nil {
		return nil, errors.Join(err, lock.release())
	}
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.worker.Go(func() { e.janitor.run(ctx) })
	e.janitor.wakeUp()
	return e, nil
}

func (e *Engine) defaults() error {
	if e.cfg.Root == "" || e.cfg.Root[0] != '/' {
		return fmt.Errorf("image store: Config.Root is %q, it must be an absolute path", e.cfg.Root)
	}
	if e.cfg.StallTimeout <= 0 {
		e.cfg.StallTimeout = defaultStall
	}
	if e.cfg.StallBytes <= 0 {
		e.cfg.StallBytes = 64 << 10
	}
	e.settings.Store(&Settings{
		CertsDirs: e.cfg.CertsDirs, DockerConfig: e.cfg.DockerConfig, Pinned: e.cfg.Pinned, StallTimeout: e.cfg.StallTimeout,
	})
	if e.cfg.Downloads <= 0 {
		e.cfg.Downloads = 6
	}
	if e.cfg.Unpacks <= 0 {
		e.cfg.Unpacks = max(2, runtime.NumCPU())
	}
	if e.cfg.UsageAge <= 0 {
		e.cfg.UsageAge = 10 * time.Second
	}
	if e.log = e.cfg.Log; e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	spec := platforms.DefaultSpec()
	if e.cfg.Platform != nil {
		spec = *e.cfg.Platform
	}
	e.machine, e.platform = platforms.Only(spec), platforms.Format(spec)
	e.fetch, e.unpack = semaphore.NewWeighted(int64(e.cfg.Downloads)), semaphore.NewWeighted(int64(e.cfg.Unpacks))
	return nil
}

// Close waits for the background work. Pulls must have ended. Nothing is lost by not calling it.
func (e *Engine) Close() error {
	e.stop()
	e.worker.Wait()
	return e.lock.release()
}

// Get finds an image by reference, digest or id.
func (e *Engine) Get(_ context.Context, ref string) (imageservice.Image, error) {
	return e.catalog.Get(ref)
}

// List returns every image, ordered by id.
func (e *Engine) List(context.Context) ([]imageservice.Image, error) {
	return e.catalog.All(), nil
}

// Remove deletes every name of the image that ref means, and its content unless a root file system uses it.
func (e *Engine) Remove(_ context.Context, ref string) error {
	r, err := e.catalog.Find(ref)
	if errors.Is(err, imageservice.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := e.catalog.Drop(r.ID); err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	return e.janitor.sweep()
}

// classify names the errors that the system, not an image, is to blame for.
func classify(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", imageservice.ErrNoSpace, err)
	}
	return err
}
