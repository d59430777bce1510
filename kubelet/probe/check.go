package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/kubelet/probe/request"
)

// Exec runs a command in a container.
type Exec func(ctx context.Context, id string, command []string, timeout time.Duration) (output []byte, code int, err error)

// Checks makes checks over the network and by commands in containers.
type Checks struct{ Exec Exec }

const (
	agent   = "kube-probe/1.37"
	maxBody = 10 << 10
)

// Check makes one check of the kind that the probe has.
func (c Checks) Check(ctx context.Context, spec *v1.Probe, t *Target) (ok bool, output string, err error) {
	timeout := max(time.Duration(spec.TimeoutSeconds)*time.Second, time.Second)
	switch {
	case spec.Exec != nil:
		return c.exec(ctx, spec.Exec.Command, t, timeout)
	case spec.HTTPGet != nil:
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return httpGet(ctx, spec.HTTPGet, t)
	case spec.TCPSocket != nil:
		return tcp(ctx, spec.TCPSocket, t, timeout)
	case spec.GRPC != nil:
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return grpcCheck(ctx, spec.GRPC, t, timeout)
	}
	return false, "", fmt.Errorf("missing probe handler for %s", t.Spec.Name)
}

func (c Checks) exec(ctx context.Context, command []string, t *Target, timeout time.Duration) (bool, string, error) {
	out, code, err := c.Exec(ctx, t.ID, command, timeout)
	if status.Code(err) == codes.DeadlineExceeded {
		return false, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout), nil
	}
	if err != nil {
		return false, "", err
	}
	if len(out) > maxBody {
		out = out[:maxBody]
	}
	return code == 0, string(out), nil
}

// httpGet counts any status from 200 to 399 as success. A redirect to another host is not followed and counts as success,
// since the container has answered.
func httpGet(ctx context.Context, action *v1.HTTPGetAction, t *Target) (bool, string, error) {
	req, err := request.New(ctx, action, t.Spec, t.PodIP, agent)
	if err != nil {
		return false, "", err
	}
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // a probe asks whether it answers, not who it is
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return fmt.Errorf("stopped after 10 redirects")
			}
			return nil
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, err.Error(), nil
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return false, err.Error(), nil
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return true, "", nil
	}
	return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode), nil
}

func tcp(ctx context.Context, action *v1.TCPSocketAction, t *Target, timeout time.Duration) (bool, string, error) {
	port, err := request.Port(action.Port, t.Spec)
	if err != nil {
		return false, "", err
	}
	host := action.Host
	if host == "" {
		host = t.PodIP
	}
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false, err.Error(), nil
	}
	_ = conn.Close()
	return true, "", nil
}

// grpcCheck asks the health service of grpc.health.v1.
func grpcCheck(ctx context.Context, action *v1.GRPCAction, t *Target, timeout time.Duration) (bool, string, error) {
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	addr := net.JoinHostPort(t.PodIP, strconv.Itoa(int(action.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(agent),
		grpc.WithDisableServiceConfig())
	if err != nil {
		return false, "", err
	}
	defer conn.Close()
	resp, err := health.NewHealthClient(conn).Check(ctx, &health.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return false, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", err), nil
	case codes.DeadlineExceeded:
		return false, fmt.Sprintf("timeout: failed to connect service %q within %v: %s", addr, timeout, err), nil
	default:
		return false, fmt.Sprintf("error: health rpc probe failed: %s", err), nil
	}
	if resp.Status != health.HealthCheckResponse_SERVING {
		return false, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status), nil
	}
	return true, "service healthy", nil
}
