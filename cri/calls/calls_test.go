package calls

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
)

// counts is a Meter that remembers.
type counts map[string]int

func (c counts) Began(method string) { c["began "+Name(method)]++ }
func (c counts) Ended(method string, err error, _ time.Duration) {
	c["ended "+Name(method)+" "+Code(err)]++
}
func (c counts) Step(method, step string, _ error, _ time.Duration) {
	c["step "+Name(method)+" "+step]++
}
func (c counts) Stuck(method string) { c["stuck "+Name(method)]++ }

const run = "/runtime.v1.RuntimeService/RunPodSandbox"

func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter := counts{}
		table := New(slog.New(slog.DiscardHandler))
		table.Tell(meter, nil)
		ctx, end := table.Begin(t.Context(), Request{Method: run, About: []slog.Attr{slog.String("pod", "a/b")}})
		outer, outerDone := runtimeservice.Step(ctx, "attach the network")
		time.Sleep(2 * time.Second)
		_, innerDone := runtimeservice.Step(outer, "call the plugin")
		time.Sleep(time.Second)
		want := []Status{{
			Call: "RunPodSandbox", About: map[string]string{"pod": "a/b"}, Began: time.Now().Add(-3 * time.Second), Took: 3 * time.Second,
			Step: "attach the network, call the plugin", InStep: time.Second,
		}}
		if got := table.InFlight(); !reflect.DeepEqual(got, want) {
			t.Errorf("\n got %+v\nwant %+v", got, want)
		}
		end(nil) // the client leaves, the work goes on
		if got := table.InFlight(); len(got) != 1 || !got[0].ClientLeft {
			t.Errorf("%+v", got)
		}
		innerDone(nil)
		outerDone(errors.New("no address"))
		if got := table.InFlight(); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		wantCounts := counts{"began RunPodSandbox": 1, "ended RunPodSandbox OK": 1, "step RunPodSandbox attach the network": 1, "step RunPodSandbox call the plugin": 1}
		if !reflect.DeepEqual(meter, wantCounts) {
			t.Errorf("%v", meter)
		}
	})
}

func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		meter := counts{}
		table := New(slog.New(slog.NewTextHandler(&log, nil)))
		table.Tell(meter, nil)
		table.Watch(10 * time.Second)
		said := func() int {
			synctest.Wait()
			return strings.Count(log.String(), "a call takes long")
		}
		ctx, end := table.Begin(t.Context(), Request{Method: run, About: []slog.Attr{slog.String("pod", "a/b")}})
		_, patientEnd := table.Begin(t.Context(), Request{Method: "/x/StopContainer", Patience: time.Minute})
		_, endlessEnd := table.Begin(t.Context(), Request{Method: "/x/GetContainerEvents", Patience: -1})
		_, done := runtimeservice.Step(ctx, "attach the network")
		time.Sleep(9 * time.Second)
		if n := said(); n != 0 {
			t.Errorf("after 9 s: %d\n%s", n, log.String())
		}
		time.Sleep(2 * time.Second)
		if n := said(); n != 1 || !strings.Contains(log.String(), `call=RunPodSandbox since=10s step="attach the network" in_step=10s client_left=false pod=a/b`) {
			t.Errorf("after 11 s: %d\n%s", n, log.String())
		}
		for _, s := range table.InFlight() { // in no order: they began at the same time
			if s.Stuck != (s.Call == "RunPodSandbox") {
				t.Errorf("%+v", s)
			}
		}
		time.Sleep(10 * time.Second) // 21 s: twice as long as at first
		if n := said(); n != 2 {
			t.Errorf("after 21 s: %d\n%s", n, log.String())
		}
		done(nil)
		end(nil)
		time.Sleep(40 * time.Second)
		if n := said(); n != 2 {
			t.Errorf("after the end: %d\n%s", n, log.String())
		}
		patientEnd(nil)
		endlessEnd(nil)
		if meter["stuck RunPodSandbox"] != 1 || meter["stuck StopContainer"] != 0 || meter["stuck GetContainerEvents"] != 0 {
			t.Errorf("%v", meter)
		}
	})
}

func TestNothingWatches(t *testing.T) {
	ctx, done := runtimeservice.Step(context.Background(), "x")
	if ctx != context.Background() {
		t.Error("a step without Progress made a context")
	}
	done(nil)
}

func BenchmarkCall(b *testing.B) {
	table := New(slog.New(slog.DiscardHandler))
	table.Watch(time.Minute)
	for b.Loop() {
		ctx, end := table.Begin(context.Background(), Request{Method: run})
		_, done := runtimeservice.Step(ctx, "step")
		done(nil)
		end(nil)
	}
}
