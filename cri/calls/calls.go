// Package calls knows the calls in flight: what each is about, since when, and which step it is in. It tells who is
// interested (metrics, a tracer) and is the watchdog that names a call which takes too long.
//
// A call that its client has given up stays in the table while its work goes on: that is the one to look for.
package calls

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Meter counts. Its methods are called often and must be quick.
type Meter interface {
	Began(method string)
	Ended(method string, err error, took time.Duration)
	Step(method, step string, err error, took time.Duration)
	Stuck(method string)
}

// Tracer makes spans. The function it returns ends the span.
type Tracer interface {
	// Call begins the span of a call, as a child of the one that the client sent along.
	Call(ctx context.Context, method string, about []slog.Attr) (context.Context, func(error))
	Step(ctx context.Context, name string) (context.Context, func(error))
}

// sinks are who is told. They may change while calls are in flight.
type sinks struct {
	meter  Meter
	tracer Tracer
}

// Table is the calls in flight.
type Table struct {
	log   *slog.Logger
	sinks atomic.Pointer[sinks]
	// stuckAfter is what a call may take, in nanoseconds; 0 watches none.
	stuckAfter atomic.Int64

	mu    sync.Mutex
	calls map[*call]struct{}
}

// New makes an empty table, whose watchdog, counting and tracing are off.
func New(log *slog.Logger) *Table {
	t := &Table{log: log, calls: map[*call]struct{}{}}
	t.sinks.Store(&sinks{})
	return t
}

// Tell sets who is told of what happens from now on. Both may be nil.
func (t *Table) Tell(m Meter, tr Tracer) { t.sinks.Store(&sinks{meter: m, tracer: tr}) }

// Watch sets after how long a call is named by the watchdog; 0 turns it off. It applies to calls that begin later.
func (t *Table) Watch(after time.Duration) { t.stuckAfter.Store(int64(after)) }

// Request is a call as it comes in.
type Request struct {
	Method string      // full name, "/runtime.v1.RuntimeService/RunPodSandbox"
	About  []slog.Attr // what it concerns: pod, sandbox, container, image
	// Patience is what the caller has asked to wait for, beyond what a call may take. Negative: the call has no end of
	// its own, and is not watched.
	Patience time.Duration
}

// call implements runtimeservice.Progress. Its fields are guarded by the table's lock: there is little to guard.
type call struct {
	Request
	table *Table
	began time.Time
	timer *time.Timer // of the watchdog; nil when it does not watch
	steps []*step
	stuck bool
	ended bool // the client has its answer, or has left
}

type step struct {
	name  string
	began time.Time
}

// Begin enters a call. The function takes it out again.
func (t *Table) Begin(ctx context.Context, r Request) (context.Context, func(error)) {
	c := &call{Request: r, table: t, began: time.Now()}
	t.mu.Lock()
	if after := time.Duration(t.stuckAfter.Load()); after > 0 && r.Patience >= 0 {
		c.timer = time.AfterFunc(after+r.Patience, c.report)
	}
	t.calls[c] = struct{}{}
	t.mu.Unlock()
	told := t.sinks.Load()
	if told.meter != nil {
		told.meter.Began(r.Method)
	}
	endSpan := func(error) {}
	if told.tracer != nil {
		ctx, endSpan = told.tracer.Call(ctx, r.Method, r.About)
	}
	return runtimeservice.WithProgress(ctx, c), func(err error) {
		endSpan(err)
		if told.meter != nil {
			told.meter.Ended(r.Method, err, time.Since(c.began))
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		c.ended = true
		c.leave()
	}
}

// leave takes the call out of the table when nothing of it goes on. The lock is held.
func (c *call) leave() {
	if !c.ended || len(c.steps) > 0 {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	delete(c.table.calls, c)
}

// Step implements runtimeservice.Progress.
func (c *call) Step(ctx context.Context, name string) (context.Context, func(error)) {
	t, s := c.table, &step{name: name, began: time.Now()}
	t.mu.Lock()
	c.steps = append(c.steps, s)
	t.mu.Unlock()
	told := t.sinks.Load()
	endSpan := func(error) {}
	if told.tracer != nil {
		ctx, endSpan = told.tracer.Step(ctx, name)
	}
	return ctx, func(err error) {
		endSpan(err)
		if told.meter != nil {
			told.meter.Step(c.Method, name, err, time.Since(s.began))
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		c.steps = slices.DeleteFunc(c.steps, func(other *step) bool { return other == s })
		c.leave()
	}
}

// report is the watchdog's. It speaks again each time the call has taken twice as long.
func (c *call) report() {
	t := c.table
	t.mu.Lock()
	_, there := t.calls[c]
	first := there && !c.stuck
	c.stuck = there
	s := c.status(time.Now())
	if there {
		c.timer.Reset(s.Took)
	}
	t.mu.Unlock()
	if !there {
		return
	}
	if m := t.sinks.Load().meter; first && m != nil {
		m.Stuck(c.Method)
	}
	attrs := append([]slog.Attr{
		slog.String("call", s.Call), slog.Duration("since", s.Took.Round(time.Millisecond)), slog.String("step", s.Step),
		slog.Duration("in_step", s.InStep.Round(time.Millisecond)), slog.Bool("client_left", s.ClientLeft),
	}, c.About...)
	t.log.LogAttrs(context.Background(), slog.LevelWarn, "a call takes long", attrs...)
}

// Status is a call in flight.
type Status struct {
	Call  string            `json:"call"`
	About map[string]string `json:"about,omitempty"`
	Began time.Time         `json:"began"`
	Took  time.Duration     `json:"tookNanoseconds"`
	// Step is the step it is in, from the outermost to the innermost; "" between steps.
	Step   string        `json:"step,omitempty"`
	InStep time.Duration `json:"inStepNanoseconds,omitempty"`
	Stuck  bool          `json:"stuck,omitempty"`
	// ClientLeft says that nobody waits for the answer any more.
	ClientLeft bool `json:"clientLeft,omitempty"`
}

func (c *call) status(now time.Time) Status {
	s := Status{
		Call: Name(c.Method), Began: c.began, Took: now.Sub(c.began), Stuck: c.stuck, ClientLeft: c.ended, About: map[string]string{},
	}
	for _, a := range c.About {
		s.About[a.Key] = a.Value.String()
	}
	var names []string
	for _, step := range c.steps {
		names = append(names, step.name)
		s.InStep = now.Sub(step.began)
	}
	s.Step = strings.Join(names, ", ")
	return s
}

// InFlight lists the calls, the oldest first.
func (t *Table) InFlight() []Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	out := make([]Status, 0, len(t.calls))
	for c := range t.calls {
		out = append(out, c.status(now))
	}
	slices.SortFunc(out, func(a, b Status) int { return a.Began.Compare(b.Began) })
	return out
}

// Session begins the method of an exec, attach or port-forward session, which is no gRPC call.
const Session = "/session/"

// Name is the last word of a full method name.
func Name(method string) string { return method[strings.LastIndexByte(method, '/')+1:] }

// Code is the gRPC code of an outcome by its name, "OK" without an error.
func Code(err error) string { return status.Code(err).String() }
