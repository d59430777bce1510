package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cmd/skiff-cri/systemd"
	"github.com/skiff-node/skiff/cri"
	"github.com/skiff-node/skiff/cri/prom"
	"github.com/skiff-node/skiff/imageservice/api"
	images "github.com/skiff-node/skiff/imageservice/engine"
	network "github.com/skiff-node/skiff/network/engine"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	runtime "github.com/skiff-node/skiff/runtimeservice/engine"
	"github.com/skiff-node/skiff/runtimeservice/handler"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/nri"
)

// closePatience is how long calls in flight may take to end when the server stops.
const closePatience = 5 * time.Second

// parts are the services, in the order they are opened.
type parts struct {
	lock    *os.File
	images  *images.Engine
	network *network.Engine
	runtime *runtime.Engine
	plugins *nri.Plugins // nil: none take part
	// connects counts the connections made to the keeper.
	connects atomic.Uint64
}

// open locks the run directory and opens the services. What it opened before an error is in the value it returns.
func open(ctx context.Context, c Config, log *slog.Logger) (p *parts, err error) {
	p = &parts{}
	if p.lock, err = lock(c.RunDir); err != nil {
		return p, err
	}
	n := c.Network
	p.images, err = images.New(images.Config{
		Root: filepath.Join(c.Root, "images"), CertsDirs: c.Images.CertsDirs, DockerConfig: c.Images.DockerConfig, Policy: c.Images.Policy,
		Pinned: c.Images.Pinned, Downloads: c.Images.Downloads, Unpacks: c.Images.Unpacks,
		StallTimeout: time.Duration(c.Images.StallTimeout) * time.Second, Log: log.With("part", "images"),
	})
	if err != nil {
		return p, err
	}
	p.network, err = network.New(network.Config{
		RunDir: c.RunDir, StateDir: filepath.Join(c.Root, "network"), ConfDir: n.ConfDir, BinDirs: n.BinDirs,
		PodCIDRs: n.PodCIDRs, ClusterCIDRs: n.ClusterCIDRs, ServiceCIDRs: n.ServiceCIDRs,
		LocalAddresses: n.LocalAddresses, NodeIP: n.NodeIP, Interface: n.Interface, ServiceInterface: n.ServiceInterface, Table: n.Table, MTU: n.MTU,
		Log: log.With("part", "network"),
	})
	if err != nil {
		return p, err
	}
	if err := p.network.Setup(ctx); err != nil {
		return p, err
	}
	binary, err := c.keeperBinary()
	if err != nil {
		return p, err
	}
	known, err := handlers(ctx, c, log)
	if err != nil {
		return p, err
	}
	p.runtime, err = runtime.New(runtime.Config{
		RunDir: c.RunDir, Images: p.images, Network: p.network, CgroupParent: c.CgroupParent, CgroupDriver: c.CgroupDriver, SeccompDir: c.SeccompDir,
		CDIDirs:  c.CDIDirs,
		Handlers: known, Log: log.With("part", "runtime"),
		Connect: func(ctx context.Context) (link.Keeper, error) {
			client, err := c.connectKeeper(ctx, binary, log)
			if err != nil {
				return nil, err
			}
			p.connects.Add(1)
			return client, nil
		},
	})
	if err != nil {
		return p, err
	}
	return p, p.runtime.Recover(ctx)
}

// reload tells the services what may change while they run.
func (p *parts) reload(ctx context.Context, c Config, log *slog.Logger) {
	images.Reload(p.images, images.Settings{
		CertsDirs: c.Images.CertsDirs, DockerConfig: c.Images.DockerConfig, Pinned: c.Images.Pinned,
		StallTimeout: time.Duration(c.Images.StallTimeout) * time.Second,
	})
	known, err := handlers(ctx, c, log)
	if err != nil {
		log.Error("runtime handlers stay as they are", "error", err)
		return
	}
	p.runtime.SetHandlers(known)
}

func handlers(ctx context.Context, c Config, log *slog.Logger) (handler.Set, error) {
	configs := map[string]handler.Config{}
	for name, r := range c.Runtimes {
		configs[name] = handler.Config(r)
	}
	keeper, err := c.keeperBinary()
	if err != nil {
		return nil, err
	}
	// The driver of shims is beside the keeper, and missed only by who has a handler of that type.
	return handler.New(ctx, configs, filepath.Join(filepath.Dir(keeper), "skiff-shim"), log)
}

// lock makes sure that one process at a time uses the run directory.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "cri.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("run directory %s is in use by another skiff-cri: stop it, or choose another directory (--run-dir): %w", dir, err), f.Close())
	}
	return f, nil
}

// admit lets NRI plugins take part. Without them the node works too, so what keeps them out is only logged.
func (p *parts) admit(c Config, log *slog.Logger) {
	if !c.NRI.Enable {
		return
	}
	socket := c.NRI.Socket
	if socket == off {
		socket = ""
	}
	plugins, err := nri.New(nri.Config{
		Runtime: p.runtime.Host(), Version: version, Socket: socket, PluginDir: c.NRI.PluginDir, ConfigDir: c.NRI.ConfigDir,
		Registration: time.Duration(c.NRI.Registration) * time.Second, Request: time.Duration(c.NRI.Request) * time.Second,
		Validator: c.NRI.Validator, InjectCDI: c.injectCDI, Log: log.With("part", "nri"),
	})
	if err == nil {
		err = plugins.Start()
	}
	if err != nil {
		log.Error("no NRI plugin can take part", "error", err)
		return
	}
	p.plugins = plugins
	p.runtime.Invite(plugins, log.With("part", "nri"))
}

// close lets go of everything and leaves it as it is.
func (p *parts) close() error {
	var errs []error
	if p.plugins != nil {
		p.plugins.Close()
	}
	if p.runtime != nil {
		errs = append(errs, p.runtime.Close(closePatience))
	}
	if p.network != nil {
		errs = append(errs, p.network.Close())
	}
	if p.images != nil {
		errs = append(errs, p.images.Close())
	}
	if p.lock != nil {
		errs = append(errs, p.lock.Close())
	}
	return errors.Join(errs...)
}

// serve runs until ctx is done. Containers run on. A reload reads the configuration by read.
func serve(ctx context.Context, c Config, o *operations, read func() (Config, error)) (err error) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	if o.notify, err = systemd.FromEnvironment(); err != nil {
		o.log.Warn("the service manager is not told", "error", err)
	}
	enterCgroup(c, o.log)
	p, err := open(ctx, c, o.log)
	defer func() { err = errors.Join(err, o.close(), p.close()) }()
	if err != nil {
		return err
	}
	p.admit(c, o.log)
	// First, so that who hears from the CRI socket finds the images' too.
	listener, err := api.Listen(c.ImagesListen)
	if err != nil {
		return err
	}
	defer listener.Close()
	server, err := cri.New(cri.Config{
		Runtime: p.runtime.Service(), Images: p.images, Socket: c.Listen, Streams: c.Streams, Version: version, Log: o.log, Calls: o.calls,
	})
	if err != nil {
		return err
	}
	o.node = []prometheus.Collector{
		prom.Node{Runtime: p.runtime.Service(), Images: p.images, Calls: o.calls, Connects: p.connects.Load}, prom.Pulls{Meter: p.images},
	}
	o.services = func(c Config) { p.reload(ctx, c, o.log) }
	if err := o.apply(ctx, c); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.runtime.Run(ctx) })
	group.Go(func() error { return server.Run(ctx) })
	// When the keeper is killed its containers' processes become our children. The next keeper learns their ends when we
	// have reaped them.
	group.Go(func() error { return proc.ReapOrphans(ctx, func(int) bool { return false }, p.runtime.Owns) })
	group.Go(func() error { return serveImages(ctx, listener, p.images) })
	group.Go(func() error { return followReloads(ctx, hangup, c, o, read) })
	group.Go(func() error {
		o.notify.Watch(ctx, func(ctx context.Context) error { return answers(ctx, c.Listen) })
		return nil
	})
	o.log.Info("serving", "cri", c.Listen, "images", c.ImagesListen, "version", version)
	o.notify.Ready("serving")
	return group.Wait()
}

func enterCgroup(c Config, log *slog.Logger) {
	if c.Cgroup == "" {
		return
	}
	root, err := cgroup.Mounted()
	if err == nil {
		err = root.Enter(filepath.Join("/", c.Cgroup, "cri"), os.Getpid())
	}
	if err != nil {
		log.Warn("skiff-cri stays in the cgroup it was started in", "error", err)
	}
}

func followReloads(ctx context.Context, hangup <-chan os.Signal, c Config, o *operations, read func() (Config, error)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			c = o.reload(ctx, c, read)
		}
	}
}

// answers asks the server on the socket for its status, as the kubelet does.
func answers(ctx context.Context, socket string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{})
	return err
}

func serveImages(ctx context.Context, listener net.Listener, service *images.Engine) error {
	server := &http.Server{Handler: api.NewServer(service), ReadHeaderTimeout: 30 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve images on %s: %w", listener.Addr(), err)
	}
	return nil
}

// purge takes down what serve and its callers have made but images: containers, sandboxes, keeper, network.
func purge(ctx context.Context, c Config, log *slog.Logger) (err error) {
	p, err := open(ctx, c, log)
	defer func() { err = errors.Join(err, p.close()) }()
	if err != nil {
		return err
	}
	following, cancel := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error { return p.runtime.Run(following) })
	err = p.runtime.Teardown(ctx)
	cancel()
	if err = errors.Join(err, group.Wait()); err != nil {
		return err
	}
	if err := p.network.Teardown(ctx); err != nil {
		return err
	}
	removeSocket(c.NRI.Socket)
	return removeCgroups(ctx, c)
}

// removeSocket removes what a killed server left of a socket outside of the run directory, and the directory when
// nothing else is in it. One that somebody answers on belongs to another runtime.
func removeSocket(path string) {
	if path == off {
		return
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		_ = os.Remove(path) // left in place it disturbs nobody: whoever wants it replaces it
	}
	_ = os.Remove(filepath.Dir(path)) // fails unless it is empty
}

// removeCgroups removes skiff's own cgroups, once the keeper is gone.
func removeCgroups(ctx context.Context, c Config) error {
	root, err := cgroup.Mounted()
	if err != nil || c.Cgroup == "" {
		return err
	}
	own := filepath.Join("/", c.Cgroup, "keeper")
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	for {
		pids, err := root.Processes(own)
		if err != nil || len(pids) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the keeper (process %d) was told to end and still runs", pids[0])
		case <-time.After(5 * time.Millisecond):
		}
	}
	for _, name := range []string{own, filepath.Join("/", c.Cgroup, "cri")} {
		root.RemoveEmpty(name, filepath.Dir(filepath.Join("/", c.Cgroup)))
	}
	return nil
}
