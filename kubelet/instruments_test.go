package kubelet

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/probe"
)

func TestPages(t *testing.T) {
	i := instruments{metrics: metrics.NewKubelet()}
	i.probed(&v1.Pod{}, "c", probe.Liveness, "failed", time.Millisecond)
	i.metrics.Pods.Pass("sync", time.Millisecond)
	pages := i.metrics.Pages(map[string]http.Handler{"/metrics": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "measured 1") })})
	for path, want := range map[string][]string{
		"/metrics":        {"measured 1", `kubelet_pod_worker_duration_seconds_count{operation_type="sync"} 1`},
		"/metrics/probes": {`prober_probe_total{container="c"`, `result="failed"} 1`},
	} {
		w := httptest.NewRecorder()
		pages[path].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		for _, text := range want {
			if !strings.Contains(w.Body.String(), text) {
				t.Errorf("%s has no %q:\n%s", path, text, w.Body)
			}
		}
	}
}
