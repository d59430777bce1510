package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
	"github.com/skiff-node/skiff/kubelet/volume"
)

// Fault is why a container could not be started. Reason is what the pod's status shows.
type Fault struct {
	Reason, Message string
	// Started holds the container's ID when it was started and has to be stopped again: its postStart hook failed.
	Started string
}

func (f *Fault) Error() string { return f.Reason + ": " + f.Message }

// Reasons of faults.
const (
	ErrImagePull        = "ErrImagePull"
	ErrImageNeverPull   = "ErrImageNeverPull"
	ErrImageInspect     = "ImageInspectError"
	ErrInvalidImageName = "InvalidImageName"
	ErrConfig           = "CreateContainerConfigError"
	ErrCreate           = "CreateContainerError"
	ErrRun              = "RunContainerError"
	ErrPostStart        = "PostStartHookError"
)

// Request asks to start one container.
type Request struct {
	Pod   *v1.Pod
	Start pod.ContainerStart
	// Sandbox it goes into: its ID, attempt, cgroup and addresses.
	SandboxID    string
	Attempt      uint32
	CgroupParent string
	IPs          []string
	// Volumes by name: where each is on the host.
	Volumes map[string]volume.Place
}

// StartContainer gets the image, creates and starts the container, and runs its postStart hook. It returns a *Fault when
// any of it fails.
func (r *Runtime) StartContainer(ctx context.Context, req *Request) error {
	err := launch{r, req}.start(ctx)
	code := ""
	var fault *Fault
	if errors.As(err, &fault) {
		code = fault.Reason
	}
	r.cfg.Metrics.Container(req.Pod, req.Start.Name, code)
	return err
}

// launch is one start of a container.
type launch struct {
	*Runtime
	req *Request
}

func (r launch) start(ctx context.Context) error {
	req, p, c := r.req, r.req.Pod, r.req.Start.Spec
	sandbox, err := sandboxConfig(r.cfg.Node, p, req.Attempt, req.CgroupParent)
	if err != nil {
		return r.fail(ErrConfig, err)
	}
	image, err := puller{r.Runtime, p, c, sandbox, c.Image, c.ImagePullPolicy}.ensure(ctx)
	if err != nil {
		r.cfg.Events.Warning(p, c.Name, "Failed", "Error: %s", err.(*Fault).Reason)
		return err
	}
	id, err := r.run(ctx, sandbox, image)
	if err != nil {
		return err
	}
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	if err := r.RunHook(ctx, p, id, c.Name, c.Lifecycle.PostStart); err != nil {
		r.cfg.Events.Warning(p, c.Name, "FailedPostStartHook", "PostStartHook failed")
		return &Fault{Reason: ErrPostStart, Message: err.Error(), Started: id}
	}
	return nil
}

// fail tells of what went wrong, and is the fault.
func (r launch) fail(reason string, err error) *Fault {
	r.cfg.Events.Warning(r.req.Pod, r.req.Start.Name, "Failed", "Error: %s", message(err))
	return &Fault{Reason: reason, Message: message(err)}
}

// run creates the container and starts it.
func (r launch) run(ctx context.Context, sandbox *cri.PodSandboxConfig, image *cri.Image) (id string, err error) {
	p, name := r.req.Pod, r.req.Start.Name
	volumes, err := r.imageVolumes(ctx, sandbox)
	if err != nil {
		r.cfg.Events.Warning(p, name, "Failed", "Error: %s", err.(*Fault).Reason)
		return "", err
	}
	config, err := r.config(ctx, image, volumes)
	if err != nil {
		return "", r.fail(ErrConfig, err)
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	defer r.cfg.Starting()()
	created, err := r.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: r.req.SandboxID, Config: config, SandboxConfig: sandbox})
	if err != nil {
		return "", r.fail(ErrCreate, err)
	}
	r.cfg.Events.Normal(p, name, "Created", "Container created")
	if _, err := r.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		return "", r.fail(ErrRun, err)
	}
	r.cfg.Events.Normal(p, name, "Started", "Container started")
	r.link(created.ContainerId, filepath.Join(sandbox.LogDirectory, config.LogPath))
	return created.ContainerId, nil
}

// config translates the container and makes on disk what its configuration refers to.
func (r launch) config(ctx context.Context, image *cri.Image, volumes map[string]*cri.ImageSpec) (*cri.ContainerConfig, error) {
	req, p, c := r.req, r.req.Pod, r.req.Start.Spec
	source := &spec.EnvSource{Node: r.cfg.Node, Pod: p, Objects: r.cfg.Objects, PodIPs: r.podIPs()}
	var err error
	if r.cfg.Services != nil {
		if source.Services, err = r.cfg.Services(ctx, p); err != nil {
			return nil, err
		}
	}
	env, err := spec.Env(ctx, source, c)
	if err != nil {
		return nil, err
	}
	in := &spec.ContainerInput{Pod: p, Spec: c, Restarts: req.Start.Restarts, ImageRef: image.Id, User: imageUser(image), Env: env,
		Target: req.Start.Target}
	logs := filepath.Join(spec.PodLogDir(r.cfg.Node.LogsDir, p), c.Name)
	if in.Restarts < 0 {
		in.Restarts = restartsByLog(logs)
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("create container log directory for container %s failed: %w", c.Name, err)
	}
	if in.Mounts, err = r.mounts(ctx, env, volumes); err != nil {
		return nil, err
	}
	if in.Devices, err = devices(req.Volumes, c); err != nil {
		return nil, err
	}
	for _, extra := range r.cfg.Extras {
		more, err := extra(ctx, p, c)
		if err != nil {
			return nil, err
		}
		in.Extra.Add(more)
	}
	return spec.Container(r.cfg.Node, in)
}

// podIPs are the pod's addresses: a host-network pod has the node's.
func (r launch) podIPs() []string {
	if r.req.Pod.Spec.HostNetwork {
		return r.cfg.Node.IPs
	}
	return r.req.IPs
}

// imageUser is the user that the image asks for; root when it asks for none.
func imageUser(image *cri.Image) spec.ImageUser {
	if image.Uid != nil {
		return spec.ImageUser{UID: &image.Uid.Value}
	}
	if image.Username != "" {
		return spec.ImageUser{Name: image.Username}
	}
	return spec.ImageUser{UID: new(int64)}
}

// hostsFile writes the pod's /etc/hosts in place: running containers have this very file mounted.
func (r launch) hostsFile() (string, error) {
	req := r.req
	var host []byte
	if req.Pod.Spec.HostNetwork {
		raw, err := os.ReadFile(etcHosts)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the host's hosts file: %w", err)
		}
		host = raw
	}
	dir := r.PodDir(req.Pod)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make pod directory: %w", err)
	}
	path := filepath.Join(dir, "etc-hosts")
	content := spec.HostsFile(req.Pod, req.IPs, r.cfg.Node.ClusterDomain, host)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return path, nil
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return "", fmt.Errorf("write hosts file: %w", err)
	}
	return path, os.Chmod(path, 0o644)
}

// lastWordsFile makes an empty file of its own for each instance of a container to leave its termination message in.
func (r launch) lastWordsFile() (string, error) {
	dir := filepath.Join(r.PodDir(r.req.Pod), "containers", r.req.Start.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make container directory: %w", err)
	}
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	return f.Name(), os.Chmod(f.Name(), 0o666) // any user of the container may write it
}
