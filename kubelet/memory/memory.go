// Package memory decides what containers may use of swap (KEP-2400), and how the kernel protects their memory and throttles their
// growth (KEP-2570). It is pure but for Read.
//
//	swap        NoSwap     none; with cgroup v1 the memory limit is that of memory and swap together
//	            LimitedSwap  Burstable pods: a container gets as much of the swap as its request is of the memory
//	protection  TieredReservation: requests are never reclaimed (memory.min) from Guaranteed pods, and last (memory.low) from Burstable ones
//	oom         a container out of memory is killed as a whole, unless singleProcessOOMKill
//	throttling  memoryThrottlingFactor: growth is slowed down (memory.high) at that part of the way from request to limit
//
// All but NoSwap needs cgroup v2.
package memory

import (
	"bufio"
	"cmp"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/pod"
)

// The behaviours of memorySwap.swapBehavior.
const (
	NoSwap      = "NoSwap"
	LimitedSwap = "LimitedSwap"
)

// The files of cgroup v2.
const (
	fileSwap = "memory.swap.max"
	fileMin  = "memory.min"
	fileLow  = "memory.low"
	fileHigh = "memory.high"
	fileOOM  = "memory.oom.group"
)

// unlimited takes a limit away.
const unlimited = -1

// Policy is how a node treats the memory of its containers.
type Policy struct {
	// Total memory and Swap space of the machine, in bytes.
	Total, Swap int64
	// Version of control groups; Control tells whether they count swap.
	Version cgroup.Version
	Control bool
	// Limited lets Burstable pods swap.
	Limited bool
	// Tiered protects what pods request. Throttling is the factor of memory.high, 0 for none.
	Tiered     bool
	Throttling float64
	// Together: when a container runs out of memory, all of its processes are killed, not one.
	Together bool
	// Allocatable is how much memory pods may have together, for containers without a limit.
	Allocatable func() int64
}

// Read makes the policy that the configuration asks for, and refuses what this machine cannot do.
func Read(c *kubeletconfig.KubeletConfiguration, total, swap int64) (Policy, error) {
	if c.FailSwapOn != nil && *c.FailSwapOn {
		if on, err := swapOn("/proc/swaps"); err != nil || on {
			return Policy{}, errors.Join(errors.New("failSwapOn: running with swap on is not supported, please disable swap or set failSwapOn to false"), err)
		}
	}
	p := Policy{Total: total, Swap: swap, Version: cgroup.V1, Limited: c.MemorySwap.SwapBehavior == LimitedSwap,
		Tiered: c.MemoryReservationPolicy == kubeletconfig.TieredReservationMemoryReservationPolicy}
	if layout, err := cgroup.Detect(); err == nil {
		p.Version, p.Control = layout.Version, controls(layout)
	}
	p.Together = c.SingleProcessOOMKill == nil || !*c.SingleProcessOOMKill
	if c.MemoryThrottlingFactor != nil {
		p.Throttling = *c.MemoryThrottlingFactor
	}
	if s := c.SingleProcessOOMKill; s != nil && !*s && p.Version == cgroup.V1 {
		return p, errors.New("singleProcessOOMKill must not be explicitly set to false when using cgroup v1")
	}
	return p, p.check()
}

func (p Policy) check() error {
	if p.Limited && p.Version == cgroup.V1 {
		return errors.New("memorySwap.swapBehavior: swap feature is enabled and LimitedSwap but it is only supported with cgroupv2")
	}
	return nil
}

// controls tells whether the control groups of this machine count swap. The root group of version 2 has no such file, so it is
// looked for in the kubelet's own.
func controls(l cgroup.Layout) bool {
	path := filepath.Join(l.Trees["memory"], "memory.memsw.limit_in_bytes")
	if l.Version == cgroup.V2 {
		own, err := l.Own()
		if err != nil {
			return false
		}
		path = filepath.Join(l.Trees["memory"], own, fileSwap)
	}
	_, err := os.Stat(path)
	return err == nil
}

// swapOn tells whether any swap space is in use.
func swapOn(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		lines++
	}
	return lines > 1, nil // the first is the heading
}

// Tune adds to the resources of a container what the policy has for it.
func (p Policy) Tune(of *v1.Pod, c *v1.Container, r *cri.LinuxContainerResources) {
	set := func(file string, value int64) {
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		r.Unified[file] = strconv.FormatInt(value, 10)
		if value == unlimited {
			r.Unified[file] = "max"
		}
	}
	switch {
	case !p.Control:
	case p.Version == cgroup.V1:
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
	case p.Swaps(of, c):
		set(fileSwap, p.share(c.Resources.Requests.Memory().Value()))
	default:
		set(fileSwap, 0)
	}
	if p.Version == cgroup.V1 {
		return
	}
	if p.Together {
		set(fileOOM, 1)
	}
	request, limit := c.Resources.Requests.Memory().Value(), c.Resources.Limits.Memory().Value()
	if file := p.protection(of); p.Tiered && request > 0 {
		set(file, request)
	}
	set(fileHigh, cmp.Or(p.containerHigh(of, request, limit), unlimited)) // a resize takes back the one that there was
}

// Swaps tells whether the container may use swap: one of a Burstable pod that is not critical, which asks for memory, and for
// less than its limit.
func (p Policy) Swaps(of *v1.Pod, c *v1.Container) bool {
	request, limit := c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
	asks := !request.IsZero() || !limit.IsZero()
	return p.Limited && p.Control && p.Version == cgroup.V2 && !pod.Critical(of) && asks && request.Cmp(*limit) != 0 && pod.QOS(of) == v1.PodQOSBurstable
}

// share of the swap is that of the request of the memory; none when the request makes no sense here.
func (p Policy) share(request int64) int64 {
	if p.Total <= 0 || request > p.Total {
		return 0
	}
	return int64(float64(request) / float64(p.Total) * float64(p.Swap))
}

func (p Policy) protection(of *v1.Pod) string {
	if pod.QOS(of) == v1.PodQOSGuaranteed {
		return fileMin
	}
	return fileLow
}

// containerHigh is where a container is throttled; 0 for nowhere. One without a limit is throttled on its way to all that pods may
// have; but where the pod as a whole has a limit, the pod's group is.
func (p Policy) containerHigh(of *v1.Pod, request, limit int64) int64 {
	whole := of.Spec.Resources
	switch {
	case p.Throttling == 0 || (request == limit && request != 0):
		return 0
	case limit > 0:
		return p.High(request, limit)
	case whole != nil && !whole.Limits.Memory().IsZero():
		return 0
	case p.Allocatable == nil:
		return 0
	}
	return p.High(request, p.Allocatable())
}

// High is the memory.high between a request and a limit, in whole pages: 0 when there is nothing in between.
func (p Policy) High(request, limit int64) int64 {
	if p.Throttling == 0 || limit == 0 || request == limit {
		return 0
	}
	page := int64(os.Getpagesize())
	high := int64(math.Floor((float64(request)+(float64(limit)-float64(request))*p.Throttling)/float64(page))) * page
	if high <= request {
		return 0
	}
	return high
}
