// Package lifecycle is the state machine of sandboxes and containers, and nothing else: no I/O, no clock.
//
//	sandbox:    creating ─made─► ready ─stop─► stopping ─stopped─► stopped ─remove─► removing ─► (gone)
//	               └──────────────fail──────────────────────────────────────────────► removing
//
//	container:  creating ─made─► created ─started─► running ─ended─► exited ─remove─► removing ─► (gone)
//	               │                 └──────────ended (start failed)──► exited            ▲
//	               └───────fail───────────────────────────────────────────────────────────┘
//
// Remove from a created container is allowed; a running one must end first. An event that repeats what already
// happened changes nothing, so that a replayed journal is harmless.
package lifecycle

import "fmt"

// Phase is where an object is in its life.
type Phase string

// The phases drawn above. Creating is written before anything is made, so it also means: undo me after a crash.
const (
	Creating Phase = "creating"
	Ready    Phase = "ready"
	Stopping Phase = "stopping"
	Stopped  Phase = "stopped"
	Created  Phase = "created"
	Running  Phase = "running"
	Exited   Phase = "exited"
	Removing Phase = "removing"
)

// Event moves an object to its next phase.
type Event string

// The events drawn above.
const (
	Made    Event = "made"
	Fail    Event = "fail"
	Stop    Event = "stop"
	Halted  Event = "stopped"
	Started Event = "started"
	Ended   Event = "ended"
	Remove  Event = "remove"
)

// Machine is the table of one kind of object: phase → event → next phase.
type Machine map[Phase]map[Event]Phase

// Sandbox returns the machine of sandboxes.
func Sandbox() Machine {
	return Machine{
		Creating: {Made: Ready, Fail: Removing, Remove: Removing},
		Ready:    {Stop: Stopping, Made: Ready},
		Stopping: {Halted: Stopped, Stop: Stopping},
		Stopped:  {Remove: Removing, Stop: Stopped, Halted: Stopped},
		Removing: {Remove: Removing, Fail: Removing},
	}
}

// Container returns the machine of containers.
func Container() Machine {
	return Machine{
		Creating: {Made: Created, Fail: Removing, Remove: Removing},
		Created:  {Started: Running, Ended: Exited, Remove: Removing, Made: Created},
		Running:  {Ended: Exited, Started: Running},
		Exited:   {Remove: Removing, Ended: Exited, Started: Exited},
		Removing: {Remove: Removing, Fail: Removing, Started: Removing, Ended: Removing},
	}
}

// Refused is an event that is not possible in a phase.
type Refused struct {
	Phase Phase
	Event Event
}

func (r Refused) Error() string { return fmt.Sprintf("%q is not possible while %s", r.Event, r.Phase) }

// Next is the phase after the event, or a Refused error.
func (m Machine) Next(p Phase, e Event) (Phase, error) {
	if next, ok := m[p][e]; ok {
		return next, nil
	}
	return p, Refused{Phase: p, Event: e}
}
