//go:build e2e

package histories

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/kubelet/pod/historytest"
	"github.com/skiff-node/skiff/test/harness"
)

// atOnce is how many histories run side by side: more, and the kubelet's time runs away from that of the scripts.
const atOnce = 24

// TestHistories runs them.
func TestHistories(t *testing.T) {
	n := newNode(t)
	crew := newCrew(n, len(restarting))
	var group sync.WaitGroup
	play := func(name string) { t.Run(name, func(t *testing.T) { run(t, n, crew, name) }) }
	places := make(chan bool, atOnce)
	for _, name := range important {
		places <- true
		group.Go(func() {
			defer func() { <-places }()
			play(name)
		})
	}
	group.Wait()
	for _, name := range restarting {
		group.Go(func() {
			defer crew.leave()
			play(name)
		})
	}
	group.Wait()
}

// history is one script that is being run.
type history struct {
	*testing.T
	n      *node
	crew   *crew
	script *historytest.Script
	ns     string
	static bool
	// causes is what makes a container fail to start, by its name.
	causes map[string]*cause
	// instances are the containers made, by the names that the script has for them, in the order of their making.
	instances []string
	at        int  // the line
	judged    bool // what the kubelet did after the last thing that happened has been held to a plan
	deleted   bool
	down      bool // the kubelet has been killed
	// wanted are starts that the last plan had and that must wait for those before them.
	wanted []want
	// announced are the events that the plans have had.
	announced []want
	reckoning

	mu    sync.Mutex // guards what follows
	calls []*call
	free  bool // the script is over: nothing is held any more
	sight
	record
}

// reckoning compares the script's time with the real one.
type reckoning struct {
	// since is when the last thing was made to happen, and passed how much of the script's time has gone by since.
	since  time.Time
	passed time.Duration
	// begun is when the pod was made, and total how much of the script's time has gone by since.
	begun time.Time
	total time.Duration
}

// sight is what the kubelet may see of the pod.
type sight struct {
	gate  chan struct{} // closed when the kubelet may look at the pod; nil when it may
	looks int           // how often it has begun to look
	held  int           // how many looks wait at the gate
}

// record is what the API has told of the pod.
type record struct {
	seen   []corev1.Pod // its versions
	events []corev1.Event
	gone   bool
}

// run runs one script to its end.
func run(t *testing.T, n *node, crew *crew, name string) {
	script, err := historytest.Load(filepath.Join(testdata, name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	h := &history{T: t, n: n, crew: crew, script: script, ns: "h-" + name, causes: map[string]*cause{}}
	h.static = script.Pod.Annotations["kubernetes.io/config.source"] == "file"
	n.mu.Lock()
	n.histories[h.ns] = h
	n.mu.Unlock()
	n.namespace(t, h.ns)
	defer h.end()
	h.begun, h.since = time.Now(), time.Now()
	h.begin()
	for i, l := range script.Lines {
		if h.at = i; len(l.Command) > 0 {
			h.do(l)
		}
	}
	h.up()
	h.look()
	h.settle()
	h.unplanned()
	h.announcements()
}

// end lets everything go on, and takes the pod away.
func (h *history) end() {
	if h.Failed() {
		h.tell()
	}
	h.mu.Lock()
	h.free = true
	for _, c := range h.calls {
		h.let(c)
	}
	h.mu.Unlock()
	h.look()
	h.cease()
	_ = h.n.client.CoreV1().Pods(h.ns).Delete(context.Background(), h.script.Pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
}

// tell shows what was seen, after a failure.
func (h *history) tell() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.calls {
		h.Logf("%s %s %s %s attempt=%d grace=%v planned=%v over=%v err=%v", c.at.Format("15:04:05.000"), c.kind, c.container, c.id, c.attempt, c.grace, c.planned, c.over(), c.err)
	}
	for i := range h.seen {
		h.Logf("%s %s", h.seen[i].ResourceVersion, strings.Join(h.words(&h.seen[i]), " | "))
	}
	for _, e := range h.events {
		h.Logf("event %s %s: %s", e.InvolvedObject.FieldPath, e.Reason, e.Message)
	}
}

// do runs one command.
func (h *history) do(l historytest.Line) {
	h.Helper()
	arg := func(i int) string {
		if i < len(l.Command) {
			return l.Command[i]
		}
		return ""
	}
	if unseen(l.Command) {
		h.blind(l.Command)
	} else if arg(0) != "clock" {
		h.look()
		h.up()
	}
	switch arg(0) {
	case "plan":
		h.plan(l.Answer)
	case "status":
		if next := h.next(); next == nil || (next[0] != "status" && next[0] != "idle") { // else it passes by at once
			h.status(l.Answer)
		}
	case "condition":
		h.condition(arg(1), l.Answer)
	case "container":
		h.container(arg(1), l.Answer)
	case "clock":
		h.clock(arg(1))
	case "restart":
		h.down = true
		h.crew.kill()
		h.lose()
		h.lose()
	case "busy", "idle", "resize", "reject":
		// What these tell of happens by itself.
	default:
		h.happen(l.Command, arg)
	}
	h.Logf("%s", l.Text)
}

// unseen tells whether the command makes something happen in the runtime, without the kubelet.
func unseen(command []string) bool {
	return slices.Contains([]string{"exit", "gone"}, command[0]) || (command[0] == "sandbox" && command[1] == "dead")
}

// happen makes something happen to the pod.
func (h *history) happen(command []string, arg func(int) string) {
	h.Helper()
	h.since, h.passed, h.judged = time.Now(), 0, false
	switch arg(0) {
	case "sandbox":
		h.sandbox(arg(1))
	case "run", "create", "start":
		h.start(arg(0), arg(1))
	case "exit":
		h.exit(arg(1), arg(2), command[3:])
	case "gone":
		h.remove(arg(1))
	case "evict":
		h.evict()
	case "reap":
		h.finish(func(c *call) bool { return c.kind == removeOne })
	case "hook":
		h.preStop(arg(1))
	case "fault":
		h.fault(arg(1), arg(2))
	case "poststart":
		h.postStart(arg(1), arg(2))
	case "probe":
		h.order(h.newest(arg(1)), arg(2)+"="+arg(3))
	case "delete":
		h.delete(arg(1))
	case "set":
		h.set(arg(1), arg(2))
	case "clear":
		h.cure(arg(1))
	case "granted":
		h.grant(arg(1), command[2:])
	case "actual":
		h.finish(func(c *call) bool { return c.kind == update })
	default:
		h.Fatalf("%q cannot be made to happen", strings.Join(command, " "))
	}
}

// clock lets time pass, as long as the script says.
func (h *history) clock(text string) {
	h.Helper()
	d, err := time.ParseDuration(strings.TrimPrefix(text, "+"))
	if err != nil || d > 30*time.Second {
		h.Fatalf("clock %s: too long, or no duration: %v", text, err)
	}
	h.passed += d
	h.total += d
	time.Sleep(time.Until(h.since.Add(h.passed)))
}

// lose forgets the calls that went down with the kubelet.
func (h *history) lose() {
	h.until("the kubelet's calls are over", func() (bool, string) {
		for _, c := range h.calls {
			if !c.planned || !c.over() {
				c.planned, c.lost = true, true
			}
		}
		return !slices.ContainsFunc(h.calls, func(c *call) bool { return !c.over() }), h.log()
	})
}

// up waits until the kubelet runs again.
func (h *history) up() {
	if !h.down {
		return
	}
	h.mu.Lock()
	before := h.looks
	h.mu.Unlock()
	h.crew.start()
	h.down = false
	h.until("the kubelet looks at the pod again", func() (bool, string) { return h.looks > before || before == 0 || h.gone, h.log() })
}

// until waits until the answer is yes.
func (h *history) until(what string, ask func() (bool, string)) {
	h.Helper()
	harness.Eventually(h, patience, what, func() (bool, string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return ask()
	})
}

// history of a namespace; nil for others.
func (n *node) history(ns string) *history {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.histories[ns]
}

// arrives notes a call of the kubelet, and holds it as long as the script wants.
func (h *history) arrives(ctx context.Context, c *call) error {
	c.at, c.release, c.done = time.Now(), make(chan struct{}), make(chan struct{})
	h.mu.Lock()
	h.calls = append(h.calls, c)
	if h.free || !slices.Contains(held, c.kind) {
		h.let(c)
	}
	h.mu.Unlock()
	select {
	case <-c.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// let lets a call go on; h.mu is held.
func (h *history) let(c *call) {
	select {
	case <-c.release:
	default:
		close(c.release)
	}
}

func (h *history) ends(c *call, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.err = err
	close(c.done)
}

// blind keeps the kubelet from looking at the pod while more than one thing happens, so that it sees all of them at once.
// When it returns no look is under way: one waits at the gate.
func (h *history) blind(command []string) {
	h.Helper()
	next := h.next()
	several := command[0] == "sandbox" || (next != nil && unseen(next))
	h.mu.Lock()
	stopping := slices.ContainsFunc(h.calls, func(c *call) bool { return c.kind == stopSandbox && !c.over() })
	if h.down || h.gate != nil || !several || stopping {
		h.mu.Unlock()
		return
	}
	h.gate = make(chan struct{})
	h.mu.Unlock()
	h.until("the kubelet looks at the pod", func() (bool, string) {
		h.n.relay.poke(h)
		return h.held > 0, h.log()
	})
}

func (h *history) look() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gate != nil {
		close(h.gate)
		h.gate = nil
	}
}

// lookAllowed waits until the kubelet may look at the pod.
func (h *history) lookAllowed(ctx context.Context) error {
	h.mu.Lock()
	gate := h.gate
	h.looks++
	h.held++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.held--
		h.mu.Unlock()
	}()
	if gate == nil {
		return nil
	}
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// inFlight waits for a call that has not ended, and returns it; h.mu is not held.
func (h *history) inFlight(what string, is func(*call) bool) *call {
	h.Helper()
	var found *call
	h.until(what, func() (bool, string) {
		for _, c := range h.calls {
			if !c.over() && is(c) {
				found = c
			}
		}
		return found != nil, h.log()
	})
	return found
}

// finish lets a held call go on, or all that are alike, and waits for its end.
func (h *history) finish(is func(*call) bool) {
	h.mu.Lock()
	var some []*call
	for _, c := range h.calls {
		if !c.over() && is(c) {
			h.let(c)
			some = append(some, c)
		}
	}
	h.mu.Unlock()
	for _, c := range some {
		select {
		case <-c.done:
		case <-time.After(patience):
			h.Fatalf("%s %s does not end", c.kind, c.container)
		}
		if c.err != nil {
			h.Fatalf("%s %s: %v", c.kind, c.container, c.err)
		}
	}
}

// log is the calls in short; h.mu is held.
func (h *history) log() string {
	var out []string
	for _, c := range h.calls {
		out = append(out, fmt.Sprintf("%s %s attempt=%d planned=%v over=%v", c.kind, c.container, c.attempt, c.planned, c.over()))
	}
	return strings.Join(out, "; ")
}
