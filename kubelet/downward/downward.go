// Package downward resolves the downward API: fields and resources of a pod that its containers may see, as files or in
// their environment. The rules are those of k8s.io/api's ObjectFieldSelector and ResourceFieldSelector.
package downward

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Field returns a field of the pod's metadata: name, namespace, uid, labels, annotations, labels['k'], annotations['k'].
// These are what a volume may show; Env knows more.
func Field(pod *v1.Pod, path string) (string, error) {
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return format(pod.Labels), nil
	case "metadata.annotations":
		return format(pod.Annotations), nil
	}
	if key, ok := subscript(path, "metadata.labels"); ok {
		return pod.Labels[key], nil
	}
	if key, ok := subscript(path, "metadata.annotations"); ok {
		return pod.Annotations[key], nil
	}
	return "", fmt.Errorf("unsupported fieldPath %q", path)
}

// Env returns a field of the pod for an environment variable: those of Field, spec.nodeName, spec.serviceAccountName and
// the addresses. podIPs and hostIPs are in order of preference.
func Env(pod *v1.Pod, path string, podIPs, hostIPs []string) (string, error) {
	first := func(ips []string) string {
		if len(ips) == 0 {
			return ""
		}
		return ips[0]
	}
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(hostIPs), nil
	case "status.hostIPs":
		return strings.Join(hostIPs, ","), nil
	case "status.podIP":
		return first(podIPs), nil
	case "status.podIPs":
		return strings.Join(podIPs, ","), nil
	}
	return Field(pod, path)
}

func subscript(path, of string) (key string, ok bool) {
	rest, ok := strings.CutPrefix(path, of+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

// format writes a map as lines of key="value", sorted by key.
func format(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(k + "=" + strconv.Quote(m[k]))
	}
	return b.String()
}

// Resource returns a request or limit of a container, divided by the selector's divisor and rounded up. A container
// without a limit has the node's: allocatable. The container is the one the selector names, or fallback for an
// environment variable, whose selector may name none.
func Resource(pod *v1.Pod, fallback string, sel *v1.ResourceFieldSelector, allocatable v1.ResourceList) (string, error) {
	name := sel.ContainerName
	if name == "" {
		name = fallback
	}
	c := container(pod, name)
	if c == nil {
		return "", fmt.Errorf("resourceFieldRef: container %q not found", name)
	}
	side, res, _ := strings.Cut(sel.Resource, ".")
	q, err := quantity(c, side, v1.ResourceName(res), allocatable)
	if err != nil {
		return "", err
	}
	divisor := sel.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if res == string(v1.ResourceCPU) {
		return ceil(q.MilliValue(), divisor.MilliValue()), nil
	}
	return ceil(q.Value(), divisor.Value()), nil
}

func quantity(c *v1.Container, side string, res v1.ResourceName, allocatable v1.ResourceList) (resource.Quantity, error) {
	standard := res == v1.ResourceCPU || res == v1.ResourceMemory || res == v1.ResourceEphemeralStorage
	if !standard && !strings.HasPrefix(string(res), v1.ResourceHugePagesPrefix) {
		return resource.Quantity{}, fmt.Errorf("unsupported container resource %q", side+"."+string(res))
	}
	switch side {
	case "requests":
		return c.Resources.Requests[res], nil
	case "limits":
		q, ok := c.Resources.Limits[res]
		if standard && (!ok || q.IsZero()) {
			q = allocatable[res]
		}
		return q, nil
	}
	return resource.Quantity{}, fmt.Errorf("unsupported container resource %q", side+"."+string(res))
}

func ceil(value, divisor int64) string {
	return strconv.FormatInt(int64(math.Ceil(float64(value)/float64(divisor))), 10)
}

func container(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
