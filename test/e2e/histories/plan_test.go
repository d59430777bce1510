//go:build e2e

package histories

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// want is one thing that a plan says: a call, an event or what a container waits for.
type want struct {
	text string
	kind kind
	// container and instance (by the script's name) that it is about, or the instance of a sandbox.
	container, instance string
	attempt             int
	grace               time.Duration
	message             string // of the event
	reason              string // of waiting
	target, resources   string
}

// Further kinds of wants.
const (
	announce  kind = "announce"
	waits     kind = "waits"
	cancelled kind = "cancel start"
	done      kind = "done"
)

var (
	sandboxLine = regexp.MustCompile(`^new sandbox attempt=(\d+) `)
	startLine   = regexp.MustCompile(`^start (\S+) restarts=(-?\d+)(?: target=(\S+))?$`)
	killLine    = regexp.MustCompile(`^kill (\S+):(?: announce "(.*?)")?( hook)?(?: stop in (\S+))?$`)
	listLine    = regexp.MustCompile(`^(stop sandbox|remove|remove sandbox) \[(.*)\]$`)
	resizeLine  = regexp.MustCompile(`^resize (\S+) from .* to (.*)$`)
	waitsLine   = regexp.MustCompile(`^(\S+) waits: (\w+): (.*)$`)
	ignoredLine = regexp.MustCompile(`^(nothing$|ends by |again in )`)
)

// wants reads a plan's answer. What begins only after a call that is held comes in second.
func (h *history) wants(answer []string) (now, later []want) {
	h.Helper()
	for _, line := range answer {
		for _, w := range h.want(line) {
			w.text = line
			sequence := w.kind == makeSandbox || w.kind == createOne
			if sequence && slices.ContainsFunc(now, func(w want) bool { return w.kind == makeSandbox || w.kind == createOne }) {
				later = append(later, w)
			} else {
				now = append(now, w)
			}
		}
	}
	return now, later
}

func (h *history) want(line string) []want {
	h.Helper()
	if m := sandboxLine.FindStringSubmatch(line); m != nil {
		attempt, _ := strconv.Atoi(m[1])
		return []want{{kind: makeSandbox, attempt: attempt}}
	}
	if m := startLine.FindStringSubmatch(line); m != nil {
		attempt, _ := strconv.Atoi(m[2])
		if attempt < 0 {
			attempt = h.earlier(m[1])
		}
		return []want{{kind: createOne, container: m[1], attempt: attempt, target: m[3]}}
	}
	if m := killLine.FindStringSubmatch(line); m != nil {
		return killWants(m)
	}
	if m := listLine.FindStringSubmatch(line); m != nil {
		var out []want
		for _, instance := range strings.Fields(m[2]) {
			out = append(out, want{kind: kind(m[1]), instance: instance})
		}
		return out
	}
	if m := resizeLine.FindStringSubmatch(line); m != nil {
		return []want{{kind: update, instance: m[1], resources: m[2]}}
	}
	if m := waitsLine.FindStringSubmatch(line); m != nil {
		return []want{{kind: waits, container: m[1], reason: m[2], message: m[3]}}
	}
	if line == string(done) || line == string(cancelled) {
		return []want{{kind: kind(line)}}
	}
	if !ignoredLine.MatchString(line) {
		h.Fatalf("what does %q mean for a node?", line)
	}
	return nil
}

func killWants(m []string) []want {
	var out []want
	name := m[1][:strings.LastIndex(m[1], "-")]
	if m[2] != "" {
		out = append(out, want{kind: announce, container: name, message: m[2]})
	}
	if m[3] != "" {
		out = append(out, want{kind: runHook, instance: m[1], container: name})
	}
	if m[4] != "" {
		grace, _ := time.ParseDuration(m[4])
		out = append(out, want{kind: stopOne, instance: m[1], container: name, grace: grace})
	}
	return out
}

// earlier is how many instances of the container there have been.
func (h *history) earlier(container string) int {
	n := 0
	for _, i := range h.instances {
		if name, _, _ := strings.Cut(i, " "); name == container {
			n++
		}
	}
	return n
}

// plan holds what the kubelet does to what the script says.
func (h *history) plan(answer []string) {
	h.Helper()
	now, later := h.wants(answer)
	h.wanted = later
	earliest := h.earliest()
	if strings.Contains(strings.Join(answer, "\n"), "it failed") { // how soon it is tried again is the script's invention
		earliest = time.Time{}
	}
	for _, w := range now {
		if w.kind == announce { // events come when they come
			h.announced = append(h.announced, w)
			continue
		}
		h.until(w.text, func() (bool, string) { return h.fulfilled(w, earliest) })
	}
	if slices.Equal(answer, []string{"nothing"}) {
		h.settle()
	}
	h.unplanned()
	h.judged = true
}

// earliest is when the kubelet may do what is planned now: not before the script's time has really passed.
func (h *history) earliest() time.Time {
	if h.script.Pod.Spec.ActiveDeadlineSeconds != nil { // counts from the pod's start, in whole seconds
		return h.begun.Add(h.total - 3*time.Second/2)
	}
	return h.since.Add(h.passed - time.Second/2)
}

// settle waits until the kubelet has looked at the pod and done what it found to do: a look begins when the one before
// is over.
func (h *history) settle() {
	h.Helper()
	h.mu.Lock()
	never := h.looks == 0 // it was refused
	h.mu.Unlock()
	if never {
		return
	}
	for range 2 {
		h.mu.Lock()
		before := h.looks
		h.mu.Unlock()
		h.until("the kubelet looks at the pod", func() (bool, string) {
			if h.looks > before || h.gone {
				return true, ""
			}
			h.n.relay.poke(h)
			return false, h.log()
		})
	}
}

// unplanned fails the test when the kubelet has done what the script does not have.
func (h *history) unplanned() {
	h.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.calls {
		is := func(w want) bool { return h.is(w, c) }
		c.planned = c.planned || slices.ContainsFunc(h.wanted, is) || (c.kind == removeSandbox && h.deleted)
		if !c.planned && !slices.ContainsFunc(h.coming(), is) {
			h.Fatalf("the kubelet does what is not planned: %s %s attempt=%d grace=%v, at %s", c.kind, c.container, c.attempt, c.grace, c.at.Format("15:04:05.000"))
		}
	}
}

// coming are the wants of the next plan, if nothing happens before but that time passes: the kubelet may be ahead.
func (h *history) coming() []want {
	h.Helper()
	for _, l := range h.script.Lines[h.at+1:] {
		switch {
		case len(l.Command) == 0 || slices.Contains([]string{"clock", "status", "condition", "container", "busy", "idle"}, l.Command[0]):
		case l.Command[0] == "plan":
			now, later := h.wants(l.Answer)
			return append(now, later...)
		default:
			return nil
		}
	}
	return nil
}

// fulfilled asks whether what is wanted has come about, not before the earliest time; h.mu is held.
func (h *history) fulfilled(w want, earliest time.Time) (bool, string) {
	h.Helper()
	switch w.kind {
	case waits:
		return h.waiting(w)
	case done:
		return !h.deleted || h.gone, "the pod is in the API"
	case cancelled:
		return !slices.ContainsFunc(h.calls, func(c *call) bool { return !c.over() }), h.log()
	}
	for _, c := range h.calls {
		repeatable := c.kind == removeOne || !c.over() && c.kind != stopOne && c.kind != runHook
		if c.lost || !h.is(w, c) || (c.planned && !repeatable) {
			continue
		}
		if !c.planned && c.kind != removeOne && c.at.Before(earliest) {
			h.Fatalf("%s comes %v early", w.text, earliest.Sub(c.at))
		}
		c.planned = true
		return true, ""
	}
	return false, h.log()
}

// is tells whether the call is what is wanted.
func (h *history) is(w want, c *call) bool {
	kindIs := c.kind == w.kind || (w.kind == createOne && c.kind == pullImage)
	if !kindIs || (w.container != "" && c.container != w.container) {
		return false
	}
	switch {
	case w.kind == makeSandbox:
		return c.attempt == w.attempt
	case w.kind == createOne:
		return c.kind == pullImage || (c.attempt == w.attempt && (w.target == "" || c.target == h.id(w.target)))
	case w.instance != "" && c.id != h.id(w.instance):
		return false
	case w.kind == stopOne:
		late := time.Since(h.begun) - h.total // how far the script's time is behind
		return c.grace <= w.grace+time.Second && c.grace >= max(w.grace-late-2*time.Second, 2*time.Second)
	case w.kind == update:
		return fits(c.resources, w.resources)
	}
	return true
}

// id of an instance or sandbox, by the script's name for it; h.mu is held or nothing runs beside.
func (h *history) id(instance string) string {
	if n, ok := strings.CutPrefix(instance, "s"); ok && !strings.Contains(instance, "-") {
		i, _ := strconv.Atoi(n)
		var boxes []string
		for _, c := range h.calls {
			if c.kind == makeSandbox && c.over() && c.err == nil {
				boxes = append(boxes, c.id)
			}
		}
		if i < len(boxes) {
			return boxes[i]
		}
		return ""
	}
	name, n, _ := strings.Cut(instance, "-")
	i, _ := strconv.Atoi(n)
	if i < len(h.instances) {
		if have, id, _ := strings.Cut(h.instances[i], " "); have == name {
			return id
		}
	}
	return fmt.Sprintf("no %s among %v", instance, h.instances)
}
