package execs

import (
	"errors"
	"fmt"
	"testing"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

func TestEndedExecsAreBounded(t *testing.T) {
	may := keeper.ErrNotFound
	x := New(Config{May: func() error { return may }})
	if err := x.reserve("early"); !errors.Is(err, keeper.ErrNotFound) {
		t.Errorf("exec in nothing: %v", err)
	}
	may = nil
	end := func(id string, told bool) {
		t.Helper()
		if err := x.reserve(id); err != nil {
			t.Fatal(err)
		}
		if err := x.reserve(id); !errors.Is(err, keeper.ErrExists) {
			t.Fatalf("a name in use: %v", err)
		}
		x.byID[id] = &Execution{exited: make(chan struct{}), told: told}
		close(x.byID[id].exited)
	}
	end("again", true)
	end("again", true) // the name of an ended one is free
	for i := range 200 {
		end(fmt.Sprint("told", i), true)
		end(fmt.Sprint("untold", i), false)
	}
	if n := len(x.byID); n > maxTold+maxUntold+2 {
		t.Errorf("%d execs are remembered", n)
	}
	x.byID["runs"] = &Execution{exited: make(chan struct{})}
	for i := range 100 {
		end(fmt.Sprint("more", i), true)
	}
	if x.byID["runs"] == nil {
		t.Error("a running exec is forgotten")
	}
}
