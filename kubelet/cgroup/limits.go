package cgroup

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"
)

// Bounds of the kernel for cpu shares (kernel/sched/sched.h), and the shortest quota it takes.
const (
	minShares = 2
	maxShares = 262144
	minQuota  = 1000
	// defaultPeriod is the length of the time slice in which a quota counts, in microseconds.
	defaultPeriod = 100000
)

// Unlimited takes a limit away.
const Unlimited = -1

// Limits are the resources of one control group. nil leaves a resource as it is.
type Limits struct {
	Shares *int64 // relative weight for the processors, 1024 per processor requested
	Quota  *int64 // microseconds of processor time in each Period, or Unlimited
	Period int64  // microseconds; 0 means 100000
	Memory *int64 // bytes, or Unlimited
	Pids   *int64 // processes and threads, or Unlimited
	// Min bytes are never reclaimed, Low ones last; beyond High growth is throttled. Version 2 only.
	Min, Low, High *int64
	// HugePages maps a page size in bytes to the bytes that may be used of it.
	HugePages map[int64]int64
	// CPUs are the processors that may be used, as a list ("0-3,7"); empty leaves them as they are.
	CPUs string
}

// Options are what a pod's limits depend on beside the pod.
type Options struct {
	// NoQuota leaves processor time unlimited whatever the pods say (cpuCFSQuota: false).
	NoQuota bool
	// Period is the length of the time slice in which processor time counts, in microseconds; 0 means 100000.
	Period int64
	// Pids is the most processes per pod, or Unlimited (podPidsLimit).
	Pids int64
	// Tiered protects the memory that pods request (memoryReservationPolicy: TieredReservation).
	Tiered bool
	// High is from where on a pod with a limit of its own is throttled, by its request and limit; 0 for nowhere. May be nil.
	High func(request, limit int64) int64
	// PageSizes are the sizes of huge pages that the node has, in bytes.
	PageSizes []int64
}

// PodLimits computes the limits of a pod's group. A pod is bounded by the sum of its containers' limits only when each
// of them has one.
func PodLimits(pod *v1.Pod, opts Options) Limits {
	requests := helper.PodRequests(pod, helper.PodResourcesOptions{})
	most := helper.PodLimits(pod, helper.PodResourcesOptions{})
	var l Limits
	switch class := ClassOf(pod); class {
	case v1.PodQOSBestEffort:
		l.Shares = ptr(minShares)
	default:
		l.Shares = ptr(Shares(requests.Cpu().MilliValue()))
		if class == v1.PodQOSGuaranteed || allLimited(pod, v1.ResourceCPU) {
			l.Period = opts.Period
			l.Quota = ptr(quota(most.Cpu().MilliValue(), l.period()))
		}
		if class == v1.PodQOSGuaranteed || allLimited(pod, v1.ResourceMemory) {
			l.Memory = ptr(most.Memory().Value())
		}
	}
	if opts.NoQuota && l.Quota != nil {
		l.Quota = ptr(Unlimited)
	}
	if opts.Pids != 0 {
		l.Pids = ptr(opts.Pids)
	}
	l.HugePages = hugePages(requests, opts.PageSizes)
	opts.memory(pod, requests.Memory().Value(), most.Memory().Value(), &l)
	return l
}

// memory protects and throttles the memory of a pod (KEP-2570).
func (o Options) memory(pod *v1.Pod, request, limit int64, l *Limits) {
	if o.Tiered && request > 0 {
		if ClassOf(pod) == v1.PodQOSGuaranteed {
			l.Min = ptr(request)
		} else {
			l.Low = ptr(request)
		}
	}
	if pod.Spec.Resources == nil || o.High == nil || !allLimited(pod, v1.ResourceMemory) {
		return
	}
	l.High = ptr(cmp.Or(o.High(request, limit), Unlimited)) // a resize takes back the one that there was
}

// hugePages is what the pod may use of each size the node has: what it asked for, or none.
func hugePages(requests v1.ResourceList, sizes []int64) map[int64]int64 {
	if len(sizes) == 0 {
		return nil
	}
	limits := make(map[int64]int64, len(sizes))
	for _, size := range sizes {
		limits[size] = 0
	}
	for name, q := range requests {
		text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
		if size, err := resource.ParseQuantity(text); ok && err == nil {
			limits[size.Value()] = q.Value()
		}
	}
	return limits
}

func allLimited(pod *v1.Pod, name v1.ResourceName) bool {
	if r := pod.Spec.Resources; r != nil {
		if q := r.Limits[name]; !q.IsZero() {
			return true
		}
	}
	for i := range pod.Spec.InitContainers {
		if q := pod.Spec.InitContainers[i].Resources.Limits[name]; q.IsZero() {
			return false
		}
	}
	for i := range pod.Spec.Containers {
		if q := pod.Spec.Containers[i].Resources.Limits[name]; q.IsZero() {
			return false
		}
	}
	return true
}

// Shares converts thousandths of a processor to shares.
func Shares(milliCPU int64) int64 {
	return min(max(milliCPU*1024/1000, minShares), maxShares)
}

// period is the time slice that counts.
func (l *Limits) period() int64 { return cmp.Or(l.Period, defaultPeriod) }

func quota(milliCPU, period int64) int64 {
	if milliCPU == 0 {
		return Unlimited
	}
	return max(milliCPU*period/1000, minQuota)
}

// Weight converts shares (2 to 262144) to the weight of version 2 (1 to 10000). The curve maps both ends and 1024 to the
// default of 100; OCI runtimes use the same one since 2025 (opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value).
func Weight(shares int64) int64 {
	if shares <= minShares {
		return 1
	}
	if shares >= maxShares {
		return 10000
	}
	l := math.Log2(float64(shares))
	exponent := (l*l+125*l)/612.0 - 7.0/34.0
	return int64(math.Ceil(math.Pow(10, exponent)))
}

// File is one value to be written to a group: the file's name and the controller whose tree has it in version 1.
type File struct {
	Controller, Name, Value string
}

// Files lists what to write for the limits, in the order to write it.
func Files(version Version, l Limits) []File {
	if version == V2 {
		return files2(l)
	}
	var out []File
	add := func(controller, name string, value *int64) {
		if value != nil {
			out = append(out, File{controller, name, strconv.FormatInt(*value, 10)})
		}
	}
	add("cpu", "cpu.shares", l.Shares)
	if l.Quota != nil {
		out = append(out, File{"cpu", "cpu.cfs_period_us", strconv.FormatInt(l.period(), 10)})
	}
	add("cpu", "cpu.cfs_quota_us", l.Quota)
	add("memory", "memory.limit_in_bytes", l.Memory)
	if l.Pids != nil {
		out = append(out, File{"pids", "pids.max", orMax(*l.Pids)})
	}
	for _, size := range pageSizes(l.HugePages) {
		value := l.HugePages[size]
		add("hugetlb", "hugetlb."+sizeName(size)+".limit_in_bytes", &value)
	}
	return append(out, l.cpus()...)
}

// cpus is the same in both versions. It comes last: where it cannot be set the rest is.
func (l *Limits) cpus() []File {
	if l.CPUs == "" {
		return nil
	}
	return []File{{"cpuset", "cpuset.cpus", l.CPUs}}
}

func files2(l Limits) []File {
	var out []File
	if l.Shares != nil {
		out = append(out, File{"cpu", "cpu.weight", strconv.FormatInt(Weight(*l.Shares), 10)})
	}
	if l.Quota != nil {
		out = append(out, File{"cpu", "cpu.max", orMax(*l.Quota) + " " + strconv.FormatInt(l.period(), 10)})
	}
	if l.Memory != nil {
		out = append(out, File{"memory", "memory.max", orMax(*l.Memory)})
	}
	for _, f := range []struct {
		name  string
		value *int64
	}{{"memory.min", l.Min}, {"memory.low", l.Low}, {"memory.high", l.High}} {
		if f.value != nil {
			out = append(out, File{"memory", f.name, orMax(*f.value)})
		}
	}
	if l.Pids != nil {
		out = append(out, File{"pids", "pids.max", orMax(*l.Pids)})
	}
	for _, size := range pageSizes(l.HugePages) {
		out = append(out, File{"hugetlb", "hugetlb." + sizeName(size) + ".max", strconv.FormatInt(l.HugePages[size], 10)})
	}
	return append(out, l.cpus()...)
}

func orMax(v int64) string {
	if v < 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}

func pageSizes(m map[int64]int64) []int64 {
	var sizes []int64
	for size := range m {
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	return sizes
}

// sizeName is how the kernel writes a page size in file names: 64KB, 2MB, 1GB.
func sizeName(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB", "TB"}
	i := 0
	for bytes >= 1024 && i < len(units)-1 {
		bytes /= 1024
		i++
	}
	return strconv.FormatInt(bytes, 10) + units[i]
}

func ptr(v int64) *int64 { return &v }
