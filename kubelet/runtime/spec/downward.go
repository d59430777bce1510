package spec

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-node/skiff/kubelet/pod"
)

func join(list []string) string { return strings.Join(list, ",") }

// metadataField resolves labels and annotations, whole or by key: metadata.labels['key'].
func metadataField(p *v1.Pod, path string) (string, error) {
	name, key, hasKey := strings.Cut(path, "['")
	maps := map[string]map[string]string{"metadata.labels": p.Labels, "metadata.annotations": p.Annotations}
	m, ok := maps[name]
	if !ok {
		return "", fmt.Errorf("unsupported fieldPath: %v", path)
	}
	if hasKey {
		return m[strings.TrimSuffix(key, "']")], nil
	}
	lines := make([]string, 0, len(m))
	for k, v := range m {
		lines = append(lines, fmt.Sprintf("%v=%q", k, v))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n"), nil
}

// resource resolves a resourceFieldRef: a limit that is not set is what the node could give.
func (src *EnvSource) resource(own *v1.Container, ref *v1.ResourceFieldSelector) (string, error) {
	c := own
	if ref.ContainerName != "" {
		if c = pod.Find(src.Pod, ref.ContainerName); c == nil {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}
	}
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || (kind != "limits" && kind != "requests") {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	q := c.Resources.Requests[v1.ResourceName(name)]
	if kind == "limits" {
		q = c.Resources.Limits[v1.ResourceName(name)]
		if q.IsZero() {
			q = src.Node.Allocatable[v1.ResourceName(name)]
		}
	}
	return divided(v1.ResourceName(name), q, ref.Divisor), nil
}

// divided gives the quantity in units of divisor, rounded up.
func divided(name v1.ResourceName, q, divisor resource.Quantity) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == v1.ResourceCPU {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10)
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10)
}
