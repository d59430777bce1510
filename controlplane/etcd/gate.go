package etcd

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// gate holds requests back until the member serves. Asked before its election, a member answers "leader changed", and the caches
// of the API server would come back for another try only after their back-off.
type gate struct {
	clientv3.KV
	ready <-chan struct{}
}

func (g *gate) wait(ctx context.Context) error {
	select {
	case <-g.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Put implements clientv3.KV.
func (g *gate) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	if err := g.wait(ctx); err != nil {
		return nil, err
	}
	return g.KV.Put(ctx, key, value, opts...)
}

// Get implements clientv3.KV.
func (g *gate) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := g.wait(ctx); err != nil {
		return nil, err
	}
	return g.KV.Get(ctx, key, opts...)
}

// Delete implements clientv3.KV.
func (g *gate) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	if err := g.wait(ctx); err != nil {
		return nil, err
	}
	return g.KV.Delete(ctx, key, opts...)
}

// Compact implements clientv3.KV.
func (g *gate) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	if err := g.wait(ctx); err != nil {
		return nil, err
	}
	return g.KV.Compact(ctx, rev, opts...)
}

// Do implements clientv3.KV.
func (g *gate) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	if err := g.wait(ctx); err != nil {
		return clientv3.OpResponse{}, err
	}
	return g.KV.Do(ctx, op)
}

// Txn implements clientv3.KV. A context that ends while waiting shows in Commit.
func (g *gate) Txn(ctx context.Context) clientv3.Txn {
	_ = g.wait(ctx)
	return g.KV.Txn(ctx)
}
