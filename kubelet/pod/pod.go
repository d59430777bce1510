// Package pod decides what happens to a pod. It is pure: no clock, no I/O, no logging.
//
// A pod's life, as seen by its worker:
//
//	desired (API or file) ─┐
//	observed (CRI)         ├─► Plan   ─► Actions    what to do now, and when to look again
//	probe results          │
//	failures, back-off     ┴─► report.Status        what to tell the API
//
// The worker calls both after each wake-up, carries the actions out, and calls them again when something has
// changed. Nothing is remembered here: whatever a decision depends on is an argument.
//
//	running ──deleted, evicted, deadline, work finished──► ending ──all stopped──► over
//
// A pod is *running* while Desired.End is nil: its sandbox and containers are started and restarted as the spec
// says. It is *ending* once End is set: nothing is started any more, containers are stopped in order until
// End.Deadline, then killed. It is *over* when Actions.Done is true: no process is left and none will start.
// End is never taken back, and its deadline only ever moves closer.
//
// The words a user sees (reasons, messages, phases, conditions) are those of the upstream kubelet 1.37, because
// people and programs match on them.
package pod

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Desired is what shall be.
type Desired struct {
	// Pod has the spec and metadata of the newest version, and the status last known to the API.
	Pod *v1.Pod
	// Static pods come from a file; they may run without an API server.
	Static bool
	// End is nil while the pod shall run.
	End *End
}

// End says that the pod shall stop, and how it shall be remembered.
type End struct {
	// Deadline is when containers still running are killed.
	Deadline time.Time
	// Phase is Failed when the kubelet itself ends the pod (eviction, activeDeadlineSeconds, refusal), else empty:
	// then the containers' exit codes decide.
	Phase v1.PodPhase
	// Reason and Message go to the pod's status when Phase is set.
	Reason, Message string
	// Condition is added to the pod's status, as DisruptionTarget on eviction.
	Condition *v1.PodCondition
	// Rejected: the node never admitted the pod, so nothing of it has run.
	Rejected bool
}

// State of a container, as CRI has it.
type State int

const (
	Created State = iota
	Running
	Exited
	Unknown
)

func (s State) String() string {
	return [...]string{"created", "running", "exited", "unknown"}[s]
}

// Sandbox is a pod sandbox of the runtime.
type Sandbox struct {
	ID        string
	Ready     bool
	Attempt   uint32
	CreatedAt time.Time
	// HostNetwork as the sandbox was created with.
	HostNetwork bool
	// IPs, the primary one first. Empty for host network and before the network is up.
	IPs []string
}

// Container is a container of the runtime.
type Container struct {
	ID, Name  string
	SandboxID string
	// Image as the runtime names it, ImageID the digest reference that the status shows.
	Image, ImageID string
	State          State
	// Hash of the spec it was made from, see Hash. Zero when the runtime does not know.
	Hash     uint64
	Restarts int

	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	// Reason is the runtime's (Completed, Error, OOMKilled …); Message has the termination message.
	Reason, Message string
	// User is the identity of the first process, nil when the runtime does not tell.
	User *v1.ContainerUser
}

// Verdict of a probe: what its thresholds make of its results.
type Verdict int

const (
	// Pending: no threshold reached yet.
	Pending Verdict = iota
	Success
	Failure
)

// Probes are the verdicts on one container. A probe that the container does not have stays Pending.
type Probes struct {
	Startup, Readiness, Liveness Verdict
}

// Crash is the back-off of one container name.
type Crash struct {
	// Delay to keep between an exit and the next start.
	Delay time.Duration
	// At is when Delay was last raised: the time of the last restart.
	At time.Time
	// Of is what was restarted, see crashOf: another image or other resources begin with a clean slate.
	Of string
}

// Fault is why a container that should run does not.
type Fault struct {
	// Reason and Message as the status shows them: ErrImagePull, CreateContainerConfigError, CrashLoopBackOff …
	Reason, Message string
	// At is when it happened, Retry the earliest time to try again.
	At, Retry time.Time
}

// Progress of a step that the worker carries out.
type Progress int

const (
	NotBegun Progress = iota
	Underway
	Over
)

// Kill is what has been done so far to stop one container.
type Kill struct {
	// Cause is empty when the pod ends, else why this container alone is stopped.
	Cause Cause
	// Message of the Killing event.
	Message string
	// Deadline to send SIGKILL at.
	Deadline time.Time
	// Hook is the preStop hook's progress; Over also when there is none.
	Hook Progress
	// Stop is the runtime call's progress, made with StopDeadline.
	Stop         Progress
	StopDeadline time.Time
	// Restart: a new one shall follow, whatever the exit code says.
	Restart bool
}

// Cause of stopping a single container.
type Cause string

const (
	CauseLiveness  Cause = "liveness"
	CauseStartup   Cause = "startup"
	CauseChanged   Cause = "changed"
	CauseUnknown   Cause = "unknown"
	CausePostStart Cause = "postStart"
	// CauseRestartAll: a container's rule restarts all of the pod (KEP-5532). No hook runs and no grace is given.
	CauseRestartAll Cause = "restartAll"
	// CauseResize: the container's resizePolicy wants a restart.
	CauseResize Cause = "resize"
)

// Observed is what is.
type Observed struct {
	// Sandboxes and Containers of this pod, newest first, dead ones included.
	Sandboxes  []Sandbox
	Containers []Container
	// Probes and Kills by container ID; Crashes and Faults by container name. The fault named "" is the whole pod's: of its
	// volumes, cgroup or sandbox.
	Probes  map[string]Probes
	Kills   map[string]Kill
	Crashes map[string]Crash
	Faults  map[string]Fault
	// Busy: a start (of a sandbox or of containers) is under way.
	Busy bool
	// Hooking: the postStart hook of the newest instance of this name runs. Until it is over, the container does not
	// count as running for anybody outside.
	Hooking map[string]bool
	// Actual resources by container name, of those that run, and of the pod as a whole (WholePod). The spec holds what the
	// node has granted.
	Actual map[string]v1.ResourceRequirements
	// MaxBackoff caps the restart back-off; zero means 5 minutes.
	MaxBackoff time.Duration
}

// Actions are what the worker does next. The fields are carried out in the order given here.
type Actions struct {
	// Cancel the start under way.
	Cancel bool
	// Kills by container ID: begin to stop it, or go on with the next step of stopping it.
	Kills []KillStep
	// StopSandboxes lists sandboxes to stop. Their containers have ended.
	StopSandboxes []string
	// Start is nil when nothing is to be started, or a start is under way.
	Start *Start
	// Resizes lists running containers to be given other resources, those first that get less, and last the pod as a whole.
	Resizes []Resize
	// Remove lists dead containers that nobody needs any more.
	Remove []string
	// RemoveSandboxes lists stopped sandboxes without containers that were replaced.
	RemoveSandboxes []string

	// Waiting says, by container name, why a container that should run does not. Input of report.Status.
	Waiting map[string]Fault
	// Again is when to look again without being woken; zero for never.
	Again time.Time
	// Finished: the work of the pod is done (or failed for good) while End is not set; the worker sets it.
	Finished bool
	// Done: End is set and everything has stopped.
	Done bool
}

// KillStep begins or continues the stopping of one container.
type KillStep struct {
	ID, Name string
	// Kill is the new record.
	Kill Kill
	// Announce: this is the first step, so record the Killing event.
	Announce bool
	// RunHook and DoStop say which step to begin now. A step already under way is replaced: its deadline moved closer.
	RunHook, DoStop bool
	// Grace of the runtime's stop call.
	Grace time.Duration
}

// Start is what to start, one after the other.
type Start struct {
	// NewSandbox: create one with this Attempt first. SandboxChanged tells that an earlier one is replaced.
	NewSandbox     bool
	Attempt        uint32
	SandboxChanged bool
	// SandboxID is the one to use when NewSandbox is false.
	SandboxID string
	// Containers to start in this order. With NewSandbox they are only the first to start.
	Containers []ContainerStart
}

// ContainerStart starts one container.
type ContainerStart struct {
	Name string
	// Spec of the container; for an ephemeral container its common part.
	Spec *v1.Container
	// Target is the ID of the container whose PID namespace an ephemeral container joins, if any.
	Target string
	// Restarts is the restart count, -1 when no earlier instance is known: then the log directory tells.
	Restarts int
	// Crash is the back-off to record once it has been tried.
	Crash Crash
}
