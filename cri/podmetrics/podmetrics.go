// Package podmetrics turns measures of pods into the metrics of KEP-2371: those that the kubelet serves under
// /metrics/cadvisor, with cAdvisor's names, types and labels. It is pure.
//
// One table (table.go) has a row per metric: what it is called, what labels it adds to the common ones, and how its
// values are found. Descriptors and values come from the same row, so their labels cannot differ.
//
// CRI carries whole numbers only: metrics in seconds lose their fractions, as with every CRI runtime.
package podmetrics

import (
	"slices"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice"
)

// labels are those that each metric has, as cAdvisor's in a kubelet: id is the cgroup, name the id of the container.
// Metrics of a whole pod have no container and image; their name is the id of the sandbox, for two sandboxes of one pod
// may share a cgroup, and no two metrics may have the same labels.
var labels = []string{"container", "id", "image", "name", "namespace", "pod"}

// subject is what a row measures: a container, or a pod as a whole where container is nil.
type subject struct {
	pod        *runtimeservice.SandboxDetail
	container  *runtimeservice.ContainerDetail
	detail     runtimeservice.Detail
	interfaces []runtimeservice.InterfaceUsage
}

// sample is one value of a metric, with the values of the labels that its row adds.
type sample struct {
	value  uint64
	labels []string
}

// row is one metric.
type row struct {
	name, help string
	kind       cri.MetricType
	extra      []string
	read       func(s subject) []sample
}

// Descriptors lists what can be measured. It never changes.
func Descriptors() []*cri.MetricDescriptor {
	var out []*cri.MetricDescriptor
	for _, r := range table {
		out = append(out, &cri.MetricDescriptor{Name: r.name, Help: r.help, LabelKeys: slices.Concat(labels, r.extra)})
	}
	return out
}

// Pod translates the measure of a pod.
func Pod(d runtimeservice.SandboxDetail) *cri.PodSandboxMetrics {
	out := &cri.PodSandboxMetrics{
		PodSandboxId: d.Sandbox.ID,
		Metrics:      measure(subject{pod: &d, detail: d.Detail, interfaces: d.Interfaces}),
	}
	for i := range d.Containers {
		c := &d.Containers[i]
		out.ContainerMetrics = append(out.ContainerMetrics, &cri.ContainerMetrics{
			ContainerId: c.Container.ID,
			Metrics:     measure(subject{pod: &d, container: c, detail: c.Detail}),
		})
	}
	return out
}

// measure reads all rows. The timestamp stays 0: CRI's way to say that the value was taken for this answer.
func measure(s subject) []*cri.Metric {
	common := s.labels()
	var out []*cri.Metric
	for _, r := range table {
		for _, v := range r.read(s) {
			out = append(out, &cri.Metric{
				Name: r.name, MetricType: r.kind, LabelValues: slices.Concat(common, v.labels),
				Value: &cri.UInt64Value{Value: v.value},
			})
		}
	}
	return out
}

func (s subject) labels() []string {
	m := s.pod.Sandbox.Config.Metadata
	if s.container == nil {
		return []string{"", s.pod.Cgroup, "", s.pod.Sandbox.ID, m.Namespace, m.Name}
	}
	c := s.container.Container
	image := c.Config.Image.UserSpecified
	if image == "" {
		image = c.Config.Image.Ref
	}
	return []string{c.Config.Metadata.Name, s.container.Cgroup, image, c.ID, m.Namespace, m.Name}
}
