package kubelet

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/configuration"
	"github.com/skiff-node/skiff/kubelet/event"
	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/probe"
	"github.com/skiff-node/skiff/kubelet/tracing"
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/worker"
)

// instruments tell what happens.
type instruments struct {
	events       *event.Recorder
	metrics      *metrics.Kubelet
	certificates *metrics.Certificates // nil unless the kubelet renews some
	tracing      *tracing.Provider     // nil when it is off
}

func newInstruments(cfg *Config) (i instruments, err error) {
	i.metrics = metrics.NewKubelet()
	i.metrics.About(cfg.Version, configuration.Gates(cfg.Configuration.FeatureGates))
	if c := cfg.Configuration; c.RotateCertificates || c.ServerTLSBootstrap {
		i.certificates = i.metrics.NewCertificates()
	}
	i.tracing, err = tracing.New(cfg.Configuration.Tracing, cfg.NodeName, cfg.Log)
	return i, err
}

// probed counts a check of a probe.
func (i instruments) probed(p *v1.Pod, container string, kind probe.Kind, result string, took time.Duration) {
	i.metrics.Probed(metrics.Probe{Kind: string(kind), Container: container, Pod: p.Name, Namespace: p.Namespace, UID: string(p.UID), Result: result, Took: took})
}

// census lets the metrics count pods and volumes when they are asked for.
func (i instruments) census(pool *worker.Pool, volumes *volume.Manager) {
	i.metrics.Census(pool.Census)
	i.metrics.ResizeCensus(pool.ResizeCensus)
	i.metrics.VolumeCensus(func() map[string]int { return volumes.Wanted(pool.Pods()) }, volumes.Placed)
}
