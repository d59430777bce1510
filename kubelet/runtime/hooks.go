package runtime

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/probe/request"
)

// Exec runs a command in a container to its end and returns its output, both streams after one another, and exit code.
// No timeout means as long as ctx allows.
func (r *Runtime) Exec(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, int, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+r.cfg.Timeout)
		defer cancel()
	}
	resp, err := r.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64(timeout / time.Second)})
	if err != nil {
		return nil, 0, err
	}
	return append(resp.Stdout, resp.Stderr...), int(resp.ExitCode), nil
}

// RunHook runs a lifecycle hook.
func (r *Runtime) RunHook(ctx context.Context, p *v1.Pod, id, container string, h *v1.LifecycleHandler) error {
	fail := func(kind, what string, err error, output []byte) error {
		text := fmt.Sprintf("%s lifecycle hook (%s) for Container %q in Pod %q failed - error: %v", kind, what, container, pod.Describe(p), err)
		if output != nil {
			text += fmt.Sprintf(", message: %q", output)
		}
		return errors.New(text)
	}
	switch {
	case h.Exec != nil:
		out, code, err := r.Exec(ctx, id, h.Exec.Command, 0)
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(h.Exec.Command, " "), code, out)
		}
		if err != nil {
			return fail("Exec", fmt.Sprint(h.Exec.Command), err, out)
		}
	case h.HTTPGet != nil:
		if err := (hook{r, p}).http(ctx, container, h.HTTPGet); err != nil {
			return fail("HTTP", h.HTTPGet.Path, err, nil)
		}
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			r.cfg.Metrics.HookCut()
			return fail("Sleep", fmt.Sprint(h.Sleep.Seconds), errors.New("container terminated before sleep hook finished"), nil)
		}
	default:
		return errors.New("Cannot run handler: invalid handler: it has no action")
	}
	return nil
}

// hook is one run of a hook.
type hook struct {
	*Runtime
	pod *v1.Pod
}

// http makes the request; only that there is an answer counts. A server that talks plain HTTP where HTTPS was asked
// for is asked again in plain.
func (r hook) http(ctx context.Context, container string, action *v1.HTTPGetAction) error {
	host := action.Host
	if host == "" {
		addresses, err := r.addresses(ctx)
		if err != nil {
			return err
		}
		host = addresses[0]
	}
	req, err := request.New(ctx, action, pod.Find(r.pod, container), host, "kube-lifecycle/1.37")
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the pod's certificate is nobody's business here
	resp, err := client.Do(req)
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		plain := req.Clone(ctx)
		plain.URL.Scheme = "http"
		plain.Header.Del("Authorization")
		if resp, err = client.Do(plain); err == nil {
			r.cfg.Metrics.HookFellBack()
		}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 16<<10))
	return err
}

// addresses of a running pod.
func (r hook) addresses(ctx context.Context) ([]string, error) {
	if r.pod.Spec.HostNetwork && len(r.cfg.Node.IPs) > 0 {
		return r.cfg.Node.IPs, nil
	}
	sandboxes, _, err := r.Observe(ctx, r.pod.UID)
	if err != nil {
		return nil, err
	}
	if len(sandboxes) == 0 || len(sandboxes[0].IPs) == 0 {
		return nil, errors.New("failed to find networking container")
	}
	return sandboxes[0].IPs, nil
}
