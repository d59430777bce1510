package metrics

import (
	"io"
	"net/http"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/skiff-node/skiff/kubelet/configuration"
)

// newProcess tells what Go's runtime and the kernel know of this process: go_* and process_*.
func newProcess() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	show := promhttp.HandlerFor(r, promhttp.HandlerOpts{DisableCompression: true})
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		plain := req.Clone(req.Context())
		plain.Header.Del("Accept") // one page has one format
		show.ServeHTTP(keepHeader{w}, plain)
	})
}

// keepHeader lets a handler write to a page that has begun.
type keepHeader struct{ io.Writer }

func (keepHeader) Header() http.Header { return http.Header{} }
func (keepHeader) WriteHeader(int)     {}

// About tells which build this is, and which feature gates are on.
func (k *Kubelet) About(version string, gates map[string]configuration.Gate) {
	k.Main.Read("kubernetes_build_info", "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.", func(emit Emit) {
		parts := append(strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3), "", "")
		emit(1, "build_date", "", "compiler", runtime.Compiler, "git_commit", "", "git_tree_state", "", "git_version", version,
			"go_version", runtime.Version(), "major", parts[0], "minor", parts[1], "platform", runtime.GOOS+"/"+runtime.GOARCH)
	})
	k.Main.Read("kubernetes_feature_enabled", "[BETA] This metric records the data about the stage and enablement of a k8s feature.", func(emit Emit) {
		for name, g := range gates {
			value := 0.0
			if g.Enabled {
				value = 1
			}
			emit(value, "name", name, "stage", g.Stage)
		}
	})
}
