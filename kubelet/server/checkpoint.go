package server

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// checkpointer writes the state of a running container to an archive (KEP-2008). Whether that can be done is the runtime's
// to say.
type checkpointer struct{ *Server }

func (s checkpointer) handle(w http.ResponseWriter, r *http.Request) {
	pod := s.pod(w, r)
	if pod == nil {
		return
	}
	name := r.PathValue("container")
	if !hasContainer(pod, name) {
		http.Error(w, fmt.Sprintf("container %v does not exist", name), http.StatusNotFound)
		return
	}
	request := &runtimeapi.CheckpointContainerRequest{ContainerId: runningID(pod, name), Location: s.location(pod, name, time.Now())}
	if list := r.URL.Query()["timeout"]; len(list) > 0 {
		timeout, err := strconv.ParseInt(list[len(list)-1], 10, 64)
		if err != nil {
			http.Error(w, "cannot parse value of timeout parameter", http.StatusNotFound) // upstream's code
			return
		}
		request.Timeout = timeout
	}
	if err := s.make(r, request); err != nil {
		code := http.StatusInternalServerError
		if status.Code(err) == codes.Unimplemented {
			code = http.StatusNotFound // as if there were no such page, so that clients can tell
		}
		http.Error(w, fmt.Sprintf("checkpointing of %v/%v/%v failed (%v)", pod.Namespace, pod.Name, name, err), code)
		return
	}
	writeJSON(w, map[string][]string{"items": {request.Location}})
}

func (s checkpointer) make(r *http.Request, request *runtimeapi.CheckpointContainerRequest) error {
	if request.ContainerId == "" {
		return fmt.Errorf("the container is not running")
	}
	if err := os.MkdirAll(s.cfg.Debug.CheckpointDir, 0o700); err != nil { // memory holds secrets
		return err
	}
	_, err := s.cfg.Runtime.CheckpointContainer(r.Context(), request)
	return err
}

func (s checkpointer) location(pod *v1.Pod, name string, now time.Time) string {
	return filepath.Join(s.cfg.Debug.CheckpointDir, fmt.Sprintf("checkpoint-%s_%s-%s-%s.tar", pod.Name, pod.Namespace, name, now.Format(time.RFC3339)))
}

// runningID is the runtime's id of the container, empty when it does not run.
func runningID(pod *v1.Pod, name string) string {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name == name && c.State.Running != nil {
				return bareID(c.ContainerID)
			}
		}
	}
	return ""
}
