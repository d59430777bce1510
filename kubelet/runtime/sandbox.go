package runtime

import (
	"context"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// sandboxTimeout bounds RunPodSandbox: a network plugin may take its time.
const sandboxTimeout = 4 * time.Minute

// CreateSandbox makes and starts a sandbox and returns its ID.
func (r *Runtime) CreateSandbox(ctx context.Context, p *v1.Pod, attempt uint32, cgroupParent string) (string, error) {
	config, err := sandboxConfig(r.cfg.Node, p, attempt, cgroupParent)
	if err != nil {
		return "", fmt.Errorf("failed to generate sandbox config: %w", err)
	}
	r.complain(p)
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return "", fmt.Errorf("failed to create log directory: %w", err)
	}
	handler, err := handler(ctx, p, r.cfg.RuntimeHandler)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	defer r.cfg.Starting()()
	began := time.Now()
	resp, err := r.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	r.cfg.Metrics.Sandbox(p, handler, time.Since(began), err)
	if err != nil {
		return "", err
	}
	return resp.PodSandboxId, nil
}

// complain tells what the pod does not get of the resolver configuration it asked for.
func (r *Runtime) complain(p *v1.Pod) {
	content, err := resolv(r.cfg.Node.ResolvConf)
	if err != nil {
		return // the sandbox's configuration has failed for the same reason
	}
	_, complaints := spec.DNS(r.cfg.Node, p, content)
	for _, c := range complaints {
		r.cfg.Events.Warning(p, "", c.Reason, "%s", c.Message)
	}
}

func sandboxConfig(n *spec.Node, p *v1.Pod, attempt uint32, cgroupParent string) (*cri.PodSandboxConfig, error) {
	resolv, err := resolv(n.ResolvConf)
	if err != nil {
		return nil, err
	}
	return spec.Sandbox(n, p, attempt, cgroupParent, resolv)
}

// handler is the runtime handler that the pod's RuntimeClass stands for.
func handler(ctx context.Context, p *v1.Pod, lookUp func(context.Context, string) (string, error)) (string, error) {
	class := p.Spec.RuntimeClassName
	if class == nil || *class == "" {
		return "", nil
	}
	if lookUp == nil {
		return "", fmt.Errorf("spec.runtimeClassName %q: this kubelet has no API server to look it up", *class)
	}
	name, err := lookUp(ctx, *class)
	if err != nil {
		return "", fmt.Errorf("look up spec.runtimeClassName %q: %w", *class, err)
	}
	return name, nil
}

// SandboxIPs asks for the addresses of a sandbox.
func (r *Runtime) SandboxIPs(ctx context.Context, id string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	resp, err := r.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return nil, fmt.Errorf("status of sandbox %s: %w", id, err)
	}
	return ips(resp.GetStatus().GetNetwork()), nil
}

// StopSandbox ends the sandbox, its network and whatever still runs in it. One that is gone counts as stopped.
func (r *Runtime) StopSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	_, err := r.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	if err != nil && !notFound(err) {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	return nil
}

// RemoveSandbox removes the sandbox and its containers.
func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	_, err := r.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	if err != nil && !notFound(err) {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	return nil
}

// StopContainer asks the container to end and kills it after grace. One that is gone counts as stopped.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout+grace)
	defer cancel()
	_, err := r.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: int64(grace.Round(time.Second) / time.Second)})
	if err != nil && !notFound(err) {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	return nil
}

// RemoveContainer removes a container that has ended. Its log stays.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	_, err := r.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
	if err != nil && !notFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}
