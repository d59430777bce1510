// Package engine implements the runtime service: it joins the state machine, the records, the steps and the keeper
// into sandboxes and containers.
//
// Whatever an operation makes is a step with an undo (steps_sandbox.go, steps_container.go). Stopping and removing
// run the same undos, and so does recovery after a crash, so there is one piece of code that takes each thing down.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/network"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/apparmor"
	"github.com/skiff-node/skiff/runtimeservice/cdi"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/checkpoint"
	"github.com/skiff-node/skiff/runtimeservice/frozen"
	"github.com/skiff-node/skiff/runtimeservice/handler"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/meters"
	"github.com/skiff-node/skiff/runtimeservice/record"
	"github.com/skiff-node/skiff/runtimeservice/session"
	"github.com/skiff-node/skiff/runtimeservice/spec"
	"github.com/skiff-node/skiff/runtimeservice/table"
)

// Images is what the engine needs of the image service.
type Images interface {
	Get(ctx context.Context, ref string) (imageservice.Image, error)
	FSInfo(ctx context.Context) (images, containers imageservice.FSInfo, err error)
	imageservice.RootFS
}

// Config is what an engine needs to know.
type Config struct {
	RunDir string // required: what a reboot ends (/run/skiff); not shared with another engine
	Images Images // required
	// Network is required.
	Network network.Service
	// Connect launches or adopts the keeper. Required. It is called again when the keeper is lost.
	Connect func(ctx context.Context) (link.Keeper, error)
	// CgroupParent is the parent of the cgroups of pods whose request names none. Default "/skiff/pods", or with systemd
	// "skiff-pods.slice".
	CgroupParent string
	// CgroupDriver makes the cgroups. Default cgroup.Cgroupfs.
	CgroupDriver cgroup.Driver
	// CDIDirs hold the descriptions of CDI devices. Default cdi.DefaultDirs.
	CDIDirs []string
	// SeccompDir is where localhost profiles given by a relative path are. Default /var/lib/kubelet/seccomp.
	SeccompDir string
	// Handlers are the runtime handlers. Default: the keeper's own alone.
	Handlers handler.Set
	Log      *slog.Logger
}

// Engine is the runtime of a node. New loads its records; Recover makes them true; Run keeps them so.
type Engine struct {
	core       *core
	sandboxes  *sandboxes
	containers *containers
	meters     *meters.Meters
	seen       uint64 // the keeper's last event that reconcile knows of
}

// New checks the configuration and loads what an earlier process recorded. It changes nothing on the node but
// directories of its own.
func New(cfg Config) (*Engine, error) {
	if !filepath.IsAbs(cfg.RunDir) {
		return nil, fmt.Errorf("runtime: RunDir %q is not an absolute path", cfg.RunDir)
	}
	if cfg.Images == nil || cfg.Network == nil || cfg.Connect == nil {
		return nil, errors.New("runtime: Images, Network and Connect are required")
	}
	if cfg.CgroupDriver == "" {
		cfg.CgroupDriver = cgroup.Cgroupfs
	}
	if err := cfg.CgroupDriver.Check(); err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = map[cgroup.Driver]string{cgroup.Cgroupfs: "/skiff/pods", cgroup.Systemd: "skiff-pods.slice"}[cfg.CgroupDriver]
	}
	if len(cfg.CDIDirs) == 0 {
		cfg.CDIDirs = cdi.DefaultDirs
	}
	if cfg.SeccompDir == "" {
		cfg.SeccompDir = "/var/lib/kubelet/seccomp"
	}
	if cfg.Handlers == nil {
		cfg.Handlers = handler.Only()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	host, err := spec.Probe()
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	if host.AppArmor {
		if err := apparmor.LoadDefault(context.Background()); err != nil {
			cfg.Log.Warn("containers without a profile of their own are not confined by AppArmor", "error", err)
		} else {
			host.AppArmorDefault = apparmor.Default
		}
	}
	c := &core{
		cfg: cfg, log: cfg.Log, host: host, cgroups: cgroup.Root{Path: "/sys/fs/cgroup", V2: host.CgroupV2},
		link: link.Link{Connect: cfg.Connect},
	}
	c.haste = cgroup.NewHaste(c.cgroups)
	c.handlers.Store(&cfg.Handlers)
	for _, dir := range []string{c.nsDir(), c.sandboxDir(""), c.containerDir(""), c.copiesDir("")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("runtime: make directories: %w", err)
		}
	}
	if c.boxes, err = table.Open[sandboxRecord](c.recordDir("sandboxes"), "sandbox", lifecycle.Sandbox()); err != nil {
		return nil, err
	}
	if c.units, err = table.Open[containerRecord](c.recordDir("containers"), "container", lifecycle.Container()); err != nil {
		return nil, err
	}
	c.view = record.View{Boxes: c.boxes, Members: c.units, Bundle: c.containerDir}
	return assemble(c), nil
}

func assemble(c *core) *Engine {
	e := &Engine{core: c}
	e.sandboxes = &sandboxes{core: c, parts: &sandboxParts{core: c}}
	e.containers = &containers{core: c, parts: &containerParts{core: c, sandboxes: e.sandboxes.parts}}
	e.sandboxes.containers = e.containers
	e.meters = meters.New(c.view, c.cfg.Images, c.cgroups)
	return e
}

// Service is the engine by its roles.
func (e *Engine) Service() runtimeservice.Service {
	c := e.core
	return runtimeservice.Service{
		Sandboxes: e.sandboxes, Containers: e.containers, Processes: &session.Sessions{Runtime: session.Finder{View: e.core.view, Link: &e.core.link}},
		Meters: e.meters, Events: &e.core.hub, Node: &node{core: e.core}, Inspector: e.core.view,
		Checkpoints: &checkpoint.Checkpoints{
			Runtime:   frozen.Containers{Units: c.units, Cgroups: c.cgroups, Link: &c.link, Dir: c.containerDir, Copies: c.copiesDir},
			Sandboxes: e.sandboxes, Containers: e.containers,
		},
	}
}

// Close waits for operations in flight, at most for patience; what is cut then is undone at the next start.
func (e *Engine) Close(patience time.Duration) error {
	if !e.core.flights.Wait(patience) {
		e.core.log.Warn("operations still run; the next start undoes them")
	}
	e.core.guests.Wait()
	e.core.haste.Close()
	return e.core.link.Close()
}
