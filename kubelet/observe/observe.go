// Package observe tells which pods have changed in the runtime: at once by its event stream where it has one, else by
// listing everything each second. Listing also runs beside the stream, rarely, as an audit.
package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// Streamer is the part of CRI that gives events.
type Streamer interface {
	GetContainerEvents(ctx context.Context, in *cri.GetEventsRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[cri.ContainerEventResponse], error)
}

// Config of a Watcher. All fields are required but the periods.
type Config struct {
	Stream Streamer
	// List gives, by pod, a string that changes whenever one of its sandboxes or containers changes its state.
	List func(ctx context.Context) (map[types.UID]string, error)
	// Changed is told of each pod that has changed. It must not block.
	Changed func(uid types.UID)
	// Metrics is told of lists and of the stream. Optional.
	Metrics *metrics.Events
	Log     *slog.Logger
	// Relist is the pause between lists without events, 1 s by default; Audit that with events, 2 min by default.
	Relist, Audit time.Duration
}

// Watcher watches one runtime.
type Watcher struct{ cfg Config }

// New makes a watcher.
func New(cfg Config) *Watcher {
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.NewKubelet().Events
	}
	if cfg.Relist == 0 {
		cfg.Relist = time.Second
	}
	if cfg.Audit == 0 {
		cfg.Audit = 2 * time.Minute
	}
	return &Watcher{cfg}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	streaming := make(chan bool)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.follow(ctx, streaming)
	}()
	w.list(ctx, streaming)
	<-done
	return nil
}

// restartPause is kept between two tries to open the stream.
const restartPause = time.Second

// follow keeps the event stream open, and tells whenever it begins or ends. A runtime without events is asked no more.
func (w *Watcher) follow(ctx context.Context, streaming chan<- bool) {
	tell := func(on bool) {
		select {
		case streaming <- on:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		err := w.stream(ctx, tell)
		if status.Code(err) == codes.Unimplemented {
			w.cfg.Log.Info("the container runtime has no events: listing each second instead")
			return
		}
		if ctx.Err() == nil {
			w.cfg.Log.Warn("runtime events ended, will be opened again", "err", err)
		}
		select {
		case <-time.After(restartPause):
		case <-ctx.Done():
		}
	}
}

func (w *Watcher) stream(ctx context.Context, tell func(bool)) error {
	events, err := w.cfg.Stream.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	// A runtime that lacks the call says so only when something is read, so lists go on until the first event.
	told := false
	for {
		event, err := events.Recv()
		if err != nil {
			if told {
				tell(false)
			}
			if status.Code(err) != codes.Unimplemented && ctx.Err() == nil {
				w.cfg.Metrics.Streaming(false)
			}
			return err
		}
		if !told {
			told = true
			w.cfg.Metrics.Streaming(true)
			tell(true)
		}
		// What has only been created does nothing yet, and who has created it goes on from there.
		if uid := uidOf(event); uid != "" && event.ContainerEventType != cri.ContainerEventType_CONTAINER_CREATED_EVENT {
			w.cfg.Changed(uid)
		}
	}
}

func uidOf(e *cri.ContainerEventResponse) types.UID {
	if m := e.GetPodSandboxStatus().GetMetadata(); m.GetUid() != "" {
		return types.UID(m.Uid)
	}
	for _, c := range e.GetContainersStatuses() {
		if uid := c.Labels[spec.LabelPodUID]; uid != "" {
			return types.UID(uid)
		}
	}
	return ""
}

// list compares one list with the one before, over and over: often without events, rarely with them.
func (w *Watcher) list(ctx context.Context, streaming <-chan bool) {
	before := map[types.UID]string{}
	period := w.cfg.Relist
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case on := <-streaming:
			period = w.cfg.Relist
			if on {
				period = w.cfg.Audit
			}
			timer.Reset(0) // what happened before the stream began, or after it ended, is in the list
		case <-timer.C:
			began := time.Now()
			now, err := w.cfg.List(ctx)
			w.cfg.Metrics.Listed(time.Since(began))
			if err == nil {
				w.compare(before, now)
				before = now
			} else if !errors.Is(err, context.Canceled) {
				w.cfg.Log.Warn("cannot list what the runtime has", "err", err)
			}
			timer.Reset(period)
		}
	}
}

func (w *Watcher) compare(before, now map[types.UID]string) {
	for uid, mark := range now {
		if before[uid] != mark {
			w.cfg.Changed(uid)
		}
	}
	for uid := range before {
		if _, ok := now[uid]; !ok {
			w.cfg.Changed(uid)
		}
	}
}
