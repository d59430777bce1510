package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fail answers with the HTTP status that matches a gRPC error, or 500.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch status.Code(err) {
	case codes.NotFound:
		code = http.StatusNotFound
	case codes.InvalidArgument, codes.FailedPrecondition:
		code = http.StatusBadRequest
	case codes.ResourceExhausted:
		code = http.StatusTooManyRequests
	case codes.Unavailable:
		code = http.StatusServiceUnavailable
	}
	http.Error(w, err.Error(), code)
}

// container finds the running container that the path names, or answers and returns "".
func (s *Server) container(w http.ResponseWriter, r *http.Request) string {
	pod := s.pod(w, r)
	if pod == nil {
		return ""
	}
	name := r.PathValue("container")
	got, err := s.cfg.Runtime.ListContainers(r.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{labelUID: string(pod.UID), labelContainer: name},
	}})
	if err != nil {
		fail(w, err)
		return ""
	}
	var newest *runtimeapi.Container
	for _, c := range got.Containers {
		if newest == nil || c.CreatedAt > newest.CreatedAt {
			newest = c
		}
	}
	if newest == nil {
		// 500, as upstream: kubectl shows the text of this status only.
		http.Error(w, fmt.Sprintf("container not found (%q)", name), http.StatusInternalServerError)
		return ""
	}
	return newest.Id
}

// streams are the standard streams that a request asks for.
type streams struct{ stdin, stdout, stderr, tty bool }

func streamsOf(q url.Values) (streams, error) {
	o := streams{stdin: q.Get("input") == "1", stdout: q.Get("output") == "1", stderr: q.Get("error") == "1", tty: q.Get("tty") == "1"}
	if o.tty {
		o.stderr = false // a terminal has one output
	}
	if !o.stdin && !o.stdout && !o.stderr {
		return o, errors.New("you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, func(id string, o streams) (string, error) {
		got, err := s.cfg.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: r.URL.Query()["command"],
			Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr, Tty: o.tty})
		return got.GetUrl(), err
	})
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, func(id string, o streams) (string, error) {
		got, err := s.cfg.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{ContainerId: id,
			Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr, Tty: o.tty})
		return got.GetUrl(), err
	})
}

// stream asks the runtime where the streams of a container are to be had, and connects the request with them.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, ask func(container string, o streams) (url string, err error)) {
	o, err := streamsOf(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id := s.container(w, r)
	if id == "" {
		return
	}
	url, err := ask(id, o)
	if err != nil {
		fail(w, err)
		return
	}
	s.splice(w, r, url)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	pod := s.pod(w, r)
	if pod == nil {
		return
	}
	ports, err := ports(r.URL.Query()["port"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, err := s.sandbox(r.Context(), pod)
	if err != nil {
		fail(w, err)
		return
	}
	got, err := s.cfg.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: ports})
	if err != nil {
		fail(w, err)
		return
	}
	s.splice(w, r, got.Url)
}

// ports reads the ports that WebSocket clients name in the query; SPDY clients name them in each stream.
func ports(texts []string) ([]int32, error) {
	var out []int32
	for _, text := range texts {
		for _, one := range strings.Split(text, ",") {
			n, err := strconv.ParseUint(one, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("port %q is not a number between 1 and 65535", one)
			}
			out = append(out, int32(n))
		}
	}
	return out, nil
}

// sandbox is the pod's newest sandbox that is ready.
func (s *Server) sandbox(ctx context.Context, pod *v1.Pod) (string, error) {
	got, err := s.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{labelUID: string(pod.UID)},
	}})
	if err != nil {
		return "", err
	}
	var newest *runtimeapi.PodSandbox
	for _, p := range got.Items {
		if newest == nil || p.CreatedAt > newest.CreatedAt {
			newest = p
		}
	}
	if newest == nil {
		return "", status.Errorf(codes.NotFound, "failed to find sandbox for pod %q", pod.Name)
	}
	return newest.Id, nil
}

// run executes one command and answers with its output.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	id := s.container(w, r)
	if id == "" {
		return
	}
	got, err := s.cfg.Runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: strings.Split(r.URL.Query().Get("cmd"), " ")})
	if err != nil {
		fail(w, err)
		return
	}
	if got.ExitCode != 0 {
		http.Error(w, fmt.Sprintf("command terminated with exit code %d: %s%s", got.ExitCode, got.Stdout, got.Stderr), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(got.Stdout, got.Stderr...))
}

// splice upgrades the connection at the runtime's URL and copies bytes both ways until the client leaves or the runtime
// has nothing more to say.
func (s *Server) splice(w http.ResponseWriter, r *http.Request, location string) {
	u, err := url.Parse(location)
	if err != nil {
		http.Error(w, fmt.Sprintf("the runtime gave an invalid streaming URL %q: %v", location, err), http.StatusInternalServerError)
		return
	}
	proxy.NewUpgradeAwareHandler(u, &http.Transport{DialContext: dialBackend}, false, true, responder{s}).ServeHTTP(w, r)
}

// responder answers when splicing fails.
type responder struct{ s *Server }

func (e responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	if apierrors.IsBadRequest(err) { // a request that is not for an upgrade
		code = http.StatusBadRequest
	} else {
		e.s.cfg.Log.Warn("stream to the runtime failed", "path", r.URL.Path, "err", err)
	}
	http.Error(w, err.Error(), code)
}
