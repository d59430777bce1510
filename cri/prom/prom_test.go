package prom

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// node is what there is on the node of the test.
type node struct {
	runtimeservice.Sandboxes
	runtimeservice.Containers
	imageservice.Images
}

func (node) ListSandboxes(context.Context, runtimeservice.Filter) ([]runtimeservice.Sandbox, error) {
	return []runtimeservice.Sandbox{{State: runtimeservice.SandboxReady}}, nil
}

func (node) ListContainers(context.Context, runtimeservice.Filter) ([]runtimeservice.Container, error) {
	return []runtimeservice.Container{{State: runtimeservice.ContainerCreated}}, nil
}

func (node) List(context.Context) ([]imageservice.Image, error) {
	return make([]imageservice.Image, 3), nil
}

func (node) FSInfo(context.Context) (images, containers imageservice.FSInfo, err error) {
	return imageservice.FSInfo{}, imageservice.FSInfo{}, errors.New("the disk is gone")
}

func (node) Status(context.Context) runtimeservice.Status {
	return runtimeservice.Status{Network: errors.New("no network")}
}

func (node) SetPodCIDRs(context.Context, []netip.Prefix) error { return nil }

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("%d: %s, %v", w.Code, text, err)
	}
	return string(text)
}

// counted is an image service that has counted.
type counted struct{}

func (counted) Metrics() imageservice.Metrics {
	return imageservice.Metrics{
		Pulls: 4, PullFailures: map[string]int64{"stalled": 1}, LayersShared: 6,
		PullSeconds: imageservice.Histogram{Bounds: []time.Duration{time.Second, 5 * time.Second}, Counts: []int64{1, 3}, Count: 4, Sum: time.Minute},
	}
}

func TestMetrics(t *testing.T) {
	runtime := runtimeservice.Service{Sandboxes: node{}, Containers: node{}, Node: node{}}
	pulls := Pulls{counted{}}
	table := calls.New(slog.New(slog.DiscardHandler))
	m, err := New("v1", Node{Runtime: runtime, Images: node{}, Calls: table, Connects: func() uint64 { return 2 }}, pulls)
	if err != nil {
		t.Fatal(err)
	}
	table.Tell(m, nil)

	const run, events = "/runtime.v1.RuntimeService/RunPodSandbox", "/runtime.v1.RuntimeService/GetContainerEvents"
	ctx, end := table.Begin(t.Context(), calls.Request{Method: run})
	_, done := runtimeservice.Step(ctx, "attach the network")
	done(errors.New("no address"))
	end(status.Error(codes.NotFound, "x"))
	_, endEvents := table.Begin(t.Context(), calls.Request{Method: events, Patience: -1})
	defer endEvents(nil)
	_, endExec := table.Begin(t.Context(), calls.Request{Method: calls.Session + "Exec", Patience: -1})
	endExec(nil)
	_, endAttach := table.Begin(t.Context(), calls.Request{Method: calls.Session + "Attach", Patience: -1})
	defer endAttach(nil)
	m.Stuck(run)

	text := scrape(t, m)
	for _, want := range []string{
		`grpc_server_started_total{grpc_method="GetContainerEvents",grpc_service="runtime.v1.RuntimeService",grpc_type="server_stream"} 1`,
		`grpc_server_handled_total{grpc_code="NotFound",grpc_method="RunPodSandbox",grpc_service="runtime.v1.RuntimeService",grpc_type="unary"} 1`,
		`grpc_server_handling_seconds_count{grpc_method="RunPodSandbox",grpc_service="runtime.v1.RuntimeService",grpc_type="unary"} 1`,
		`skiff_cri_step_seconds_count{call="RunPodSandbox",step="attach the network"} 1`,
		`skiff_cri_step_errors_total{call="RunPodSandbox",step="attach the network"} 1`,
		`skiff_cri_stuck_calls_total{call="RunPodSandbox"} 1`,
		`skiff_cri_sessions_total{code="OK",kind="Exec"} 1`, `skiff_cri_open_sessions{kind="Attach"} 1`, `skiff_cri_open_sessions{kind="Exec"} 0`,
		`skiff_cri_sandboxes{state="ready"} 1`, `skiff_cri_containers{state="created"} 1`, `skiff_cri_containers{state="running"} 0`,
		`skiff_cri_keeper_connects_total 2`, `skiff_cri_ready{condition="RuntimeReady"} 1`,
		`skiff_cri_calls_in_flight{call="GetContainerEvents"} 1`, `skiff_cri_calls_stuck 0`, `skiff_cri_scrape_errors 1`, `skiff_cri_images 3`, `skiff_cri_ready{condition="NetworkReady"} 0`,
		`skiff_cri_image_pulls_total{result="ok"} 4`, `skiff_cri_image_pulls_total{result="stalled"} 1`, `skiff_cri_image_pull_seconds_bucket{le="5"} 3`,
		`skiff_cri_image_pull_seconds_count 4`, `skiff_cri_image_layers_total{how="shared"} 6`,
		`skiff_cri_build_info{version="v1"} 1`, "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func BenchmarkEnded(b *testing.B) {
	m, err := New("v1")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		m.Ended("/runtime.v1.RuntimeService/RunPodSandbox", nil, time.Millisecond)
	}
}
