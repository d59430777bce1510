package flight

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestSameRequestJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var runs atomic.Int32
		slow := func(context.Context) (string, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			return "id", nil
		}
		leaver, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := g.Join(leaver, "k", time.Minute, slow); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the one who left: %v", err)
		}
		id, err := g.Join(t.Context(), "k", time.Minute, slow)
		if id != "id" || err != nil || runs.Load() != 1 {
			t.Fatalf("%q, %v, %d runs", id, err, runs.Load())
		}
		if _, err := g.Join(t.Context(), "k", time.Minute, slow); err != nil || runs.Load() != 2 {
			t.Fatalf("after the end: %v, %d runs", err, runs.Load())
		}
		if !g.Wait(time.Second) {
			t.Error("something is in flight")
		}
	})
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		_, err := g.Join(t.Context(), "k", time.Minute, func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}
