package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/server/nodelog"
	"github.com/skiff-node/skiff/kubelet/server/zpages"
)

// The labels by which runtimes know whose container it is.
const (
	labelPodName   = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelUID       = "io.kubernetes.pod.uid"
	labelContainer = "io.kubernetes.container.name"
)

// only answers requests of these methods, and refuses others in the words of upstream's router.
func only(h http.HandlerFunc, methods ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(methods, r.Method) {
			h(w, r)
			return
		}
		w.Header().Set("Allow", strings.Join(methods, ", "))
		say(w, http.StatusMethodNotAllowed, "405: Method Not Allowed")
	}
}

// say answers without a line's end, as upstream's router.
func say(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text)
}

// disabled says why there is nothing at a path that exists elsewhere.
func disabled(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, http.StatusMethodNotAllowed) }
}

// openPort is what the read-only port shows to anybody: health, pods, statistics and metrics.
type openPort struct{ *Server }

func (s openPort) handler() http.Handler {
	mux := http.NewServeMux()
	s.add(mux)
	return s.cfg.Traced(mux, true)
}

func (s openPort) add(mux *http.ServeMux) {
	doctor{s.Server}.health(mux)
	for _, path := range []string{"/pods", "/pods/{$}"} {
		mux.HandleFunc(path, only(s.pods, http.MethodGet))
	}
	for path, page := range s.cfg.Pages {
		mux.HandleFunc(path, only(page.ServeHTTP, http.MethodGet, http.MethodHead))
	}
	mux.HandleFunc("/stats/", noPage)
	mux.HandleFunc("/stats", noPage)
}

// noPage is where upstream's router has something below only.
func noPage(w http.ResponseWriter, _ *http.Request) {
	say(w, http.StatusNotFound, "404: Page Not Found")
}

// Handler is everything behind the gates.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	openPort{s}.add(mux)
	if s.cfg.Debug.Off {
		for _, path := range []string{"/run/", "/exec/", "/attach/", "/portForward/", "/containerLogs/", "/runningpods/", "/debug/pprof/", "/logs/"} {
			mux.HandleFunc(path, disabled("Debug endpoints are disabled."))
		}
		return s.guard(mux)
	}
	router{s}.streams(mux)
	router{s}.debug(mux)
	if s.cfg.About.Configz != nil {
		mux.HandleFunc("/configz", only(func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, map[string]any{"kubeletconfig": s.cfg.About.Configz})
		}, http.MethodGet, http.MethodHead))
	}
	router{s}.about(mux)
	return s.guard(mux)
}

// router adds handlers by topic.
type router struct{ *Server }

// streams adds what goes on in containers.
func (s router) streams(mux *http.ServeMux) {
	if s.cfg.Debug.CheckpointDir != "" {
		mux.HandleFunc("/checkpoint/{namespace}/{pod}/{container}", only(checkpointer{s.Server}.handle, http.MethodPost))
	}
	mux.HandleFunc("/runningpods/{$}", only(s.runningPods, http.MethodGet))
	mux.HandleFunc("/runningpods", only(s.runningPods, http.MethodGet))
	mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", only(s.logs, http.MethodGet))
	both := []string{http.MethodGet, http.MethodPost}
	for _, tail := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc("/exec"+tail, only(s.exec, both...))
		mux.HandleFunc("/attach"+tail, only(s.attach, both...))
		mux.HandleFunc("/run"+tail, only(s.run, http.MethodPost))
	}
	mux.HandleFunc("/portForward/{namespace}/{pod}", only(s.portForward, both...))
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", only(s.portForward, both...))
	for _, root := range []string{"/checkpoint", "/runningpods", "/containerLogs", "/exec", "/attach", "/run", "/portForward"} {
		mux.HandleFunc(root+"/", noPage)
	}
}

// profileRate is Go's default: one allocation of each 512 KiB is sampled.
const profileRate = 512 << 10

// profiles are those of the Go runtime. A process that does not sample its allocations begins to when somebody wants to see them.
func profiles(w http.ResponseWriter, r *http.Request) {
	if name := strings.TrimPrefix(r.URL.Path, "/debug/pprof/"); runtime.MemProfileRate == 0 && (name == "heap" || name == "allocs") {
		runtime.MemProfileRate = profileRate
	}
	pprof.Index(w, r)
}

// debug adds what reaches into the node and this process.
func (s router) debug(mux *http.ServeMux) {
	d := s.cfg.Debug
	if d.NoProfiling {
		mux.HandleFunc("/debug/pprof/", disabled("profiling endpoint is disabled."))
	} else {
		for path, h := range map[string]http.HandlerFunc{"": profiles, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
			mux.HandleFunc("/debug/pprof/"+path, only(h, http.MethodGet))
		}
	}
	if d.LogDir == "" {
		mux.HandleFunc("/logs/", disabled("logs endpoint is disabled."))
	} else {
		mux.HandleFunc("/logs/", only(nodelog.Handler(nodelog.Config{Dir: d.LogDir, Query: d.LogQuery}).ServeHTTP, http.MethodGet))
	}
	if d.Verbosity == nil {
		mux.HandleFunc("/debug/flags/v", disabled("flags endpoint is disabled."))
	} else {
		mux.HandleFunc("/debug/flags/v", s.verbosity)
	}
}

// verbosity changes how much is logged: PUT with a number.
func (s router) verbosity(w http.ResponseWriter, r *http.Request) {
	answer := func(code int, text string) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(code)
		fmt.Fprintln(w, text)
	}
	if r.Method != http.MethodPut {
		answer(http.StatusNotAcceptable, "unsupported http method")
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 64))
	if err != nil {
		answer(http.StatusBadRequest, "error reading request body: "+err.Error())
		return
	}
	level, err := strconv.ParseUint(string(body), 10, 32)
	if err != nil {
		answer(http.StatusBadRequest, err.Error())
		return
	}
	s.cfg.Debug.Verbosity(uint32(level))
	answer(http.StatusOK, "successfully set klog.logging.verbosity to "+string(body))
}

// about adds what the kubelet tells of itself. The paths it tells are those below which something can be read.
func (s router) about(mux *http.ServeMux) {
	paths := []string{"/configz", "/debug", "/flagz", "/healthz"}
	for path := range s.cfg.Pages {
		paths = append(paths, path)
	}
	status := zpages.Status("kubelet", s.cfg.About.Version, time.Now(), paths)
	mux.HandleFunc("/statusz", only(status.ServeHTTP, http.MethodGet, http.MethodHead))
	mux.HandleFunc("/flagz", only(zpages.Flags("kubelet", s.cfg.About.Flags).ServeHTTP, http.MethodGet, http.MethodHead))
}

func writeJSON(w http.ResponseWriter, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // the client is gone if this fails
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []v1.Pod{}}
	for _, p := range s.cfg.Pods() {
		list.Items = append(list.Items, *p)
	}
	writeJSON(w, list)
}

// runningPods lists what the runtime runs, whatever the kubelet wants: names and images only.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	got, err := s.cfg.Runtime.ListContainers(r.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}})
	if err != nil {
		fail(w, err)
		return
	}
	list := v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []v1.Pod{}}
	index := map[string]int{}
	for _, c := range got.Containers {
		uid := c.Labels[labelUID]
		i, ok := index[uid]
		if !ok {
			i = len(list.Items)
			index[uid] = i
			list.Items = append(list.Items, v1.Pod{ObjectMeta: metav1.ObjectMeta{
				Name: c.Labels[labelPodName], Namespace: c.Labels[labelNamespace], UID: types.UID(uid)}})
		}
		list.Items[i].Spec.Containers = append(list.Items[i].Spec.Containers, v1.Container{Name: c.Labels[labelContainer], Image: c.GetImage().GetImage()})
	}
	writeJSON(w, list)
}

// pod finds the pod that a path names, or answers 404 and returns nil.
func (s *Server) pod(w http.ResponseWriter, r *http.Request) *v1.Pod {
	if p := s.find(r); p != nil {
		return p
	}
	http.Error(w, "pod does not exist", http.StatusNotFound)
	return nil
}

// find is the pod that a path names, nil when there is none.
func (s *Server) find(r *http.Request) *v1.Pod {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	for _, p := range s.cfg.Pods() {
		if p.Namespace == namespace && p.Name == name && (uid == "" || uid == string(p.UID)) {
			return p
		}
	}
	return nil
}
