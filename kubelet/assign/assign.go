// Package assign decides which parts of the machine a pod gets for itself, and remembers them as long as the pod is there.
//
//	pod admitted ─► Admit: every container is given what it asks for, or the pod is refused
//	container starts ─► Sets, Extra: where it runs, and what it gets beside its spec
//	pod is over ─► Release, before the API knows; or its directory is removed ─► Release
//
// A container that starts again, under this kubelet or the next, has what it had before.
package assign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/cpuset"

	"google.golang.org/grpc"

	"github.com/skiff-node/skiff/kubelet/assign/cpus"
	"github.com/skiff-node/skiff/kubelet/assign/devices"
	"github.com/skiff-node/skiff/kubelet/assign/memory"
	"github.com/skiff-node/skiff/kubelet/assign/numa"
	"github.com/skiff-node/skiff/kubelet/plugin"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// Config of an Assigner. All fields are required.
type Config struct {
	Configuration *kubeletconfig.KubeletConfiguration
	// RootDir of the kubelet: /var/lib/kubelet.
	RootDir string
	// DevicePluginDir is where device plugins find the kubelet. Dial connects to their sockets.
	DevicePluginDir string
	Dial            func(socket string) (*grpc.ClientConn, error)
	Counts          Counts
	// Changed is told that the node has more or fewer devices, Sick that these pods' devices are in another health.
	Changed func()
	Sick    func(uids []types.UID)
	// Reserved is what kubeReserved and systemReserved keep together.
	Reserved v1.ResourceList
	// Kept is what pods do not get of the machine: Reserved and the hard eviction thresholds.
	Kept v1.ResourceList
	// Runtime moves running containers to other processors.
	Runtime cpus.Runtime
	Log     *slog.Logger
}

// Counts are upstream's metrics. The methods must not block.
type Counts interface {
	devices.Counts
	// Admitted is told how long it took to give a pod what it asks for, CPUs and Memory when a container was given some.
	Admitted(took time.Duration, err error)
	CPUs(err error)
	Memory(err error)
}

// Assigner gives parts of the machine to pods.
type Assigner struct {
	cfg     Config
	devices *devices.Manager
	cpus    *cpus.Allocator // nil unless cpuManagerPolicy is static
	memory  *memory.Manager // nil unless memoryManagerPolicy is Static
	aligner *aligner
	turn    sync.Mutex // held while a pod is given what it asks for
}

// Refusal is why a pod cannot have what it asks for, in upstream's words.
type Refusal struct{ Reason, Message string }

// New reads what there is to give.
func New(cfg Config) (*Assigner, error) {
	a := &Assigner{cfg: cfg}
	machine, err := readMachine()
	if err != nil {
		return nil, err
	}
	a.devices, err = devices.New(devices.Config{Dir: cfg.DevicePluginDir, PodsDir: filepath.Join(cfg.RootDir, "pods"), Nodes: machine.IDs(),
		Dial: cfg.Dial, Changed: cfg.Changed, Sick: cfg.Sick, Counts: cfg.Counts, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	if err := a.newCPUs(machine); err != nil {
		return nil, err
	}
	if err := a.newMemory(machine); err != nil {
		return nil, err
	}
	if a.aligner, err = newAligner(cfg.Configuration, machine); err != nil {
		return nil, err
	}
	a.aligner.providers = append(a.aligner.providers, a.devices)
	if a.cpus != nil {
		a.aligner.providers = append(a.aligner.providers, a.cpus)
	}
	if a.memory != nil {
		a.aligner.providers = append(a.aligner.providers, a.memory)
	}
	return a, nil
}

// newMemory makes what gives containers memory of certain NUMA nodes, where memoryManagerPolicy is Static.
func (a *Assigner) newMemory(machine numa.Machine) error {
	c := a.cfg.Configuration
	switch c.MemoryManagerPolicy {
	case "", kubeletconfig.NoneMemoryManagerPolicy:
		return nil
	case kubeletconfig.StaticMemoryManagerPolicy:
	default:
		return fmt.Errorf("memoryManagerPolicy: %q is none of None, Static", c.MemoryManagerPolicy)
	}
	reserved, err := memory.Reserved(c.ReservedMemory, a.cfg.Kept, machine)
	if err != nil {
		return fmt.Errorf("reservedMemory: %w", err)
	}
	a.memory = memory.New(memory.Config{PodsDir: filepath.Join(a.cfg.RootDir, "pods"), Machine: machine, Reserved: reserved, Given: a.cfg.Counts.Memory})
	return nil
}

// newCPUs makes what gives containers CPUs of their own, where cpuManagerPolicy is static.
func (a *Assigner) newCPUs(machine numa.Machine) error {
	c := a.cfg.Configuration
	if c.CPUManagerPolicy != "static" {
		if len(c.CPUManagerPolicyOptions) > 0 {
			return errors.New("cpuManagerPolicyOptions: they are for cpuManagerPolicy: static")
		}
		return nil
	}
	topology, err := cpus.ReadTopology("/sys/devices/system/cpu", machine)
	if err != nil {
		return fmt.Errorf("cpuManagerPolicy: static: %w", err)
	}
	options, err := cpus.ParseOptions(c.CPUManagerPolicyOptions)
	if err == nil {
		err = options.Check(topology, c.TopologyManagerPolicy)
	}
	if err != nil {
		return fmt.Errorf("cpuManagerPolicyOptions: %w", err)
	}
	reserved, err := reservedCPUs(c.ReservedSystemCPUs, a.cfg.Reserved, topology, options)
	if err != nil {
		return err
	}
	a.cpus = cpus.New(cpus.Config{PodsDir: filepath.Join(a.cfg.RootDir, "pods"), Topology: topology, Reserved: reserved, Options: options, Given: a.cfg.Counts.CPUs})
	return nil
}

func readMachine() (numa.Machine, error) {
	raw, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, fmt.Errorf("read which CPUs are online: %w", err)
	}
	online, err := cpuset.Parse(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("read which CPUs are online: %w", err)
	}
	return numa.Read("/sys/devices/system/node", numa.Node{CPUs: online})
}

// reservedCPUs are those named, or as many as kubeReserved and systemReserved keep, rounded up.
func reservedCPUs(named string, kept v1.ResourceList, topology cpus.Topology, o cpus.Options) (cpuset.CPUSet, error) {
	if named != "" {
		return cpuset.Parse(named)
	}
	q := kept[v1.ResourceCPU]
	if q.IsZero() {
		return cpuset.New(), errors.New("cpuManagerPolicy: static needs CPUs that are never given away: set reservedSystemCPUs, or cpu in kubeReserved or systemReserved")
	}
	set, err := topology.Take(topology.All(), int(q.Value()), o) // Value rounds up
	if err != nil {
		return set, fmt.Errorf("kubeReserved and systemReserved keep %s CPUs, more than the %d there are", q.String(), len(topology))
	}
	return set, nil
}

// Admit gives the pod's containers what they ask for, if that has not been done. It returns nil when all have it.
func (a *Assigner) Admit(p *v1.Pod) *Refusal {
	a.turn.Lock()
	defer a.turn.Unlock()
	began := time.Now()
	err := a.aligner.give(p)
	a.cfg.Counts.Admitted(time.Since(began), err)
	if err != nil {
		a.Release(p.UID)
		return refusal(err)
	}
	return nil
}

// Release takes back what a pod was given that is not taken in after all, that is over, or whose directory is gone.
func (a *Assigner) Release(uid types.UID) {
	a.devices.Release(uid)
	var errs []error
	if a.cpus != nil {
		errs = append(errs, a.cpus.Release(uid))
	}
	if a.memory != nil {
		errs = append(errs, a.memory.Release(uid))
	}
	if err := errors.Join(errs...); err != nil {
		a.cfg.Log.Warn("a pod keeps what it was given until it is deleted", "uid", uid, "err", err)
	}
}

// Extra is what a container that is about to start gets of what its pod was given.
func (a *Assigner) Extra(ctx context.Context, p *v1.Pod, c *v1.Container) (*spec.Extra, error) {
	return a.devices.Extra(ctx, p, c)
}

// Devices takes in device plugins that the plugin watcher finds.
func (a *Assigner) Devices() plugin.Handler { return a.devices }

// Capacity is what device plugins offer, and how much of it is well.
func (a *Assigner) Capacity() (capacity, allocatable v1.ResourceList) { return a.devices.Capacity() }

// Anew tells that no kubelet has ever noted anything of device plugins here.
func (a *Assigner) Anew() bool { return a.devices.Anew() }

// Admissible raises allocatable to what pods have already.
func (a *Assigner) Admissible(allocatable v1.ResourceList) { a.devices.Admissible(allocatable) }

// Health tells how the devices of a pod are, by container name.
func (a *Assigner) Health(p *v1.Pod) map[string][]v1.ResourceStatus { return a.devices.Health(p) }

// Fixed names the policies under which a container's CPUs and memory cannot change while it runs; empty for none.
func (a *Assigner) Fixed() (cpuPolicy, memoryPolicy string) {
	if a.cpus != nil {
		cpuPolicy = a.cfg.Configuration.CPUManagerPolicy
	}
	if a.memory != nil {
		memoryPolicy = a.cfg.Configuration.MemoryManagerPolicy
	}
	return cpuPolicy, memoryPolicy
}

// Sets tells where a container runs.
func (a *Assigner) Sets(p *v1.Pod, container string) spec.Sets {
	var sets spec.Sets
	if a.cpus != nil {
		set, _, err := a.cpus.Of(p.UID, container)
		if err != nil {
			a.cfg.Log.Warn("cannot tell which CPUs a container has, it starts on all", "container", container, "err", err)
		}
		sets.CPUs = set.String()
	}
	if a.memory != nil {
		nodes, err := a.memory.Of(p.UID, container)
		if err != nil {
			a.cfg.Log.Warn("cannot tell which memory a container has, it starts on all", "container", container, "err", err)
		}
		sets.Memory = nodes.String()
	}
	return sets
}

// Loops are what has to run beside.
func (a *Assigner) Loops() map[string]func(context.Context) error {
	loops := map[string]func(context.Context) error{"device plugins": a.serveDevices, "device notes": a.devices.Keep}
	if a.cpus != nil {
		loops["exclusive CPUs"] = func(ctx context.Context) error {
			return a.cpus.Run(ctx, a.cfg.Runtime, a.cfg.Configuration.CPUManagerReconcilePeriod.Duration, a.cfg.Log)
		}
	}
	return loops
}

// busyPause is kept before another try to serve device plugins.
const busyPause = 10 * time.Second

// serveDevices serves device plugins. That it cannot, because another kubelet does, must not stop this one.
func (a *Assigner) serveDevices(ctx context.Context) error {
	for {
		err := a.devices.Run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.cfg.Log.Warn("device plugins cannot register, will be tried again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(busyPause):
		}
	}
}

// Container tells which parts of the machine a container has for itself.
func (a *Assigner) Container(p *v1.Pod, container string, out *podresources.ContainerResources) {
	a.devices.Container(p, container, out)
	if a.memory != nil {
		a.memory.Container(p, container, out)
	}
	if a.cpus == nil {
		return
	}
	if set, own, err := a.cpus.Of(p.UID, container); err == nil && own {
		out.CpuIds = ids(set)
	}
}

// Allocatable tells what may be given to containers.
func (a *Assigner) Allocatable(out *podresources.AllocatableResourcesResponse) {
	a.devices.Allocatable(out)
	if a.memory != nil {
		a.memory.Allocatable(out)
	}
	if a.cpus != nil {
		out.CpuIds = ids(a.cpus.Allocatable())
	}
}

func ids(set cpuset.CPUSet) []int64 {
	var list []int64
	for _, id := range set.List() {
		list = append(list, int64(id))
	}
	return list
}
