package runtimeservice

// Detail is what monitoring wants to know of a cgroup beyond its Usage. Reading it costs some thirty files, and with
// processes one more for each of theirs, so it is read only when somebody asks.
type Detail struct {
	Usage     Usage
	CPU       CPUDetail
	Memory    MemoryDetail
	Disks     []DiskUsage
	Hugepages []HugepageUsage
	Processes ProcessDetail
}

// CPUDetail counts since the cgroup was made. Times are in nanoseconds.
type CPUDetail struct {
	User, System              Metric
	Periods, ThrottledPeriods Metric
	ThrottledTime             Metric
}

// MemoryDetail is in bytes, but for the counts: LimitHits of the limit, OOMKills, and faults of the cgroup itself
// and of all below it.
type MemoryDetail struct {
	Cache, Swap, Kernel, MappedFile Metric
	ActiveFile, InactiveFile        Metric
	Peak                            Metric
	LimitHits, OOMKills             Metric
	Faults, MajorFaults             Metric
	AllFaults, AllMajorFaults       Metric
}

// DiskUsage counts what went to and came from a block device.
type DiskUsage struct {
	Device                  string // "/dev/sda"; "" where the device has no name
	Major, Minor            uint64
	ReadBytes, WrittenBytes uint64
	Reads, Writes           uint64
}

// HugepageUsage is in bytes, for one size of pages ("2MB"). The kernel keeps no peak under cgroup v2.
type HugepageUsage struct {
	PageSize    string
	Usage, Peak Metric
}

// ProcessDetail counts the processes of a cgroup and those below it.
type ProcessDetail struct {
	Processes   Metric
	Threads     Metric
	ThreadsMax  Metric // unknown without a limit
	Descriptors Metric
	Sockets     Metric
	// OpenFilesMax is the soft limit of the first process; unknown without one.
	OpenFilesMax Metric
}

// DiskSpace is a file system as df(1) shows it.
type DiskSpace struct {
	Device                    string
	Bytes, Inodes, FreeInodes uint64
}

// ContainerDetail is all that is measured of a container that runs.
type ContainerDetail struct {
	Container Container
	Cgroup    string
	Detail    Detail
	Layer     LayerUsage
	Space     DiskSpace // of the file system that holds the writable layer
}

// SandboxDetail is all that is measured of a sandbox that is ready, and of its running containers.
type SandboxDetail struct {
	Sandbox    Sandbox
	Cgroup     string
	Detail     Detail
	Interfaces []InterfaceUsage
	Containers []ContainerDetail
}
