//go:build e2e

package histories

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-node/skiff/kubelet/pod/historytest"
)

// watch follows pods and events, and tells the histories of them.
func (n *node) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(n.client, 0)
	pod := func(object any, gone bool) {
		if p, ok := object.(*corev1.Pod); ok {
			if h := n.history(p.Namespace); h != nil {
				h.changed(p, gone)
			}
		}
	}
	event := func(object any) {
		if e, ok := object.(*corev1.Event); ok {
			if h := n.history(e.Namespace); h != nil {
				h.mu.Lock()
				h.events = append(h.events, *e)
				h.mu.Unlock()
			}
		}
	}
	factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { pod(o, false) },
		UpdateFunc: func(_, o any) { pod(o, false) },
		DeleteFunc: func(o any) { pod(o, true) },
	})
	factory.Core().V1().Events().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    event,
		UpdateFunc: func(_, o any) { event(o) },
	})
	factory.Start(ctx.Done())
	n.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
}

// changed notes a version of the pod.
func (h *history) changed(p *corev1.Pod, gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = gone
	h.seen = append(h.seen, *p)
}

// latest is the newest version of the pod, nil when there is none yet; h.mu is held.
func (h *history) latest() *corev1.Pod {
	if len(h.seen) == 0 {
		return nil
	}
	return &h.seen[len(h.seen)-1]
}

// told is the pod's status with the script's names for addresses, images and containers; h.mu is held.
func (h *history) told(p *corev1.Pod) *corev1.PodStatus {
	st := p.Status.DeepCopy()
	switch {
	case st.PodIP == h.n.h.IP:
		st.PodIP = "192.168.0.1"
	case st.PodIP != "":
		st.PodIP = "10.0.0.1"
	}
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			h.rename(&list[i])
		}
	}
	return st
}

func (h *history) rename(c *corev1.ContainerStatus) {
	cause := h.causes[c.Name]
	if c.Image == probeImage || (cause != nil && c.Image == cause.image) {
		c.Image = "img"
	}
	_, id, _ := strings.Cut(c.ContainerID, "://")
	for n, instance := range h.instances {
		if name, have, _ := strings.Cut(instance, " "); have == id {
			c.ContainerID = fmt.Sprintf("test://%s-%d", name, n)
		}
	}
	if w := c.State.Waiting; w != nil && cause != nil && cause.image != "" {
		w.Message = strings.ReplaceAll(w.Message, cause.image, "img")
	}
}

// words of a version of the pod.
func (h *history) words(p *corev1.Pod) []string { return historytest.Status(h.told(p)) }

// invented are texts that the scripts have in place of real ones, and the times and generations that they count for
// themselves.
var invented = strings.NewReplacer("it failed", ".*", "because", ".*", `Pod was rejected: no`, "Pod was rejected: .*")

var counted = regexp.MustCompile(` since=\S+ generation=\d+`)

// same compares a line of the script with the real one.
func (h *history) same(want, got string) bool {
	want, got = counted.ReplaceAllString(want, ""), counted.ReplaceAllString(got, "")
	pattern := invented.Replace(regexp.QuoteMeta(want))
	pattern = strings.ReplaceAll(pattern, regexp.QuoteMeta("p_ns(uid)"), h.script.Pod.Name+`\S*_`+h.ns+`\([0-9a-f-]+\)`)
	ok, err := regexp.MatchString("(?s)^"+pattern+"$", got)
	if err != nil {
		h.Fatal(err)
	}
	return ok
}

// status waits until the API has the status.
func (h *history) status(answer []string) {
	h.Helper()
	h.until("the status becomes\n"+strings.Join(answer, "\n"), func() (bool, string) {
		p := h.latest()
		if p == nil {
			return false, "no pod"
		}
		got := h.words(p)
		return h.alike(answer, got), "\n" + strings.Join(got, "\n")
	})
	if h.judged {
		h.unplanned()
	}
}

func (h *history) alike(want, got []string) bool {
	if len(want) != len(got) {
		return false
	}
	last := len(want) - 1
	for i := range last {
		if !h.same(want[i], got[i]) {
			return false
		}
	}
	a, b := strings.Fields(want[last]), strings.Fields(got[last]) // the API keeps no order of conditions
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// condition waits until the pod has the condition.
func (h *history) condition(name string, answer []string) {
	h.Helper()
	h.line("condition "+name, answer, func(st *corev1.PodStatus) string { return historytest.Condition(st, name, time.Time{}) })
}

// container waits until the container's status is the answer.
func (h *history) container(name string, answer []string) {
	h.Helper()
	h.line("container "+name, answer, func(st *corev1.PodStatus) string { return historytest.Container(st, name) })
}

func (h *history) line(what string, answer []string, say func(*corev1.PodStatus) string) {
	h.Helper()
	h.until(what+" becomes "+strings.Join(answer, "\n"), func() (bool, string) {
		p := h.latest()
		if p == nil {
			return false, "no pod"
		}
		got := say(h.told(p))
		return h.same(strings.Join(answer, "\n"), got), got
	})
}

// announcements waits for the events that the plans had.
func (h *history) announcements() {
	h.Helper()
	for _, w := range h.announced {
		h.until(w.text, func() (bool, string) {
			return slices.ContainsFunc(h.events, func(e corev1.Event) bool {
				return e.Reason == "Killing" && e.Message == w.message && strings.HasSuffix(e.InvolvedObject.FieldPath, "{"+w.container+"}")
			}), "no such event"
		})
	}
}

// waiting asks whether the container waits as the script says; h.mu is held.
func (h *history) waiting(w want) (bool, string) {
	p := h.latest()
	if p == nil {
		return false, "no pod"
	}
	st := h.told(p)
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name == w.container && c.State.Waiting != nil {
				got := c.State.Waiting
				return got.Reason == w.reason && h.same(w.message, got.Message), got.Reason + ": " + got.Message
			}
		}
	}
	return false, strings.Join(historytest.Status(st), "\n")
}

// crew are the histories in which the kubelet is restarted. As they share it they do it together: it is killed when all
// have come to where the script says so, and started when all have made happen what happens meanwhile.
type crew struct {
	n       *node
	mu      sync.Mutex
	members int
	waiting []chan struct{}
	next    func()
}

func newCrew(n *node, members int) *crew { return &crew{n: n, members: members} }

func (c *crew) kill()  { c.together(c.n.killKubelet) }
func (c *crew) start() { c.together(c.n.startKubelet) }

// together waits for all, and does it once.
func (c *crew) together(what func()) {
	c.mu.Lock()
	wait := make(chan struct{})
	c.waiting, c.next = append(c.waiting, wait), what
	c.ready()
	c.mu.Unlock()
	<-wait
}

// ready does what all wait for; c.mu is held.
func (c *crew) ready() {
	if len(c.waiting) == 0 || len(c.waiting) < c.members {
		return
	}
	c.next()
	for _, w := range c.waiting {
		close(w)
	}
	c.waiting = nil
}

// leave is called by a member whose script is over.
func (c *crew) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members--
	c.ready()
}
