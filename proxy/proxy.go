// Package proxy is skiff's kube-proxy: it makes the addresses of Services work on this node. The folder's README tells
// how packets go; this file joins the parts.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kubeproxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"

	"github.com/skiff-node/skiff/proxy/apply"
	"github.com/skiff-node/skiff/proxy/health"
	"github.com/skiff-node/skiff/proxy/track"
)

// Config is what a proxy needs.
type Config struct {
	Configuration *kubeproxyv1alpha1.KubeProxyConfiguration // required; see Load
	NodeName      string                                    // required: endpoints with this node name are local
	NodeIPs       []netip.Addr                              // addresses for node ports where nodePortAddresses says "primary" or nothing
	ServiceCIDRs  []netip.Prefix                            // optional: unused addresses in it are rejected
}

// Load reads a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1). Unknown fields are refused by name.
func Load(file string) (*kubeproxyv1alpha1.KubeProxyConfiguration, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the proxy's configuration: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := kubeproxyv1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	c := &kubeproxyv1alpha1.KubeProxyConfiguration{}
	if _, _, err := decoder.Decode(raw, nil, c); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", file, err)
	}
	return c, Validate(c)
}

// Validate refuses what this proxy cannot do, by field.
func Validate(c *kubeproxyv1alpha1.KubeProxyConfiguration) error {
	var errs []error
	if c.Mode != "" && c.Mode != "nftables" {
		errs = append(errs, fmt.Errorf("mode: %q: skiff's proxy speaks nftables only", c.Mode))
	}
	if c.ClusterCIDR != "" {
		if _, err := clusterCIDR(c); err != nil {
			errs = append(errs, err)
		}
	}
	for _, a := range c.NodePortAddresses {
		if _, err := netip.ParsePrefix(a); err != nil && a != "primary" {
			errs = append(errs, fmt.Errorf("nodePortAddresses: %q is neither a range nor \"primary\"", a))
		}
	}
	return errors.Join(errs...)
}

// clusterCIDR is the IPv4 range of clusterCIDR, which may list one range per family.
func clusterCIDR(c *kubeproxyv1alpha1.KubeProxyConfiguration) (netip.Prefix, error) {
	for s := range strings.SplitSeq(c.ClusterCIDR, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("clusterCIDR: %w", err)
		}
		if p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, nil
}

// Proxy programs Services.
type Proxy struct {
	cfg     Config
	client  kubernetes.Interface
	tracker *track.Tracker
	health  *health.Server
	ready   chan struct{}
}

// New connects to nothing yet; it checks the configuration.
func New(cfg Config) (*Proxy, error) {
	if cfg.Configuration == nil || cfg.NodeName == "" {
		return nil, errors.New("proxy: Configuration and NodeName are required")
	}
	if err := Validate(cfg.Configuration); err != nil {
		return nil, err
	}
	rc, err := restConfig(cfg.Configuration)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("clientConnection: %w", err)
	}
	return assemble(cfg, client)
}

func assemble(cfg Config, client kubernetes.Interface) (*Proxy, error) {
	t, err := track.New(client)
	if err != nil {
		return nil, err
	}
	return &Proxy{cfg: cfg, client: client, tracker: t, health: &health.Server{}, ready: make(chan struct{})}, nil
}

func restConfig(c *kubeproxyv1alpha1.KubeProxyConfiguration) (*rest.Config, error) {
	rc, err := clientcmd.BuildConfigFromFlags("", c.ClientConnection.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("clientConnection.kubeconfig: %w", err)
	}
	rc.QPS, rc.Burst = c.ClientConnection.QPS, int(c.ClientConnection.Burst)
	rc.ContentType, rc.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	rc.UserAgent = "skiff-proxy"
	return rc, nil
}

// Ready is closed when the first full set of rules is in the kernel.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Run programs Services until ctx ends. The rules stay when it does.
func (p *Proxy) Run(ctx context.Context) error {
	cluster, err := clusterCIDR(p.cfg.Configuration)
	if err != nil && p.cfg.Configuration.ClusterCIDR != "" {
		return err
	}
	applier, err := apply.New(apply.Config{ClusterCIDR: cluster, ServiceCIDRs: p.cfg.ServiceCIDRs, NodePortIPs: p.nodePortIPs()})
	if err != nil {
		return err
	}
	defer applier.Close()
	g, ctx := errgroup.WithContext(ctx)
	synced := make(chan struct{})
	g.Go(func() error { return p.tracker.Run(ctx, func() { close(synced) }) })
	g.Go(func() error { return p.health.Run(ctx, p.cfg.Configuration.HealthzBindAddress) })
	g.Go(func() error {
		select {
		case <-synced:
		case <-ctx.Done():
			return nil
		}
		return p.loop(ctx, newProgram(applier))
	})
	return g.Wait()
}

// loop converges: each pass takes what changed, and a failed one is repeated from scratch after a pause.
func (p *Proxy) loop(ctx context.Context, prog *program) error {
	retry := time.Duration(0)
	for first := true; ; first = false {
		if !first {
			select {
			case <-p.tracker.Changed():
			case <-after(retry):
			case <-ctx.Done():
				return nil
			}
		}
		p.health.Pending()
		if err := p.pass(prog); err != nil {
			retry = min(max(2*retry, 100*time.Millisecond), 30*time.Second)
			slog.Error("program services", "err", err, "retry", retry)
			continue
		}
		retry = 0
		p.health.Synced()
		if !closed(p.ready) {
			close(p.ready)
		}
	}
}

// after is a timer's channel, or one that never receives for zero.
func after(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	return time.After(d)
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (p *Proxy) pass(prog *program) error {
	changes := map[types.NamespacedName]change{}
	for _, name := range p.tracker.Take() {
		svc, slices := p.tracker.Get(name)
		changes[name] = change{svc, slices}
	}
	return prog.run(changes, p.cfg.NodeName)
}

// nodePortIPs are the addresses of nodePortAddresses among the node's own; "primary" and nothing mean NodeIPs.
func (p *Proxy) nodePortIPs() []netip.Addr {
	var out []netip.Addr
	for _, a := range p.cfg.NodeIPs {
		if a.Is4() && listens(p.cfg.Configuration.NodePortAddresses, a) {
			out = append(out, a)
		}
	}
	return out
}

func listens(ranges []string, a netip.Addr) bool {
	for _, r := range ranges {
		if p, err := netip.ParsePrefix(r); r == "primary" || (err == nil && p.Contains(a)) {
			return true
		}
	}
	return len(ranges) == 0
}

// Cleanup removes everything that a proxy left in the kernel of the calling thread's network namespace.
func Cleanup() error {
	a, err := apply.New(apply.Config{})
	if err != nil {
		return err
	}
	return errors.Join(a.Cleanup(), a.Close())
}
