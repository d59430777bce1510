package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/skiff-node/skiff/imageservice"
)

// FSInfo reports the file systems of images and of writable layers.
func (e *Engine) FSInfo(ctx context.Context) (images, containers imageservice.FSInfo, err error) {
	images = imageservice.FSInfo{Mountpoint: e.cfg.Root, Used: e.catalog.Usage()}
	containers = imageservice.FSInfo{Mountpoint: e.rootfs.roots.Dir(), Used: imageservice.Usage{Time: time.Now()}}
	for _, key := range e.rootfs.keys() {
		u, err := e.rootfs.measure(ctx, key)
		if errors.Is(err, imageservice.ErrNotFound) {
			continue // released meanwhile
		}
		if err != nil {
			return images, containers, err
		}
		containers.Used.Bytes += u.Bytes
		containers.Used.Inodes += u.Inodes
	}
	return images, containers, nil
}

// usageCache keeps measured usages for a while: walking a large writable layer is costly and callers ask often.
type usageCache struct {
	age  time.Duration
	mu   sync.Mutex
	kept map[string]imageservice.Usage
}

func newUsageCache(age time.Duration) *usageCache {
	return &usageCache{age: age, kept: map[string]imageservice.Usage{}}
}

func (c *usageCache) get(key string, measure func() (imageservice.Usage, error)) (imageservice.Usage, error) {
	c.mu.Lock()
	u, ok := c.kept[key]
	c.mu.Unlock()
	if ok && time.Since(u.Time) < c.age {
		return u, nil
	}
	u, err := measure()
	if err != nil {
		return u, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept[key] = u
	return u, nil
}

func (c *usageCache) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.kept, key)
}
