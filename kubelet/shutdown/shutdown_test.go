package shutdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// machine is a logind with a machine below it, and the node's pods.
type machine struct {
	mu     sync.Mutex
	delay  time.Duration
	fixed  bool // SetDelay changes nothing
	locks  int
	events chan bool
	pods   []*v1.Pod
	log    []string
	began  time.Time
	// takes is how long a pod takes to end, at most its grace.
	takes time.Duration
}

func (m *machine) say(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, fmt.Sprintf("%v ", time.Since(m.began).Round(time.Second))+fmt.Sprintf(format, args...))
}

type closer func() error

func (c closer) Close() error { return c() }

func (m *machine) Inhibit(context.Context) (io.Closer, error) {
	m.mu.Lock()
	m.locks++
	m.mu.Unlock()
	m.say("locked")
	var once sync.Once
	return closer(func() error {
		err := errors.New("closed twice")
		once.Do(func() {
			err = nil
			m.mu.Lock()
			m.locks--
			m.mu.Unlock()
			m.say("released")
		})
		return err
	}), nil
}

func (m *machine) Delay(context.Context) (time.Duration, error) { return m.delay, nil }

func (m *machine) SetDelay(_ context.Context, d time.Duration) error {
	if !m.fixed {
		m.delay = d
	}
	m.say("delay %v", d)
	return nil
}

func (m *machine) Watch(context.Context) (<-chan bool, error) { return m.events, nil }

func (m *machine) left() []*v1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*v1.Pod(nil), m.pods...)
}

func (m *machine) end(p *v1.Pod, grace time.Duration) {
	m.say("end %s within %v", p.Name, grace)
	time.AfterFunc(min(m.takes, grace+time.Hour), func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for i := range m.pods {
			if m.pods[i].UID == p.UID {
				m.pods = append(m.pods[:i:i], m.pods[i+1:]...)
				return
			}
		}
	})
}

func named(name string, priority int32, grace int64) *v1.Pod {
	p := &v1.Pod{}
	p.Name, p.UID = name, types.UID(name)
	p.Spec.Priority, p.Spec.TerminationGracePeriodSeconds = &priority, &grace
	return p
}

const critical = 2_000_000_000

// story runs a manager on a machine in a bubble of time, and returns what happened.
func story(t *testing.T, m *machine, scenario func(*Manager)) string {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m.began, m.events = time.Now(), make(chan bool)
		if m.delay == 0 {
			m.delay = time.Minute
		}
		if m.pods == nil {
			m.pods = []*v1.Pod{named("web", 0, 5), named("db", 0, 60), named("dns", critical, 30)}
		}
		mgr := New(Config{Logind: m, Groups: []Group{{critical, 10 * time.Second}, {0, 20 * time.Second}}, Pods: m.left, End: m.end,
			Changed: func(now bool) { m.say("shutting %v", now) }, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- mgr.Run(ctx) }()
		synctest.Wait()
		scenario(mgr)
		cancel()
		close(m.events)
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Hour) // what pods still had to do
		if m.locks != 0 {
			t.Errorf("%d locks left", m.locks)
		}
	})
	return strings.Join(m.log, "\n")
}

func check(t *testing.T, got, want string) {
	t.Helper()
	if want = strings.TrimSpace(want); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestDrain(t *testing.T) {
	m := &machine{takes: 3 * time.Second}
	check(t, story(t, m, func(mgr *Manager) {
		m.events <- true
		synctest.Wait()
		if !mgr.Shutting() {
			t.Error("not shutting down")
		}
		time.Sleep(time.Minute)
	}), `
0s locked
0s shutting true
0s end web within 5s
0s end db within 20s
3s end dns within 10s
6s released
1m0s shutting false`)
}

// TestDrainSlow: a group that does not end in its time does not take that of the next.
func TestDrainSlow(t *testing.T) {
	m := &machine{takes: time.Hour}
	check(t, story(t, m, func(*Manager) {
		m.events <- true
		time.Sleep(time.Minute)
	}), `
0s locked
0s shutting true
0s end web within 5s
0s end db within 20s
20s end dns within 10s
30s released
1m0s shutting false`)
}

func TestCalledOff(t *testing.T) {
	m := &machine{takes: time.Hour}
	check(t, story(t, m, func(mgr *Manager) {
		m.events <- true
		time.Sleep(5 * time.Second)
		m.events <- false
		synctest.Wait()
		if mgr.Shutting() {
			t.Error("still shutting down")
		}
		time.Sleep(5 * time.Second)
		m.events <- true
		time.Sleep(time.Minute)
	}), `
0s locked
0s shutting true
0s end web within 5s
0s end db within 20s
5s released
5s shutting false
5s locked
10s shutting true
10s end web within 5s
10s end db within 20s
30s end dns within 10s
40s released
1m10s shutting false`)
}

func TestDelayRaised(t *testing.T) {
	m := &machine{delay: 5 * time.Second}
	check(t, story(t, m, func(*Manager) {}), "0s delay 30s\n0s locked\n0s released")
	m = &machine{delay: 5 * time.Second, fixed: true}
	if got := story(t, m, func(*Manager) { time.Sleep(time.Second) }); strings.Contains(got, "locked") {
		t.Errorf("a lock that does not hold long enough: %s", got)
	}
}

func TestGroups(t *testing.T) {
	pods := []*v1.Pod{named("low", -5, 1), named("none", 0, 1), named("mid", 500, 1), named("top", critical+1000, 1)}
	got := ""
	for _, g := range Groups(pods, []Group{{0, 0}, {100, 0}, {critical, 0}}) {
		for _, p := range g {
			got += p.Name + " "
		}
		got += "| "
	}
	if got != "low none | mid | top | " {
		t.Error(got)
	}
}
