package dra

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/skiff-node/skiff/kubelet/dra/driver"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// Counts takes in what is counted; *metrics.Kubelet does.
type Counts interface {
	ClaimsOperated(operation, failed string, took time.Duration)
	DriverCalled(driver, method, code string, took time.Duration)
	ClaimsInUse(count func() map[string]int)
}

// Pods are the pods of the node and their workers; *worker.Pool is it.
type Pods interface {
	Pods() []*v1.Pod
	Wake(uid types.UID)
	// Retry is Wake, and what failed is tried again at once.
	Retry(uid types.UID)
}

// NodeConfig of a Node. All fields but Client and Log are required.
type NodeConfig struct {
	// Dir is the kubelet's root directory.
	Dir string
	// Client is nil without an API server: then there are no claims, and nothing is done.
	Client kubernetes.Interface
	// Name of the node; Registered tells whether its object is in the API.
	Name       string
	Registered func() bool
	// Dial connects to a driver's socket.
	Dial func(socket string) (*grpc.ClientConn, error)
	// Pods is called once the kubelet runs.
	Pods   func() Pods
	Counts Counts
	Log    *slog.Logger
}

// Node is what a kubelet has to do with claims: a Manager with the drivers of the node.
type Node struct {
	*Manager
	// Drivers is nil without an API server.
	Drivers *driver.Drivers
	cfg     NodeConfig
}

// NewNode makes manager and drivers and ties them together.
func NewNode(cfg NodeConfig) (*Node, error) {
	n := &Node{cfg: cfg}
	if cfg.Client == nil {
		n.Manager = &Manager{}
		return n, nil
	}
	var err error
	n.Drivers, err = driver.New(driver.Config{Client: cfg.Client, Node: cfg.Name, Registered: cfg.Registered, Dial: cfg.Dial,
		Came: n.came, Sick: n.sick, Called: cfg.Counts.DriverCalled, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	n.Manager, err = New(Config{Dir: cfg.Dir, Claims: fromAPI{cfg.Client}, Drivers: n.Drivers, Operated: cfg.Counts.ClaimsOperated, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	cfg.Counts.ClaimsInUse(n.InUse)
	return n, nil
}

// Prepare is the Manager's. Without an API server there are no claims.
func (n *Node) Prepare(ctx context.Context, p *v1.Pod) error {
	if n.cfg.Client == nil && usesClaims(p) {
		return errors.New("prepare dynamic resources: this kubelet runs without an API server, where claims are")
	}
	return n.Manager.Prepare(ctx, p)
}

func usesClaims(p *v1.Pod) bool {
	return len(p.Spec.ResourceClaims) > 0 || p.Status.ExtendedResourceClaimStatus != nil
}

// came lets the pods that may have waited for a driver try again at once.
func (n *Node) came(string) {
	pods := n.cfg.Pods()
	for _, p := range pods.Pods() {
		if usesClaims(p) {
			pods.Retry(p.UID)
		}
	}
}

// sick lets the status of pods tell of the health of their devices.
func (n *Node) sick(driverName string, devices []driver.Device) {
	for _, uid := range n.UsedBy(driverName, devices) {
		n.cfg.Pods().Wake(uid)
	}
}

// Run does what drivers need to have done, until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	if n.Drivers == nil {
		return nil
	}
	return n.Drivers.Run(ctx)
}

// Extra is what a container gets beside its spec: the names of its devices.
func (n *Node) Extra(_ context.Context, p *v1.Pod, c *v1.Container) (*spec.Extra, error) {
	names, err := n.Devices(p, c)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	out := &spec.Extra{}
	for _, name := range names {
		out.CDIDevices = append(out.CDIDevices, &cri.CDIDevice{Name: name})
	}
	return out, nil
}

// Container implements podresources.Source.
func (n *Node) Container(p *v1.Pod, container string, out *podresources.ContainerResources) {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		if i := slices.IndexFunc(list, func(c v1.Container) bool { return c.Name == container }); i >= 0 {
			out.DynamicResources = append(out.DynamicResources, n.Resources(p, &list[i])...)
		}
	}
}

// Allocatable implements podresources.Source. Devices that claims can have are told by ResourceSlices.
func (n *Node) Allocatable(*podresources.AllocatableResourcesResponse) {}

// fromAPI reads claims.
type fromAPI struct{ client kubernetes.Interface }

func (f fromAPI) Get(ctx context.Context, namespace, name string) (*resourceapi.ResourceClaim, error) {
	return f.client.ResourceV1().ResourceClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}
