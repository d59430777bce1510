//go:build e2e

package conformance

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// allocation is what the node has for pods, as resource field references show it.
type allocation struct{ cpu, memory string }

// allocatable reads it from the node: whole CPUs, rounded up, and bytes.
func (w *world) allocatable() allocation {
	w.Helper()
	n, err := w.client.CoreV1().Nodes().Get(context.Background(), w.h.Name, metav1.GetOptions{})
	w.must(err)
	return allocation{cpu: strconv.FormatInt(n.Status.Allocatable.Cpu().Value(), 10), memory: strconv.FormatInt(n.Status.Allocatable.Memory().Value(), 10)}
}

// downwardVolume makes the volume's source in YAML of its items; options begin with a comma.
type downwardVolume func(items, options string) string

// downward is volumes that show the pod to itself, projected or not.
func downward() []behaviour {
	plain := func(items, options string) string { return fmt.Sprintf("downwardAPI: {items: [%s]%s}", items, options) }
	projected := func(items, options string) string {
		return fmt.Sprintf("projected: {sources: [{downwardAPI: {items: [%s]}}]%s}", items, options)
	}
	return slices.Concat(shown("[sig-storage] Downward API volume ", plain), shown("[sig-storage] Projected downwardAPI ", projected))
}

// self is a pod that runs a script with the volume at /v; its container has limits or not.
func (w *world) self(volume, script, resources string) string {
	return fmt.Sprintf(`containers: [{name: c0, args: [%q], volumeMounts: [{name: v, mountPath: /v}], resources: {%s}}]
volumes: [{name: v, %s}]`, script, resources, volume)
}

func shown(prefix string, volume downwardVolume) []behaviour {
	const (
		limited = "requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 1250m, memory: 64Mi}"
		podname = "{path: podname, fieldRef: {fieldPath: metadata.name}}"
	)
	resource := func(name, divisor string) string {
		return volume(fmt.Sprintf("{path: file, resourceFieldRef: {containerName: c0, resource: %s, divisor: %s}}", name, divisor), "")
	}
	prints := func(what, resourceName, divisor, want string) behaviour {
		return behaviour{prefix + "should provide container's " + what, func(w *world) {
			w.prints(w.spec(w.self(resource(resourceName, divisor), "cat /v/file", limited)), want)
		}}
	}
	return []behaviour{
		prints("cpu limit", "limits.cpu", "1m", "1250"), prints("memory limit", "limits.memory", "1Mi", "64"),
		prints("cpu request", "requests.cpu", "1m", "250"), prints("memory request", "requests.memory", "1Mi", "32"),
		{prefix + "should provide node allocatable (cpu) as default cpu limit if the limit is not set", func(w *world) {
			w.prints(w.spec(w.self(resource("limits.cpu", `"1"`), "cat /v/file", "")), w.allocatable().cpu)
		}},
		{prefix + "should provide node allocatable (memory) as default memory limit if the limit is not set", func(w *world) {
			w.prints(w.spec(w.self(resource("limits.memory", `"1"`), "cat /v/file", "")), w.allocatable().memory)
		}},
		{prefix + "should provide podname only", func(w *world) {
			w.prints(w.spec(w.self(volume(podname, ""), "cat /v/podname", "")), "p")
		}},
		{prefix + "should set DefaultMode on files [LinuxOnly]", func(w *world) {
			w.prints(w.spec(w.self(volume(podname, ", defaultMode: 0400"), "stat -L -c %a /v/podname", "")), "400")
		}},
		{prefix + "should set mode on item file [LinuxOnly]", func(w *world) {
			w.prints(w.spec(w.self(volume("{path: podname, mode: 0400, fieldRef: {fieldPath: metadata.name}}", ""), "stat -L -c %a /v/podname", "")), "400")
		}},
		modified(prefix, volume, "labels"), modified(prefix, volume, "annotations"),
	}
}

// modified changes the pod's metadata and waits until the file shows it.
func modified(prefix string, volume downwardVolume, field string) behaviour {
	return behaviour{prefix + "should update " + field + " on modification", func(w *world) {
		p := w.spec(w.self(volume(fmt.Sprintf("{path: file, fieldRef: {fieldPath: metadata.%s}}", field), ""), "exec sleep 1000", ""))
		p.Labels, p.Annotations = map[string]string{"key": "one"}, map[string]string{"key": "one"}
		p = w.start(p)
		w.shows(p, "grep ^key= /v/file", `key="one"`)
		w.patch("p", fmt.Sprintf(`{"metadata":{"%s":{"key":"two"}}}`, field))
		w.shows(p, "grep ^key= /v/file", `key="two"`)
	}}
}
