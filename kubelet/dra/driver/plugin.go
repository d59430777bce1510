package driver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
)

// callTime bounds each call to a driver.
const callTime = 45 * time.Second

// Plugin is one registered instance of a driver.
type Plugin struct {
	driver, endpoint, service string

	conn   *grpc.ClientConn
	stop   context.CancelFunc
	group  sync.WaitGroup
	called func(driver, method, code string, took time.Duration)

	connected bool // guarded by the drivers' mutex
}

func (p *Plugin) close() {
	p.stop()
	_ = p.conn.Close() // it fails only when it was closed before
	p.group.Wait()
}

// Claim is what a driver is asked about.
type Claim = dra.Claim

// Prepare makes the claims' devices ready for use, and returns them by the claims' uids. Each claim is among them.
func (p *Plugin) Prepare(ctx context.Context, claims []*Claim) (map[string][]*dra.Device, error) {
	const op = "NodePrepareResources"
	req := &dra.NodePrepareResourcesRequest{Claims: claims}
	resp, err := call(ctx, p, dra.DRAPlugin_NodePrepareResources_FullMethodName, drav1beta1.DRAPlugin_NodePrepareResources_FullMethodName,
		func(ctx context.Context, c dra.DRAPluginClient) (*dra.NodePrepareResourcesResponse, error) {
			return c.NodePrepareResources(ctx, req)
		})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if err := check(op, claims, resp.Claims); err != nil {
		return nil, err
	}
	devices := map[string][]*dra.Device{}
	for uid, answer := range resp.Claims {
		devices[uid] = answer.GetDevices()
	}
	return devices, nil
}

// Unprepare takes the claims' devices back.
func (p *Plugin) Unprepare(ctx context.Context, claims []*Claim) error {
	const op = "NodeUnprepareResources"
	req := &dra.NodeUnprepareResourcesRequest{Claims: claims}
	resp, err := call(ctx, p, dra.DRAPlugin_NodeUnprepareResources_FullMethodName, drav1beta1.DRAPlugin_NodeUnprepareResources_FullMethodName,
		func(ctx context.Context, c dra.DRAPluginClient) (*dra.NodeUnprepareResourcesResponse, error) {
			return c.NodeUnprepareResources(ctx, req)
		})
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return check(op, claims, resp.Claims)
}

// call makes a call in the version that the plugin serves.
func call[R any](ctx context.Context, p *Plugin, method, methodV1beta1 string, do func(context.Context, dra.DRAPluginClient) (R, error)) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	client := dra.NewDRAPluginClient(p.conn)
	if p.service == drav1beta1.DRAPluginService {
		client, method = drav1beta1.V1Beta1ClientWrapper{DRAPluginClient: drav1beta1.NewDRAPluginClient(p.conn)}, methodV1beta1
	}
	began := time.Now()
	resp, err := do(ctx, client)
	p.called(p.driver, method, status.Code(err).String(), time.Since(began))
	return resp, err
}

// check makes sure that there is an answer without error about each claim and about no other.
func check[A interface{ GetError() string }](op string, asked []*Claim, answers map[string]A) error {
	names := map[string]string{}
	for _, c := range asked {
		names[c.Uid] = c.Name
	}
	for uid, answer := range answers {
		name, known := names[uid]
		if !known {
			return fmt.Errorf("%s returned result for unknown claim UID %s", op, uid)
		}
		if why := answer.GetError(); why != "" {
			return fmt.Errorf("%s failed for ResourceClaim %s: %s", op, name, why)
		}
	}
	if missing := len(asked) - len(answers); missing != 0 {
		return fmt.Errorf("%s skipped %d ResourceClaims", op, missing)
	}
	return nil
}
