package kubelet

import (
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/probe"
)

// probed counts a check of a probe.
func (i instruments) probed(p *v1.Pod, container string, kind probe.Kind, result string, took time.Duration) {
	i.metrics.Probed(metrics.Probe{Kind: string(kind), Container: container, Pod: p.Name, Namespace: p.Namespace, UID: string(p.UID), Result: result, Took: took})
}

// pages adds the counted metrics to the measured ones.
func (i instruments) pages(measured map[string]http.Handler) map[string]http.Handler {
	main := measured["/metrics"]
	measured["/metrics"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		main.ServeHTTP(w, r)
		i.metrics.Main.WriteText(w)
	})
	measured["/metrics/probes"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		i.metrics.Probes.WriteText(w)
	})
	return measured
}

// signalOf is the eviction signal that a message is about, as upstream labels it.
func signalOf(message string) string {
	_, what, _ := strings.Cut(message, "low on resource: ")
	what, _, _ = strings.Cut(what, ".")
	switch what {
	case "memory":
		return "memory.available"
	case "ephemeral-storage":
		return "nodefs.available"
	case "inodes":
		return "nodefs.inodesFree"
	case "pids":
		return "pid.available"
	}
	return "ephemeralpodfs.limit"
}
