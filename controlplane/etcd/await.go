package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// awaiting lets requests wait until the member serves. Without it, a read that comes before the member has elected
// itself fails with "leader changed", and whoever reads at start (each watch cache does) tries again only a second
// later: the control plane would be ready a second after etcd.
type awaiting struct {
	clientv3.KV
	ready <-chan struct{}
}

// wait returns at once when the member serves, which is one channel operation per request.
func (a awaiting) wait(ctx context.Context) error {
	select {
	case <-a.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("etcd does not serve yet: %w", ctx.Err())
	}
}

func (a awaiting) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	if err := a.wait(ctx); err != nil {
		return nil, err
	}
	return a.KV.Put(ctx, key, val, opts...)
}

func (a awaiting) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := a.wait(ctx); err != nil {
		return nil, err
	}
	return a.KV.Get(ctx, key, opts...)
}

func (a awaiting) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	if err := a.wait(ctx); err != nil {
		return nil, err
	}
	return a.KV.GetStream(ctx, key, opts...)
}

func (a awaiting) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	if err := a.wait(ctx); err != nil {
		return nil, err
	}
	return a.KV.Delete(ctx, key, opts...)
}

func (a awaiting) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	if err := a.wait(ctx); err != nil {
		return clientv3.OpResponse{}, err
	}
	return a.KV.Do(ctx, op)
}

// Txn cannot fail before it is committed; if the context ends while it waits, so does the commit.
func (a awaiting) Txn(ctx context.Context) clientv3.Txn {
	_ = a.wait(ctx)
	return a.KV.Txn(ctx)
}
