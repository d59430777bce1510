package runtimeservice

import "time"

// Metric is a number that may be unknown.
type Metric struct {
	Value uint64
	Known bool
}

// Usage is what a cgroup has used.
type Usage struct {
	At        time.Time
	CPU       CPUUsage
	Memory    MemoryUsage
	Swap      SwapUsage
	IOPSI     *PSI
	Processes Metric
}

// CPUUsage counts since the cgroup was made; NanoCores needs two samples.
type CPUUsage struct {
	CoreNanoseconds Metric
	NanoCores       Metric
	PSI             *PSI
}

// MemoryUsage is in bytes. Available is unknown without a limit.
type MemoryUsage struct {
	WorkingSet, Available, Usage, RSS Metric
	PageFaults, MajorPageFaults       Metric
	PSI                               *PSI
}

// SwapUsage is in bytes.
type SwapUsage struct{ Available, Usage Metric }

// PSI is pressure stall information (kernel documentation, accounting/psi).
type PSI struct{ Some, Full PSILine }

// PSILine is a total in microseconds, and averages in percent.
type PSILine struct {
	Total                uint64
	Avg10, Avg60, Avg300 float64
}

// LayerUsage is what a writable layer takes.
type LayerUsage struct {
	At         time.Time
	Mountpoint string
	Bytes      uint64
	Inodes     uint64
}

// ContainerStats is the measure of a container.
type ContainerStats struct {
	Container Container
	Usage     Usage
	Layer     LayerUsage
}

// InterfaceUsage counts a network interface.
type InterfaceUsage struct {
	Name                                    string
	RxBytes, RxErrors, RxPackets, RxDropped uint64
	TxBytes, TxErrors, TxPackets, TxDropped uint64
}

// SandboxStats is the measure of a sandbox; the first interface is the default one.
type SandboxStats struct {
	Sandbox    Sandbox
	Usage      Usage
	Interfaces []InterfaceUsage
	Containers []ContainerStats
}

// EventType is what happened.
type EventType string

// The events of CRI.
const (
	EventCreated EventType = "created"
	EventStarted EventType = "started"
	EventStopped EventType = "stopped"
	EventDeleted EventType = "deleted"
)

// Event is one change of a container, or of a sandbox when ID is the sandbox's, with the whole pod as it is then. Of a
// deleted sandbox it is the last there was.
type Event struct {
	ID         string
	Type       EventType
	At         time.Time
	Sandbox    *Sandbox
	Containers []Container
}
