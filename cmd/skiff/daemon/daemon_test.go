package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
)

func TestOrderAndReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		comp := func(name string, after ...string) Component {
			return Component{Name: name, After: after, Start: func(ctx context.Context, ready func(string)) error {
				order = append(order, name)
				ready("")
				<-ctx.Done()
				return nil
			}}
		}
		s, err := New([]Component{comp("api"), comp("kubelet", "api"), comp("proxy", "kubelet")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		<-s.Ready()
		if got := strings.Join(order, " "); got != "api kubelet proxy" {
			t.Errorf("order %q", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, st := range s.Status() {
			if st.State != Stopped {
				t.Errorf("%s is %s after the end", st.Name, st.State)
			}
		}
	})
}

func TestFailureNamesComponentAndStopsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := false
		s, err := New([]Component{
			{Name: "api", Start: func(ctx context.Context, ready func(string)) error {
				ready("")
				<-ctx.Done()
				stopped = true
				return nil
			}},
			{Name: "kubelet", After: []string{"api"}, Log: "/x.log", Start: func(context.Context, func(string)) error {
				return errors.New("no socket")
			}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Run(t.Context())
		if err == nil || err.Error() != "kubelet: no socket (log: /x.log)" || !stopped {
			t.Fatalf("err %v, others stopped %v", err, stopped)
		}
	})
}

func TestNewRefusesUnknownNeeds(t *testing.T) {
	if _, err := New([]Component{{Name: "a", After: []string{"b"}}}, nil); err == nil {
		t.Fatal("accepted")
	}
}
