package server

import (
	"errors"
	"testing"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

func TestEveryPairOfStateAndAction(t *testing.T) {
	states := []keeper.State{nothing, keeper.Created, keeper.Running, keeper.Exited}
	actions := []action{doCreate, doStart, doKill, doExec, doAttach, doUpdate, doDelete, itExits}
	const (
		c, r, x = keeper.Created, keeper.Running, keeper.Exited
		no      = keeper.State("refused")
	)
	want := map[keeper.State][]keeper.State{
		//        create start kill exec attach update delete exit
		nothing: {c, no, no, no, no, no, no, no},
		c:       {no, r, c, no, c, c, no, x},
		r:       {no, no, r, r, r, r, no, x},
		x:       {no, no, no, no, no, no, nothing, no},
	}
	for _, s := range states {
		for i, a := range actions {
			got, err := next(s, a)
			switch {
			case want[s][i] != no:
				if err != nil || got != want[s][i] {
					t.Errorf("%q %s: %q, %v, want %q", s, a, got, err, want[s][i])
				}
			case got != s:
				t.Errorf("%q %s: refused, but moves to %q", s, a, got)
			case s == nothing && !errors.Is(err, keeper.ErrNotFound),
				s != nothing && a == doCreate && !errors.Is(err, keeper.ErrExists),
				s != nothing && a != doCreate && !errors.Is(err, keeper.ErrState):
				t.Errorf("%q %s: wrong refusal: %v", s, a, err)
			}
		}
	}
}
