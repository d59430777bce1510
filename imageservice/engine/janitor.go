package engine

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/skiff-node/skiff/imageservice/engine/catalog"
)

// janitor removes what nobody needs. Its sweeps are quick, they only rename; the deleting is done beside the calls
// that caused it.
type janitor struct {
	catalog *catalog.Catalog
	pool    *pool
	log     *slog.Logger
	wake    chan struct{} // capacity 1: there is trash
}

// sweep removes what nobody needs any more.
func (j *janitor) sweep() error {
	err := j.pool.sweep(j.catalog)
	j.wakeUp()
	if err != nil {
		return fmt.Errorf("sweep image store: %w", err)
	}
	return nil
}

// sweepOrphans sweeps only if some layer has no image: releasing a root file system seldom leaves one.
func (j *janitor) sweepOrphans() error {
	if !j.pool.orphaned(j.catalog) {
		return nil
	}
	return j.sweep()
}

func (j *janitor) wakeUp() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// run empties the trash when woken. What it leaves when stopped, the next process deletes.
func (j *janitor) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.wake:
		}
		if err := j.pool.trash.Empty(); err != nil {
			j.log.Warn("cannot delete removed layers, will try with the next removal", "err", err)
		}
	}
}
