// Package runtime reaches containers and images through CRI, and through nothing else: it works with any runtime that
// serves runtime.v1 on a socket.
//
// It has no memory of what should be; it carries out one step at a time for the worker and tells what is there:
//
//	Observe          what the runtime has of one pod
//	CreateSandbox    network, namespaces, log directory
//	StartContainer   image, configuration, create, start, postStart hook; a failure is a *Fault with upstream's reason
//	StopContainer …  and so on down to RemoveLogs
package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"golang.org/x/time/rate"

	"github.com/skiff-node/skiff/kubelet/credentials"
	"github.com/skiff-node/skiff/kubelet/images/pulls"
	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
	"github.com/skiff-node/skiff/kubelet/volume"
)

// Events is where steps are reported.
type Events interface {
	Normal(p *v1.Pod, container, reason, format string, args ...any)
	Warning(p *v1.Pod, container, reason, format string, args ...any)
}

// Extra tells what a container gets beside its spec; nil for nothing.
type Extra func(ctx context.Context, p *v1.Pod, c *v1.Container) (*spec.Extra, error)

// Config of a Runtime.
type Config struct {
	// Endpoint of the runtime service: unix:///run/skiff/cri.sock. ImageEndpoint may be empty: the same.
	Endpoint, ImageEndpoint string
	// Node-wide facts for the translation of pods.
	Node *spec.Node
	// PodsDir holds a directory for each pod: its hosts file and termination messages, beside its volumes.
	PodsDir string
	// Objects reads ConfigMaps and Secrets. Services lists the services shown in a pod's environment, once they are
	// known; may be nil.
	Objects  spec.Objects
	Services func(ctx context.Context, p *v1.Pod) ([]*v1.Service, error)
	// SubPath binds a part of a volume where no container can change it, and returns that place.
	SubPath func(ctx context.Context, s volume.SubPath) (string, error)
	// Extras tell what a container that is about to start gets beside its spec. Optional.
	Extras []Extra
	// RuntimeHandler gives the handler of a RuntimeClass by name; nil refuses pods that name one.
	RuntimeHandler func(ctx context.Context, class string) (string, error)
	Events         Events
	// Starting is told when a sandbox or a container is being started, and by what it returns when that is over. Optional.
	Starting func() (done func())
	// Credentials asks plugins about an image of the pod. Optional.
	Credentials func(ctx context.Context, image string, p *v1.Pod) []credentials.Answer
	// Labelled says that the kernel labels files (SELinux).
	Labelled bool
	// Pulls remember who may use which image. Nil: everybody all.
	Pulls *pulls.Records
	// Metrics count calls, starts and pulls. Optional.
	Metrics *metrics.Runtime
	// Dial is added to what the connections are made with, to trace the calls. Optional.
	Dial []grpc.DialOption
	// PullRate is how many pulls may begin per second, and PullBurst how many at once; zero means no limit.
	PullRate, PullBurst int
	// ParallelPulls bounds how many images are pulled at once; zero means 5.
	ParallelPulls int
	// Timeout of calls that should be quick; zero means 2 minutes.
	Timeout time.Duration
}

// Runtime is a client of one CRI runtime.
type Runtime struct {
	resizer
	cfg     Config
	conns   []*grpc.ClientConn
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	name    string
	pulls   chan struct{}
	rate    *rate.Limiter // nil for no limit
	mu      sync.Mutex
	known   map[types.UID]settled // what does not change any more, by pod
}

const maxMessage = 16 << 20

// New connects to the runtime. It does not wait for it to answer; see Version.
func New(cfg Config) (*Runtime, error) {
	if cfg.Endpoint == "" {
		return nil, fmt.Errorf("container runtime endpoint is empty: set containerRuntimeEndpoint in the kubelet's configuration")
	}
	if cfg.ImageEndpoint == "" {
		cfg.ImageEndpoint = cfg.Endpoint
	}
	if cfg.ParallelPulls <= 0 {
		cfg.ParallelPulls = 5
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Minute
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.NewKubelet().Runtime
	}
	if cfg.Starting == nil {
		cfg.Starting = func() func() { return func() {} }
	}
	r := &Runtime{cfg: cfg, pulls: make(chan struct{}, cfg.ParallelPulls), known: map[types.UID]settled{}}
	if cfg.PullRate > 0 {
		r.rate = rate.NewLimiter(rate.Limit(cfg.PullRate), max(cfg.PullBurst, 1))
	}
	conn, err := dial(cfg.Endpoint, cfg.Metrics.Called, cfg.Dial...)
	if err != nil {
		return nil, err
	}
	imageConn := conn
	r.conns = append(r.conns, conn)
	if cfg.ImageEndpoint != cfg.Endpoint {
		if imageConn, err = dial(cfg.ImageEndpoint, cfg.Metrics.Called, cfg.Dial...); err != nil {
			return nil, err
		}
		r.conns = append(r.conns, imageConn)
	}
	r.runtime, r.images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(imageConn)
	r.resizer = resizer{r.runtime, cfg.Node, cfg.Timeout}
	return r, nil
}

func counting(called func(string, time.Duration, error)) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		began := time.Now()
		err := invoke(ctx, method, req, reply, conn, opts...)
		called(method, time.Since(began), err)
		return err
	}
}

func dial(endpoint string, called func(string, time.Duration, error), more ...grpc.DialOption) (*grpc.ClientConn, error) {
	if strings.HasPrefix(endpoint, "/") {
		endpoint = "unix://" + endpoint
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)), grpc.WithChainUnaryInterceptor(counting(called))}
	conn, err := grpc.NewClient(endpoint, append(options, more...)...)
	if err != nil {
		return nil, fmt.Errorf("container runtime endpoint %q: %w", endpoint, err)
	}
	return conn, nil
}

// Close ends the connections.
func (r *Runtime) Close() error {
	var first error
	for _, c := range r.conns {
		if err := c.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Version asks the runtime for its name and version. It must have been called once before Observe: the name is part of
// container IDs.
func (r *Runtime) Version(ctx context.Context) (name, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	resp, err := r.runtime.Version(ctx, &cri.VersionRequest{Version: "0.1.0"})
	if err != nil {
		return "", "", fmt.Errorf("ask runtime at %s for its version: %w", r.cfg.Endpoint, err)
	}
	r.mu.Lock()
	r.name = resp.RuntimeName
	r.mu.Unlock()
	return resp.RuntimeName, resp.RuntimeVersion, nil
}

// Name of the runtime, as in container IDs: containerd://…
func (r *Runtime) Name() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.name
}

// CRI gives the plain clients, for parts that need calls of their own (statistics, image collection, streaming).
func (r *Runtime) CRI() (cri.RuntimeServiceClient, cri.ImageServiceClient) {
	return r.runtime, r.images
}

// Ready tells whether the runtime, and its network, can run pods.
func (r *Runtime) Ready(ctx context.Context) (runtimeErr, networkErr error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := r.runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return fmt.Errorf("container runtime is down: %s", message(err)), fmt.Errorf("container runtime status check may not have completed yet")
	}
	runtimeErr = fmt.Errorf("container runtime did not report RuntimeReady")
	networkErr = fmt.Errorf("container runtime did not report NetworkReady")
	for _, c := range resp.GetStatus().GetConditions() {
		var result error
		if !c.Status {
			result = fmt.Errorf("container runtime network not ready: NetworkReady=false reason:%s message:%s", c.Reason, c.Message)
		}
		switch c.Type {
		case "RuntimeReady":
			runtimeErr = result
		case "NetworkReady":
			networkErr = result
		}
	}
	return runtimeErr, networkErr
}

// message is the text of a gRPC error without its code.
func message(err error) string {
	s, _ := status.FromError(err)
	return s.Message()
}

func notFound(err error) bool { return status.Code(err) == codes.NotFound }

// PodDir is the pod's directory on this node.
func (r *Runtime) PodDir(p *v1.Pod) string { return filepath.Join(r.cfg.PodsDir, string(p.UID)) }

// resolv reads the host's resolver configuration.
func resolv(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read resolvConf: %w", err)
	}
	return string(raw), nil
}
