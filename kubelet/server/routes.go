package server

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The labels by which runtimes know whose container it is.
const (
	labelPodName   = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelUID       = "io.kubernetes.pod.uid"
	labelContainer = "io.kubernetes.container.name"
)

// reads adds a handler that only answers questions.
func reads(mux *http.ServeMux) func(path string, h http.HandlerFunc) {
	return func(path string, h http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
				return
			}
			h(w, r)
		})
	}
}

// openPort is what the read-only port shows to anybody: health, pods, statistics and metrics.
type openPort struct{ *Server }

func (s openPort) handler() http.Handler {
	mux := http.NewServeMux()
	s.add(mux)
	return mux
}

func (s openPort) add(mux *http.ServeMux) {
	read := reads(mux)
	read("/healthz", s.health)
	read("/healthz/", s.health)
	read("/pods", s.pods)
	for path, page := range s.cfg.Pages {
		read(path, page.ServeHTTP)
	}
}

// Handler is everything behind the gates.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	read := reads(mux)
	openPort{s}.add(mux)
	if s.cfg.Configz != nil {
		read("/configz", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, map[string]any{"kubeletconfig": s.cfg.Configz})
		})
	}
	paths := []string{"/healthz", "/pods", "/configz", "/statusz"}
	for path := range s.cfg.Pages {
		paths = append(paths, path)
	}
	read("/statusz", statusz(s.cfg.Version, time.Now(), paths))
	if s.cfg.NoDebugging {
		return s.guard(mux)
	}
	if s.cfg.CheckpointDir != "" {
		mux.HandleFunc("POST /checkpoint/{namespace}/{pod}/{container}", checkpointer{s}.handle)
	}
	read("/runningpods/", s.runningPods)
	read("/containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, tail := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc("/exec"+tail, s.exec)
		mux.HandleFunc("/attach"+tail, s.attach)
		mux.HandleFunc("POST /run"+tail, s.run)
	}
	mux.HandleFunc("/portForward/{namespace}/{pod}", s.portForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", s.portForward)
	if !s.cfg.NoProfiling {
		read("/debug/pprof/", pprof.Index)
		read("/debug/pprof/cmdline", pprof.Cmdline)
		read("/debug/pprof/profile", pprof.Profile)
		read("/debug/pprof/symbol", pprof.Symbol)
		read("/debug/pprof/trace", pprof.Trace)
	}
	if s.cfg.LogDir != "" {
		read("/logs/", http.StripPrefix("/logs/", http.FileServer(http.Dir(s.cfg.LogDir))).ServeHTTP)
	}
	return s.guard(mux)
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
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	for _, p := range s.cfg.Pods() {
		if p.Namespace == namespace && p.Name == name && (uid == "" || uid == string(p.UID)) {
			return p
		}
	}
	http.Error(w, "pod does not exist", http.StatusNotFound)
	return nil
}
