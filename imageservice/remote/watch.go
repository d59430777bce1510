package remote

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/skiff-node/skiff/imageservice"
)

// watch ends an exchange in which too little moves: fewer than least bytes in a window.
type watch struct {
	bytes  atomic.Int64
	seen   int64 // at the end of the last window; of the timer alone
	timer  *time.Timer
	window time.Duration
	least  int64
	cancel context.CancelCauseFunc
}

func newWatch(ctx context.Context, window time.Duration, least int64) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{window: window, least: max(least, 1), cancel: cancel}
	w.timer = time.NewTimer(window)
	go w.run(ctx)
	return ctx, w
}

// run looks at the end of each window. It ends with the exchange.
func (w *watch) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.timer.C:
		}
		n := w.bytes.Load()
		if n-w.seen < w.least {
			w.cancel(fmt.Errorf("%w: %d bytes in %s, at least %d were expected", imageservice.ErrPullStalled, n-w.seen, w.window, w.least))
			return
		}
		w.seen = n
		w.timer.Reset(w.window)
	}
}

func (w *watch) arrived(n int64) { w.bytes.Store(n) }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
