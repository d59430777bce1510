package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/kubelet/assign"
	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/cgroup/processes"
	"github.com/skiff-node/skiff/kubelet/cgroup/systemd"
	"github.com/skiff-node/skiff/kubelet/credentials"
	"github.com/skiff-node/skiff/kubelet/dra"
	"github.com/skiff-node/skiff/kubelet/images/pulls"
	"github.com/skiff-node/skiff/kubelet/memory"
	"github.com/skiff-node/skiff/kubelet/node"
	"github.com/skiff-node/skiff/kubelet/objects"
	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/admit"
	"github.com/skiff-node/skiff/kubelet/reserve"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
	"github.com/skiff-node/skiff/kubelet/stats"
	"github.com/skiff-node/skiff/kubelet/volume/token"
)

// machine is what the kubelet has to know of the machine before anything runs.
type machine struct {
	memory, cpus int64
	storage      int64           // bytes for local ephemeral storage; zero when it is not counted
	more         v1.ResourceList // that only groups of processes are bounded to: process ids and huge pages
	usage        memory.Policy   // swap and protection of memory
	ips          []string
	reserved     func(v1.ResourceList) v1.ResourceList
	online       string           // the list of its processors
	apparmor     bool             // the kernel enforces AppArmor profiles
	pulls        *pulls.Records   // with which credentials its images were pulled
	assigned     *assign.Assigner // gives parts of it to pods
	claims       *dra.Node        // gives pods the devices of their claims
}

func readMachine(cfg *Config) (machine, error) {
	facts, err := node.ReadFacts(cfg.RootDir)
	if err != nil {
		return machine{}, fmt.Errorf("read the facts of this machine: %w", err)
	}
	kept, err := reserve.Read(cfg.Configuration)
	if err != nil {
		return machine{}, err
	}
	m := machine{apparmor: admit.AppArmor(), memory: facts.Memory, cpus: facts.CPUs, more: facts.Pages(), online: facts.Online, ips: cfg.NodeIPs, reserved: kept.Of}
	if pids := stats.MaxPIDs(); pids > 0 {
		m.more[reserve.PIDs] = *resource.NewQuantity(pids, resource.DecimalSI)
	}
	if *cfg.Configuration.LocalStorageCapacityIsolation {
		m.storage = facts.Storage
	}
	if m.usage, err = memory.Read(cfg.Configuration, facts.Memory, facts.Swap()); err != nil {
		return m, err
	}
	if len(m.ips) == 0 && facts.DefaultIP == "" {
		return m, errors.New("no default route to take the node's address from: give NodeIPs")
	}
	if len(m.ips) == 0 {
		m.ips = []string{facts.DefaultIP}
	}
	return m, nil
}

// errNoAPI is the answer to whoever wants an object where there is no API server.
var errNoAPI = errors.New("this kubelet runs without an API server: only static pods, which cannot refer to objects of the API")

// noObjects stands in for the API where there is none.
type noObjects struct{}

func (noObjects) ConfigMap(context.Context, string, string) (*v1.ConfigMap, error) {
	return nil, errNoAPI
}

func (noObjects) Secret(context.Context, string, string) (*v1.Secret, error) { return nil, errNoAPI }

func (noObjects) Token(context.Context, *v1.Pod, *v1.ServiceAccountTokenProjection) (string, error) {
	return "", errNoAPI
}

func (noObjects) Forget(string) {}

// serviceAccounts tells credential provider plugins of pods' service accounts.
type serviceAccounts struct {
	*token.Source
	client kubernetes.Interface
}

func (a serviceAccounts) ServiceAccount(ctx context.Context, namespace, name string) (*v1.ServiceAccount, error) {
	return a.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

// accountsOf is nil without an API server.
func accountsOf(client kubernetes.Interface, tokens *token.Source) credentials.Accounts {
	if client == nil {
		return nil
	}
	return serviceAccounts{tokens, client}
}

// reader reads ConfigMaps and Secrets.
func (k *Kubelet) reader() spec.Objects {
	if k.objects == nil {
		return noObjects{}
	}
	return k.objects
}

func (k *Kubelet) newObjects() error {
	if k.client == nil {
		return nil
	}
	k.volumes.tokens = token.New(token.Config{Client: k.client, Log: k.log})
	var err error
	k.objects, err = objects.New(objects.Config{Client: k.client, Log: k.log, Changed: func(uids []types.UID) {
		for _, uid := range uids {
			k.pool.Retry(uid)
		}
		k.volumes.Changed(uids)
	}})
	return err
}

// newCgroups makes the tree of cgroups, with the driver that the runtime uses if it tells.
func (k *Kubelet) newCgroups(ctx context.Context) error {
	c := k.cfg.Configuration
	driver := c.CgroupDriver
	calls, _ := k.runtime.CRI()
	resp, err := calls.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{})
	switch {
	case err == nil && resp.GetLinux() != nil:
		driver = strings.ToLower(resp.Linux.CgroupDriver.String())
	case err != nil && status.Code(err) != codes.Unimplemented:
		return fmt.Errorf("ask the runtime for its cgroup driver: %w", err)
	}
	groups, err := newGroups(k, driver == "systemd")
	if err != nil {
		return err
	}
	k.cgroups.Store(&groups)
	k.metrics.Node.Groups(int(groups.Version()), groups.Protected)
	if c.SystemCgroups != "" || c.KubeletCgroups != "" {
		keeper, err := processes.New(processes.Config{System: c.SystemCgroups, Kubelet: c.KubeletCgroups, Log: k.log})
		if err != nil {
			return err
		}
		k.loops["processes of the machine"] = keeper.Run
	}
	return groups.EnsureNode()
}

func newGroups(k *Kubelet, bySystemd bool) (cgroup.Groups, error) {
	c := k.cfg.Configuration
	capacity := k.facts.capacity(c.MaxPods)
	maps.Copy(capacity, k.facts.more)
	cfg := cgroup.Config{Root: c.CgroupRoot, Log: k.log, Node: reserve.NodeLimits(c, capacity), Reserved: reserve.GroupLimits(c, capacity), Reserve: reserve.Better(c, capacity),
		Options: cgroup.Options{NoQuota: !*c.CPUCFSQuota, Period: c.CPUCFSQuotaPeriod.Microseconds(), Pids: *c.PodPidsLimit, Tiered: k.facts.usage.Tiered, High: k.facts.usage.High}}
	if c.CPUManagerPolicy == "none" { // as upstream: so that systemd knows that processors are limited below, and does not undo it
		cfg.Node.CPUs = k.facts.online
	}
	if bySystemd {
		units, err := systemd.New()
		if err != nil {
			return nil, fmt.Errorf("cgroup driver systemd: %w", err)
		}
		cfg.Units = units
	}
	m, err := cgroup.New(cfg)
	if err == nil && !*c.CgroupsPerQOS {
		return cgroup.Flat{Manager: m}, nil
	}
	if cfg.Reserve.Percent > 0 {
		k.loops["reserved memory"] = func(ctx context.Context) error { return m.Hold(ctx, time.Minute) }
	}
	return m, err
}

// cgroups makes pods' cgroups with the manager that is known only once the runtime has answered.
type cgroups Kubelet

func (k *cgroups) groups() cgroup.Groups { return *k.cgroups.Load() }

func (k *cgroups) took(operation string, began time.Time) {
	k.metrics.Pods.Cgroup(operation, time.Since(began))
}

func (k *cgroups) EnsurePod(p *v1.Pod) (string, error) {
	defer k.took("create", time.Now())
	return k.groups().EnsurePod(p)
}

func (k *cgroups) Adopt(p *v1.Pod) { k.groups().Adopt(p) }

func (k *cgroups) ResizePod(p *v1.Pod, change func() error) error {
	defer k.took("update", time.Now())
	return k.groups().ResizePod(p, change)
}

func (k *cgroups) RemovePod(ctx context.Context, uid types.UID) error {
	defer k.took("destroy", time.Now())
	return k.groups().RemovePod(ctx, uid)
}

// parallelPulls is how many images may be pulled at once. Upstream's default is one; pulls of different images do not
// disturb each other here, so it is some unless the configuration says otherwise.
func parallelPulls(c *kubeletconfig.KubeletConfiguration) int {
	switch {
	case c.SerializeImagePulls != nil && *c.SerializeImagePulls:
		return 1
	case c.MaxParallelImagePulls != nil:
		return int(*c.MaxParallelImagePulls)
	}
	return 0
}

// runtimeHandler looks RuntimeClasses up in the API; nil without one.
func runtimeHandler(client kubernetes.Interface) func(context.Context, string) (string, error) {
	if client == nil {
		return nil
	}
	return func(ctx context.Context, name string) (string, error) {
		class, err := client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		return class.Handler, nil
	}
}

// services watches the services that pods' environments tell of.
type services struct {
	factory informers.SharedInformerFactory
	lister  corelisters.ServiceLister
	synced  cache.InformerSynced
}

func newServices(client kubernetes.Interface) *services {
	if client == nil {
		return &services{}
	}
	// Headless services are never shown, and are many in some clusters.
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = "!" + v1.IsHeadlessService
	}))
	s := f.Core().V1().Services()
	return &services{factory: f, lister: s.Lister(), synced: s.Informer().HasSynced}
}

func (s *services) run(ctx context.Context) error {
	s.factory.StartWithContext(ctx)
	<-ctx.Done()
	s.factory.Shutdown()
	return nil
}

// of gives the services once they are known. A static pod does not wait: it may be the API server itself.
func (s *services) of(ctx context.Context, p *v1.Pod) ([]*v1.Service, error) {
	if s.lister == nil {
		return nil, nil
	}
	static := pod.Static(p)
	for !static && !s.synced() {
		select {
		case <-ctx.Done():
			return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return s.lister.List(labels.Everything())
}

// capacity is what the machine has for pods when no node object tells.
func (m machine) capacity(maxPods int32) v1.ResourceList {
	list := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(m.cpus, resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(m.memory, resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	if m.storage > 0 {
		list[v1.ResourceEphemeralStorage] = *resource.NewQuantity(m.storage, resource.BinarySI)
	}
	return list
}
