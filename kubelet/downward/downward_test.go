package downward

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func list(pairs ...string) v1.ResourceList {
	l := v1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

var pod = &v1.Pod{
	ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"b": "2", "a": "x\"y"},
		Annotations: map[string]string{"example.com/k[0]": "v"}},
	Spec: v1.PodSpec{NodeName: "n", ServiceAccountName: "sa",
		InitContainers: []v1.Container{{Name: "init"}},
		Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
			Requests: list("cpu", "250m", "memory", "64Mi"),
			Limits:   list("cpu", "1500m", "hugepages-2Mi", "4Mi")}}}},
}

func TestEnv(t *testing.T) {
	for path, want := range map[string]string{
		"metadata.name": "p", "metadata.namespace": "ns", "metadata.uid": "u",
		"metadata.labels": "a=\"x\\\"y\"\nb=\"2\"", "metadata.labels['b']": "2", "metadata.labels['none']": "",
		"metadata.annotations['example.com/k[0]']": "v", "spec.nodeName": "n", "spec.serviceAccountName": "sa",
		"status.podIP": "10.0.0.1", "status.podIPs": "10.0.0.1,fd00::1", "status.hostIP": "192.168.0.1", "status.hostIPs": "192.168.0.1",
	} {
		got, err := Env(pod, path, []string{"10.0.0.1", "fd00::1"}, []string{"192.168.0.1"})
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "spec.nodeName", "metadata.labels['a", "status.phase"} {
		if got, err := Field(pod, path); err == nil {
			t.Errorf("%s: %q, want an error", path, got)
		}
	}
}

func TestResource(t *testing.T) {
	allocatable := list("cpu", "2", "memory", "1Gi", "ephemeral-storage", "10Gi")
	for _, tc := range []struct{ container, resource, divisor, want string }{
		{"c", "requests.cpu", "", "1"},
		{"c", "requests.cpu", "1m", "250"},
		{"c", "limits.cpu", "1", "2"},
		{"c", "requests.memory", "1Mi", "64"},
		{"c", "limits.memory", "1Mi", "1024"},
		{"c", "limits.ephemeral-storage", "1Gi", "10"},
		{"c", "requests.ephemeral-storage", "", "0"},
		{"c", "limits.hugepages-2Mi", "1Mi", "4"},
		{"init", "limits.cpu", "", "2"},
		{"", "requests.cpu", "1m", "250"},
		{"none", "limits.cpu", "", "error"},
		{"c", "limits.example.com/gpu", "", "error"},
		{"c", "cpu", "", "error"},
	} {
		sel := &v1.ResourceFieldSelector{ContainerName: tc.container, Resource: tc.resource}
		if tc.divisor != "" {
			sel.Divisor = resource.MustParse(tc.divisor)
		}
		got, err := Resource(pod, "c", sel, allocatable)
		if err != nil {
			got = "error"
		}
		if got != tc.want {
			t.Errorf("%+v: got %s %v", tc, got, err)
		}
	}
}
