//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/skiff-node/skiff/test/harness"
)

// otlpSink is a collector on the host's loopback, where OTLP is spoken by default.
type otlpSink struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]named // by id
}

type named struct {
	*otlp.Span
	service string
}

func (s *otlpSink) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		service := ""
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, ss := range rs.ScopeSpans {
			for _, span := range ss.Spans {
				s.spans[string(span.SpanId)] = named{span, service}
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// paths tells of each span from the root of its trace: kubelet:syncPod/kubelet:…RunPodSandbox/skiff-cri:….
func (s *otlpSink) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, span := range s.spans {
		path := ""
		for at, ok := span, true; ok; at, ok = s.spans[string(at.ParentSpanId)] {
			path = "/" + at.service + ":" + strings.TrimPrefix(at.Name, "runtime.v1.") + path
		}
		out = append(out, path)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func collect(t *testing.T, h *harness.Host) *otlpSink {
	s := &otlpSink{spans: map[string]named{}}
	var l net.Listener
	err := h.InNetwork(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:4317")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, s)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return s
}

// TestTracing reads in the collector what a pod's start and end were made of, down to the steps of the runtime.
func TestTracing(t *testing.T) {
	t.Parallel()
	h := harness.NewHost(t)
	sink := collect(t, h)
	socket := harness.SkiffCRIWith(h, "[tracing]\nendpoint = \"127.0.0.1:4317\"\nsample_ratio = 0.0\n", filepath.Join(h.BinDir, "images", "busybox.tar"))
	harness.SkiffPlane(h)
	harness.KubeletWith(h, socket, "tracing: {samplingRatePerMillion: 1000000}\n")
	manifest(t, h, `
apiVersion: v1
kind: Pod
metadata: {name: seen}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "exec sleep 1000"]}]
`)
	h.Kubectl("wait", "--for=condition=Ready", "pod/seen", "--timeout=90s")
	h.Kubectl("logs", "seen")
	h.Kubectl("delete", "pod", "seen", "--timeout=60s")
	want := []string{
		"/kubelet:syncPod/kubelet:RuntimeService/RunPodSandbox/skiff-cri:RuntimeService/RunPodSandbox",
		"/kubelet:syncPod/kubelet:RuntimeService/CreateContainer/skiff-cri:RuntimeService/CreateContainer",
		"/kubelet:syncPod/kubelet:RuntimeService/StartContainer/skiff-cri:RuntimeService/StartContainer",
		"/kubelet:syncPod/kubelet:ImageService/ImageStatus/skiff-cri:ImageService/ImageStatus",
		"/kubelet:syncPod/kubelet:HTTP POST", // the token of the pod's service account
		"/kubelet:syncTerminatingPod/kubelet:RuntimeService/StopContainer/skiff-cri:RuntimeService/StopContainer",
		"/kubelet:syncTerminatedPod/kubelet:RuntimeService/RemovePodSandbox/skiff-cri:RuntimeService/RemovePodSandbox",
		"/kubelet:/containerLogs/{namespace}/{pod}/{container}",
		"/kubelet:HTTP GET",
	}
	harness.Eventually(t, time.Minute, "the collector has the traces", func() (bool, string) {
		got := sink.paths()
		missing := slices.DeleteFunc(slices.Clone(want), func(path string) bool { return slices.Contains(got, path) })
		return len(missing) == 0, fmt.Sprintf("missing\n%s\nof\n%s", strings.Join(missing, "\n"), strings.Join(got, "\n"))
	})
}
