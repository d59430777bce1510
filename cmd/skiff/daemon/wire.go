package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/skiff-node/skiff/cmd/skiff/config"
	"github.com/skiff-node/skiff/controlplane"
	"github.com/skiff-node/skiff/controlplane/etcd"
	"github.com/skiff-node/skiff/controlplane/pki"
	"github.com/skiff-node/skiff/kubelet"
	"github.com/skiff-node/skiff/network/dns"
	"github.com/skiff-node/skiff/proxy"
)

// Main is `skiff server`: it prepares the files, runs every component until ctx ends or one fails, and reports.
func Main(ctx context.Context, c config.Config, version string, notify *os.File) error {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	quietKlog()
	progress := NewProgress(nil)
	if notify != nil {
		defer notify.Close()
		progress = NewProgress(notify)
	}
	err := serve(ctx, c, version, progress)
	if err != nil {
		progress.Done(err)
	}
	return err
}

func serve(ctx context.Context, c config.Config, version string, progress *Progress) error {
	lock, err := Lock(c.Dirs.Run)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := joinCgroup(c.CgroupRoot, "server"); err != nil {
		slog.Warn("the server stays in its caller's cgroup", "err", err)
	}
	w, err := prepare(c)
	if err != nil {
		return err
	}
	server, err := New(w.components(), progress.Changed)
	if err != nil {
		return err
	}
	started := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		return ServeStatus(ctx, c.Dirs.Run, func() Report {
			return Report{Version: version, Pid: os.Getpid(), Started: started, Node: c.NodeName, Ready: closed(server.Ready()), Components: server.Status()}
		})
	})
	g.Go(func() error {
		select {
		case <-server.Ready():
			progress.Done(nil)
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// quietKlog sends what the Kubernetes libraries log to our log, from warnings on: their informational lines tell of each
// informer and each controller.
func quietKlog() {
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wiring is what the components are made of.
type wiring struct {
	c     config.Config
	paths pki.Paths
	cri   []string // command of the CRI server
	log   string
}

// prepare makes certificates and the configuration files of the parts.
func prepare(c config.Config) (*wiring, error) {
	w := &wiring{c: c, log: filepath.Join(c.Dirs.Log, "server.log")}
	for _, dir := range []string{c.Dirs.Run, c.Dirs.State, c.Dirs.Log, filepath.Join(c.Dirs.Config, "manifests"), c.Dirs.Pods} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make directories: %w", err)
		}
	}
	if err := makeLinksDir(c); err != nil {
		return nil, err
	}
	var err error
	if w.paths, err = pki.Ensure(w.pki()); err != nil {
		return nil, err
	}
	if c.DisableAgent {
		return w, nil
	}
	if w.cri, err = config.CRICommand(c); err != nil {
		return nil, err
	}
	return w, w.writeParts()
}

// writeParts writes the configuration files of the node's parts.
func (w *wiring) writeParts() error {
	c := w.c
	kubeletFile, err := c.Kubelet(w.paths.CA.Cert, w.paths.KubeletServing.Cert, w.paths.KubeletServing.Key)
	if err != nil {
		return err
	}
	proxyFile, err := c.Proxy(w.paths.Kubeconfigs.Proxy)
	if err != nil {
		return err
	}
	for file, content := range map[string][]byte{
		config.KubeletFile(c): kubeletFile, config.ProxyFile(c): proxyFile, config.CRIFile(c): c.CRI(), "/etc/crictl.yaml": c.Crictl(),
	} {
		if err := config.WriteManaged(file, content); err != nil {
			return err
		}
	}
	return nil
}

// makeLinksDir makes the directory of log links, and notes it when it was not there.
func makeLinksDir(c config.Config) error {
	dir := config.LinksDir(c)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := config.WriteFile(config.LinksDirStamp(c), nil, 0o644); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

func (w *wiring) pki() pki.Config {
	return pki.Config{
		Dir: filepath.Join(w.c.Dirs.State, "pki"), NodeName: w.c.NodeName, NodeIPs: []netip.Addr{w.c.NodeAddr()}, ServiceIP: w.c.APIServiceIP(),
		ClusterDomain: w.c.ClusterDomain, APIServerURL: fmt.Sprintf("https://127.0.0.1:%d", w.c.Ports.API), AdminKubeconfig: config.AdminKubeconfig(w.c),
	}
}

// components is the one place that says what a server is made of and in which order.
func (w *wiring) components() []Component {
	criLog := filepath.Join(w.c.Dirs.Log, "cri.log")
	cri := CRI{Socket: filepath.Join(w.c.Dirs.Run, "cri.sock"), Argv: w.cri, Log: criLog}
	plane := Component{Name: "control plane", Log: w.log, Start: w.controlPlane}
	if w.c.DisableAgent {
		return []Component{plane}
	}
	return []Component{
		{Name: "cri", Log: criLog, Start: cri.Run},
		{Name: "images", Log: criLog, After: []string{"cri"}, Start: w.images},
		plane,
		{Name: "kubelet", Log: w.log, After: []string{"cri", "control plane"}, Start: w.kubelet},
		{Name: "proxy", Log: w.log, After: []string{"control plane"}, Start: w.proxy},
		{Name: "dns", Log: w.log, After: []string{"cri", "control plane"}, Start: w.dns},
		{Name: "node", Log: w.log, After: []string{"kubelet"}, Start: w.node},
	}
}

func (w *wiring) controlPlane(ctx context.Context, ready func(string)) error {
	cp, err := controlplane.New(controlplane.Config{
		Etcd: etcd.Config{Dir: filepath.Join(w.c.Dirs.State, "etcd")}, Certificates: w.pki(), Port: w.c.Ports.API, AdvertiseAddress: w.c.NodeAddr(), PodCIDR: w.c.PodPrefix(),
		ServiceCIDR: w.c.ServicePrefix(), ClusterDomain: w.c.ClusterDomain, DNSAddress: w.c.DNSServiceIP(),
	})
	if err != nil {
		return err
	}
	return whenReady(ctx, cp.Run, cp.Ready(), func() { ready(fmt.Sprintf("https://%s:%d", w.c.NodeIP, w.c.Ports.API)) })
}

func (w *wiring) kubelet(ctx context.Context, ready func(string)) error {
	conf, err := kubelet.Load(config.KubeletFile(w.c), "")
	if err != nil {
		return err
	}
	k, err := kubelet.New(kubelet.Config{
		Configuration: conf, NodeName: w.c.NodeName, NodeIPs: []string{w.c.NodeIP}, Kubeconfig: w.paths.Kubeconfigs.Kubelet,
		RootDir: filepath.Join(w.c.Dirs.State, "kubelet"), DevicePluginDir: kubelet.DevicePluginDir, PodLogsDir: w.c.Dirs.Pods, Log: slog.Default(),
	})
	if err != nil {
		return err
	}
	ready(fmt.Sprintf("https://%s:%d", w.c.NodeIP, w.c.Ports.Kubelet))
	return k.Run(ctx)
}

func (w *wiring) proxy(ctx context.Context, ready func(string)) error {
	conf, err := proxy.Load(config.ProxyFile(w.c))
	if err != nil {
		return err
	}
	p, err := proxy.New(proxy.Config{Configuration: conf, NodeName: w.c.NodeName, NodeIPs: []netip.Addr{w.c.NodeAddr()}, ServiceCIDRs: []netip.Prefix{w.c.ServicePrefix()}})
	if err != nil {
		return err
	}
	return whenReady(ctx, p.Run, p.Ready(), func() { ready("nftables") })
}

func (w *wiring) dns(ctx context.Context, ready func(string)) error {
	addrs := config.DNSAddresses(w.c)
	if err := allowed(ctx, w.paths.Kubeconfigs.DNS); err != nil {
		return err
	}
	return dns.Run(ctx, dns.Config{Kubeconfig: w.paths.Kubeconfigs.DNS, ClusterDomain: w.c.ClusterDomain, Listen: addrs},
		func() {
			quietKlog() // CoreDNS takes klog over when it starts
			ready(fmt.Sprint(addrs))
		})
}

// whenReady runs a part and calls ready once its channel is closed.
func whenReady(ctx context.Context, run func(context.Context) error, done <-chan struct{}, ready func()) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return run(ctx) })
	g.Go(func() error {
		select {
		case <-done:
			ready()
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}
