package csi

import (
	"context"
	"fmt"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// parallelCalls bounds the calls one driver has to work on at once.
const parallelCalls = 10

// driver is one registered driver.
type driver struct {
	name, endpoint string
	conn           *grpc.ClientConn
	node           csi.NodeClient
	slots          chan struct{}

	mu   sync.Mutex
	caps map[csi.NodeServiceCapability_RPC_Type]bool // nil until they were asked for
}

func newDriver(name, endpoint string, conn *grpc.ClientConn) *driver {
	return &driver{name: name, endpoint: endpoint, conn: conn, node: csi.NewNodeClient(conn), slots: make(chan struct{}, parallelCalls)}
}

func (d *driver) close() { _ = d.conn.Close() } // only a broken connection can fail, and it is not needed any more

// call makes one call, when it is its turn, with the time that a call may take.
func (d *driver) call(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, operationTime)
	defer cancel()
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for the CSI driver %s, which is busy: %w", d.name, ctx.Err())
	}
	defer func() { <-d.slots }()
	return do(ctx)
}

// can reports whether the driver's node service has a capability. It is asked once: a driver that changes registers anew.
func (d *driver) can(ctx context.Context, what csi.NodeServiceCapability_RPC_Type) (bool, error) {
	d.mu.Lock()
	caps := d.caps
	d.mu.Unlock()
	if caps != nil {
		return caps[what], nil
	}
	var answer *csi.NodeGetCapabilitiesResponse
	err := d.call(ctx, func(ctx context.Context) (err error) {
		answer, err = d.node.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
		return err
	})
	if err != nil {
		return false, fmt.Errorf("ask the CSI driver %s what it can do: %w", d.name, err)
	}
	caps = map[csi.NodeServiceCapability_RPC_Type]bool{}
	for _, c := range answer.Capabilities {
		if rpc := c.GetRpc(); rpc != nil {
			caps[rpc.Type] = true
		}
	}
	d.mu.Lock()
	d.caps = caps
	d.mu.Unlock()
	return caps[what], nil
}

// abilities are the capabilities that setting up depends on.
type abilities struct{ stage, group, singleNode, expand bool }

func (d *driver) abilities(ctx context.Context) (abilities, error) {
	var a abilities
	for what, to := range map[csi.NodeServiceCapability_RPC_Type]*bool{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME:     &a.stage,
		csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP:       &a.group,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER: &a.singleNode,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME:            &a.expand,
	} {
		has, err := d.can(ctx, what)
		if err != nil {
			return a, err
		}
		*to = has
	}
	return a, nil
}

// over reports whether a failed call has certainly ended at the driver; otherwise it may still be at work.
func over(err error) bool {
	switch status.Code(err) {
	case codes.Unknown: // not from gRPC, or the driver said nothing of use
		_, fromDriver := status.FromError(err)
		return fromDriver
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	}
	return true
}
