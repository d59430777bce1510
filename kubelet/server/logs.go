package server

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/kubelet/server/podlog"
)

// logRequest is the query of a request for logs (v1.PodLogOptions).
type logRequest struct {
	options  podlog.Options
	previous bool
	stream   string
}

func logRequestOf(q url.Values, now time.Time) (logRequest, error) {
	r := logRequest{previous: yes(q, "previous"), stream: q.Get("stream")}
	r.options.Follow, r.options.Timestamps = yes(q, "follow"), yes(q, "timestamps")
	tail := q.Get("tailLines")
	if old := q.Get("tail"); old != "" && old != "all" {
		tail = old
	}
	var err error
	if r.options.Tail, err = orNone(tail, "tailLines", 0); err != nil {
		return r, err
	}
	if r.options.Limit, err = orNone(q.Get("limitBytes"), "limitBytes", 1); err != nil {
		return r, err
	}
	seconds, err := count(q.Get("sinceSeconds"), "sinceSeconds", 1)
	if err != nil {
		return r, err
	}
	if seconds != nil {
		r.options.Since = now.Add(-time.Duration(*seconds) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" {
		if seconds != nil {
			return r, fmt.Errorf("at most one of sinceTime or sinceSeconds may be specified")
		}
		if r.options.Since, err = time.Parse(time.RFC3339, text); err != nil {
			return r, fmt.Errorf("sinceTime: %w", err)
		}
	}
	if !slices.Contains([]string{"", v1.LogStreamAll, v1.LogStreamStdout, v1.LogStreamStderr}, r.stream) {
		return r, fmt.Errorf("stream: %q is none of All, Stdout, Stderr", r.stream)
	}
	return r, nil
}

func yes(q url.Values, key string) bool {
	if !q.Has(key) {
		return false
	}
	v := strings.ToLower(q.Get(key))
	return v != "false" && v != "0" // "", 1 and true mean yes, as in the API's conversion of queries
}

func count(text, field string, least int64) (*int64, error) {
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least {
		return nil, fmt.Errorf("%s: %q must be a number not below %d", field, text, least)
	}
	return &n, nil
}

// orNone is a count, or -1 when there is none.
func orNone(text, field string, least int64) (int64, error) {
	n, err := count(text, field, least)
	if n == nil {
		return -1, err
	}
	return *n, nil
}

// logs writes a container's log: all of it, its end, or for as long as the container runs.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	query, err := logRequestOf(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	pod := s.find(r)
	if pod == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	name := r.PathValue("container")
	if !hasContainer(pod, name) {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, pod.Name), http.StatusNotFound)
		return
	}
	id, err := logContainer(pod, name, query.previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	got, err := s.cfg.Runtime.ContainerStatus(r.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		http.Error(w, fmt.Sprintf("unable to retrieve container logs for %s: %v", id, err), http.StatusBadRequest)
		return
	}
	out := &output{w: w, follow: query.options.Follow, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/plain")
	read := query.options
	read.Path, read.Running = got.GetStatus().GetLogPath(), s.running(id)
	if query.stream != v1.LogStreamStderr {
		read.Stdout = out
	}
	if query.stream != v1.LogStreamStdout {
		read.Stderr = out
	}
	if out.follow {
		w.WriteHeader(http.StatusOK)
		_ = out.control.Flush() // the client sees that it is connected before the first line comes
	}
	err = podlog.Read(r.Context(), read)
	if err != nil && r.Context().Err() == nil {
		s.cfg.Log.Warn("log could not be read", "container", id, "err", err)
		if !out.begun && !out.follow {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
}

// output sends what follows a log at once, and lets the rest gather in the server's buffers.
type output struct {
	w       http.ResponseWriter
	control *http.ResponseController
	follow  bool
	begun   bool
}

func (o *output) Write(p []byte) (int, error) {
	o.begun = true
	n, err := o.w.Write(p)
	if err == nil && o.follow {
		err = o.control.Flush()
	}
	return n, err
}

// running asks the runtime whether the container may still write. One that is gone does not.
func (s *Server) running(id string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		got, err := s.cfg.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if status.Code(err) == codes.NotFound {
			return false, nil
		}
		return got.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING, err
	}
}

func hasContainer(pod *v1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return c.Name == name }) ||
		slices.ContainsFunc(pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == name }) ||
		slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c v1.EphemeralContainer) bool { return c.Name == name })
}

// logContainer is the runtime's id of the container whose log to show: the one that runs, else the last that did; with
// previous, the one before. The words for "there is none" are upstream's: users search for them.
func logContainer(pod *v1.Pod, name string, previous bool) (string, error) {
	all := slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses)
	i := slices.IndexFunc(all, func(c v1.ContainerStatus) bool { return c.Name == name })
	if i < 0 {
		return "", fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
	}
	c := all[i]
	last := ""
	if t := c.LastTerminationState.Terminated; t != nil {
		last = bareID(t.ContainerID)
	}
	id := ""
	switch {
	case previous:
		if last == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
		}
		id = last
	case c.State.Running != nil:
		id = bareID(c.ContainerID)
	case c.State.Terminated != nil:
		if id = bareID(c.State.Terminated.ContainerID); id == "" {
			id = last
		}
	case c.LastTerminationState.Terminated != nil:
		id = last
	default:
		return "", waiting(pod, c)
	}
	if id == "" {
		return "", fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
	}
	return id, nil
}

func waiting(pod *v1.Pod, c v1.ContainerStatus) error {
	why := "is waiting to start - no logs yet"
	if w := c.State.Waiting; w != nil {
		switch w.Reason {
		case "ErrImagePull":
			why = "is waiting to start: image can't be pulled"
		case "ImagePullBackOff":
			why = "is waiting to start: trying and failing to pull image"
		default:
			why = "is waiting to start: " + w.Reason
		}
	}
	return fmt.Errorf("container %q in pod %q %s", c.Name, pod.Name, why)
}

// bareID is the runtime's id in a status's "runtime://id".
func bareID(id string) string {
	_, bare, ok := strings.Cut(id, "://")
	if !ok {
		return ""
	}
	return bare
}
