package spec

import (
	"cmp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

const (
	minShares   = 2
	maxShares   = 262144
	sharesPer   = 1024 // CPU shares of one CPU
	quotaPeriod = 100_000
	minQuota    = 1_000
	milliCPU    = 1000
)

// shares translates a CPU request in milli-CPUs.
func shares(milli int64) int64 {
	if milli == 0 {
		return minShares
	}
	return min(max(milli*sharesPer/milliCPU, minShares), maxShares)
}

// linuxResources translates requests and limits. A missing CPU request is taken from the limit.
func linuxResources(n *Node, requests, limits v1.ResourceList) *cri.LinuxContainerResources {
	period := cmp.Or(n.QuotaPeriod, quotaPeriod)
	r := &cri.LinuxContainerResources{CpuPeriod: period, MemoryLimitInBytes: limits.Memory().Value()}
	cpu := limits.Cpu().MilliValue()
	r.CpuShares = shares(cpu)
	if request, ok := requests[v1.ResourceCPU]; ok {
		r.CpuShares = shares(request.MilliValue())
	}
	if n.CPUCFSQuota && cpu > 0 {
		r.CpuQuota = max(cpu*period/milliCPU, minQuota)
	}
	return r
}

// Resources are a container's limits. Where it has none, those of the pod as a whole bound it.
func Resources(n *Node, p *v1.Pod, c *v1.Container) *cri.LinuxContainerResources {
	r := linuxResources(n, c.Resources.Requests, pod.Effective(p.Spec.Resources, c.Resources).Limits)
	r.OomScoreAdj = oomScore(n, p, c)
	r.HugepageLimits = hugepages(c.Resources.Limits)
	if n.Sets != nil {
		s := n.Sets(p, c.Name)
		r.CpusetCpus, r.CpusetMems = s.CPUs, s.Memory
	}
	if n.Tune != nil {
		n.Tune(p, c, r)
	}
	return r
}

// Scores by quality of service: what is guaranteed goes last, what asked for nothing goes first.
const (
	guaranteedScore = -997
	bestEffortScore = 1000
)

func oomScore(n *Node, p *v1.Pod, c *v1.Container) int64 {
	if pod.NodeCritical(p) {
		return guaranteedScore
	}
	switch pod.QOS(p) {
	case v1.PodQOSGuaranteed:
		return guaranteedScore
	case v1.PodQOSBestEffort:
		return bestEffortScore
	}
	request := c.Resources.Requests.Memory().Value()
	score := int64(bestEffortScore)
	if n.Memory > 0 {
		score -= bestEffortScore * request / n.Memory
	}
	return min(max(score, bestEffortScore+guaranteedScore), bestEffortScore-1)
}

// hugepages lists the limits of each page size; runtimes name sizes 2MB and 1GB.
func hugepages(limits v1.ResourceList) []*cri.HugepageLimit {
	var list []*cri.HugepageLimit
	for name, q := range limits {
		size, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		bytes, err := resource.ParseQuantity(size)
		if err != nil {
			continue // not a size: not a resource that validation lets through
		}
		list = append(list, &cri.HugepageLimit{PageSize: pageSize(bytes.Value()), Limit: uint64(q.Value())})
	}
	return list
}

func pageSize(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB"}
	i := 0
	for bytes >= 1024 && bytes%1024 == 0 && i < len(units)-1 {
		bytes, i = bytes/1024, i+1
	}
	q := resource.NewQuantity(bytes, resource.DecimalSI)
	return q.String() + units[i]
}
