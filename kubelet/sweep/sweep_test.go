package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pool has pods, and writes down which it was told to end.
type pool struct {
	mu      sync.Mutex
	pods    []types.UID
	orphans []types.UID
}

func (p *pool) Has(uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.pods, uid)
}

func (p *pool) Orphan(o *v1.Pod) { p.add(o.UID); p.orphans = append(p.orphans, o.UID) }

func (p *pool) add(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pods = append(p.pods, uid)
}

// holder holds something for pods. It asks its driver to take each back, which may be slow.
type holder struct {
	held   []types.UID
	driver func(uid types.UID) error
}

func (h *holder) retain(_ context.Context, has func(types.UID) bool) error {
	var errs []error
	for _, uid := range slices.Clone(h.held) {
		if has(uid) {
			continue
		}
		err := h.driver(uid)
		if errs = append(errs, err); err == nil {
			h.held = slices.DeleteFunc(h.held, func(u types.UID) bool { return u == uid })
		}
	}
	return errors.Join(errs...)
}

func sweep(t *testing.T, cfg Config) (stop func()) {
	sourced := make(chan struct{})
	close(sourced)
	cfg.Sourced, cfg.Log = sourced, slog.New(slog.DiscardHandler)
	if cfg.Runtime == nil {
		cfg.Runtime = func(context.Context) ([]*v1.Pod, error) { return nil, nil }
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestSlowDriver: while a driver takes its time with what it holds for a former pod, another pod comes, whose things are found as well;
// they stay, with the same driver and with those that are asked later.
func TestSlowDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer := make(chan types.UID), make(chan error)
		slow := &holder{held: []types.UID{"former", "new"}, driver: func(uid types.UID) error { asked <- uid; return <-answer }}
		quick := &holder{held: []types.UID{"former", "new"}, driver: func(types.UID) error { return nil }}
		p := &pool{}
		stop := sweep(t, Config{Pool: p, Retain: []func(context.Context, func(types.UID) bool) error{slow.retain, quick.retain}})
		if uid := <-asked; uid != "former" {
			t.Fatal(uid)
		}
		p.add("new")
		answer <- nil
		synctest.Wait()
		stop()
		if got := fmt.Sprint(slow.held, quick.held, p.orphans); got != "[new] [new] []" {
			t.Errorf("left: %s", got)
		}
	})
}

// TestTriedAgain: what fails is tried again, and holds nothing else up; pods that the runtime alone has are ended once.
func TestTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		broken := &holder{held: []types.UID{"former"}, driver: func(types.UID) error {
			if at = append(at, time.Since(began)); len(at) < 3 {
				return errors.New("broken")
			}
			return nil
		}}
		other := &holder{held: []types.UID{"former", "lost"}, driver: func(types.UID) error { return nil }}
		p := &pool{pods: []types.UID{"known"}}
		stop := sweep(t, Config{Pool: p, Retain: []func(context.Context, func(types.UID) bool) error{broken.retain, other.retain},
			Runtime: func(context.Context) ([]*v1.Pod, error) {
				return []*v1.Pod{{ObjectMeta: metav1.ObjectMeta{UID: "lost"}}, {ObjectMeta: metav1.ObjectMeta{UID: "known"}}}, nil
			}})
		synctest.Wait()
		if got := fmt.Sprint(other.held, p.orphans); got != "[lost] [lost]" {
			t.Errorf("at first: %s", got)
		}
		time.Sleep(time.Hour)
		stop()
		if got := fmt.Sprint(broken.held, p.orphans, at); got != "[] [lost] [0s 5s 15s]" {
			t.Errorf("in the end: %s", got)
		}
	})
}

// TestRuntimeAway: without knowing what the runtime has nothing is taken for left behind.
func TestRuntimeAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &holder{held: []types.UID{"former"}, driver: func(types.UID) error { return nil }}
		stop := sweep(t, Config{Pool: &pool{}, Retain: []func(context.Context, func(types.UID) bool) error{h.retain},
			Runtime: func(context.Context) ([]*v1.Pod, error) { return nil, errors.New("away") }})
		synctest.Wait()
		stop()
		if len(h.held) != 1 {
			t.Error("it was given up")
		}
	})
}
