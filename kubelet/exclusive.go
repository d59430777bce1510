package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/cpus"
	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/podresources"
)

// newExclusive makes what gives containers CPUs of their own, where cpuManagerPolicy is static.
func newExclusive(k *Kubelet) error {
	c := k.cfg.Configuration
	if c.CPUManagerPolicy != "static" {
		return nil
	}
	topology, err := cpus.ReadTopology("/sys/devices/system/cpu")
	if err != nil {
		return fmt.Errorf("cpuManagerPolicy: static: %w", err)
	}
	reserved, err := reservedCPUs(k, topology)
	if err != nil {
		return err
	}
	a := cpus.New(cpus.Config{PodsDir: filepath.Join(k.cfg.RootDir, "pods"), Topology: topology, Reserved: reserved})
	k.facts.exclusive = a
	k.spec.CPUs = func(p *v1.Pod, container string) string {
		set, _, err := a.Of(p.UID, container)
		if err != nil {
			k.log.Warn("cannot tell which CPUs a container has, it starts on all", "container", container, "err", err)
			return ""
		}
		return set.String()
	}
	calls, _ := k.runtime.CRI()
	k.loops["exclusive CPUs"] = func(ctx context.Context) error {
		return a.Run(ctx, calls, c.CPUManagerReconcilePeriod.Duration, k.log)
	}
	return nil
}

// reservedCPUs are those named, or as many as kubeReserved and systemReserved keep, rounded up.
func reservedCPUs(k *Kubelet, topology cpus.Topology) (cpuset.CPUSet, error) {
	c := k.cfg.Configuration
	if c.ReservedSystemCPUs != "" {
		return cpuset.Parse(c.ReservedSystemCPUs)
	}
	kept, err := readReservation(c)
	if err != nil {
		return cpuset.New(), err
	}
	q := kept.fixed[v1.ResourceCPU]
	if q.IsZero() {
		return cpuset.New(), errors.New("cpuManagerPolicy: static needs CPUs that are never given away: set reservedSystemCPUs, or cpu in kubeReserved or systemReserved")
	}
	set, ok := topology.Take(topology.All(), int(q.Value())) // Value rounds up
	if !ok {
		return set, fmt.Errorf("kubeReserved and systemReserved keep %s CPUs, more than the %d there are", q.String(), len(topology))
	}
	return set, nil
}

// withoutCPUs is how a pod ends for which there are no CPUs, in upstream's words.
func (k *admission) withoutCPUs(p *v1.Pod) *pod.End {
	if k.facts.exclusive == nil {
		return nil
	}
	err := k.facts.exclusive.Allocate(p)
	if err == nil {
		return nil
	}
	return k.refuse(p, "UnexpectedAdmissionError", fmt.Sprintf("Allocate failed due to %v, which is unexpected", err))
}

// newPodResources serves the pod-resources API. That it cannot must not stop the kubelet.
func newPodResources(k *Kubelet) {
	own := func(p *v1.Pod, container string) []int64 {
		if k.facts.exclusive == nil {
			return nil
		}
		set, own, err := k.facts.exclusive.Of(p.UID, container)
		if err != nil || !own {
			return nil
		}
		return ids(set)
	}
	allocatable := func() []int64 {
		if k.facts.exclusive == nil {
			return nil
		}
		return ids(k.facts.exclusive.Allocatable())
	}
	s := podresources.New(podresources.Config{Socket: filepath.Join(k.cfg.RootDir, "pod-resources", "kubelet.sock"),
		Pods: k.Pods, Own: own, Allocatable: allocatable})
	k.loops["pod resources"] = func(ctx context.Context) error {
		if err := s.Run(ctx); err != nil {
			k.log.Warn("the pod-resources API is not served", "err", err)
			<-ctx.Done()
		}
		return nil
	}
}

func ids(set cpuset.CPUSet) []int64 {
	var list []int64
	for _, id := range set.List() {
		list = append(list, int64(id))
	}
	return list
}
