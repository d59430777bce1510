package server

import (
	"fmt"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// action is something done to a container, or that happened to it.
type action string

const (
	doCreate action = "create"
	doStart  action = "start"
	doKill   action = "kill"
	doExec   action = "exec"
	doAttach action = "attach" // also resize and reopen-log
	doUpdate action = "update"
	doDelete action = "delete"
	itExits  action = "exit"
)

// nothing is the state of a container that does not exist.
const nothing keeper.State = ""

// life is the drawing in the keeper package's comment: from a state, what each permitted action leads to.
var life = map[keeper.State]map[action]keeper.State{
	nothing: {
		doCreate: keeper.Created,
	},
	keeper.Created: {
		doStart:  keeper.Running,
		doKill:   keeper.Created, // until its exit is seen
		doAttach: keeper.Created,
		doUpdate: keeper.Created,
		itExits:  keeper.Exited,
	},
	keeper.Running: {
		doKill:   keeper.Running,
		doExec:   keeper.Running,
		doAttach: keeper.Running,
		doUpdate: keeper.Running,
		itExits:  keeper.Exited,
	},
	keeper.Exited: {
		doDelete: nothing,
	},
}

// next is the state after the action, or why it is refused: ErrNotFound, ErrExists or ErrState.
func next(from keeper.State, a action) (keeper.State, error) {
	to, ok := life[from][a]
	switch {
	case ok:
		return to, nil
	case from == nothing:
		return from, keeper.ErrNotFound
	case a == doCreate:
		return from, keeper.ErrExists
	}
	return from, fmt.Errorf("%w: cannot %s a container that is %s", keeper.ErrState, a, from)
}
