package gate

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		if !g.Enter() {
			t.Fatal("a new gate is shut")
		}
		if g.Close(time.Second) {
			t.Error("closed with somebody inside")
		}
		if g.Enter() {
			t.Error("entered a gate that is closing")
		}
		g.Leave()
		g.Open()
		late := make(chan struct{})
		g.Await()
		go func() { time.Sleep(time.Second); g.Leave() }()
		if !g.Close(time.Minute) {
			t.Error("not closed though the last one has left")
		}
		go func() { g.Await(); close(late) }()
		synctest.Wait()
		select {
		case <-late:
			t.Error("passed a closed gate")
		case <-g.Changed(false):
		default:
			t.Error("nobody is told that the gate is closed")
		}
		g.Open()
		<-late
		g.Leave()
	})
}
