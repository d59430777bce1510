package stats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Node measures the node alone, for decisions about it: cheap, without the runtime's pods.
func (c *Collector) Node(ctx context.Context) v1alpha1.NodeStats { return c.node(ctx) }

// FileSystems identify those of the node's own files, of the images and of containers' writable layers: what is equal is one.
type FileSystems struct{ Node, Images, Layers uint64 }

// FileSystems tells which there are.
func (c *Collector) FileSystems(ctx context.Context) (f FileSystems, err error) {
	info, err := c.cfg.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return f, fmt.Errorf("ask the runtime for its file systems: %w", err)
	}
	if len(info.ImageFilesystems) == 0 {
		return f, errors.New("the runtime names no image file system")
	}
	images, layers := info.ImageFilesystems[0].GetFsId().GetMountpoint(), ""
	if len(info.ContainerFilesystems) > 0 {
		layers = info.ContainerFilesystems[0].GetFsId().GetMountpoint()
	}
	for _, fs := range []struct {
		path string
		to   *uint64
	}{{c.cfg.Root, &f.Node}, {images, &f.Images}, {cmp.Or(layers, images), &f.Layers}} {
		if *fs.to, err = identity(fs.path); err != nil {
			return f, err
		}
	}
	return f, nil
}

// identity is that of the file system at path: its device. On btrfs each subvolume has a device of its own; there half of the file system's
// id is the same for all.
func identity(path string) (uint64, error) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Stat(path, &st), unix.Statfs(path, &fs)); err != nil {
		return 0, fmt.Errorf("which file system %s is on: %w", path, err)
	}
	if fs.Type == unix.BTRFS_SUPER_MAGIC {
		return uint64(uint32(fs.Fsid.Val[0])), nil
	}
	return st.Dev, nil
}

func (c *Collector) node(ctx context.Context) v1alpha1.NodeStats {
	now := time.Now()
	at := metav1.NewTime(now)
	n := v1alpha1.NodeStats{NodeName: c.cfg.NodeName, StartTime: metav1.NewTime(bootTime(now)), Memory: nodeMemory(at), Network: nodeNetwork(at)}
	if used, ok := cpuNanos(read("/proc/stat")); ok {
		rate := c.rate(now, used)
		n.CPU = &v1alpha1.CPUStats{Time: at, UsageCoreNanoSeconds: &used, UsageNanoCores: rate}
	}
	nodePressure(&n, at)
	n.Fs = fsStats(c.cfg.Root, at)
	n.Swap = nodeSwap(at)
	n.Rlimit = nodeRlimit(at)
	if info, err := c.cfg.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err == nil {
		n.Runtime = &v1alpha1.RuntimeStats{ImageFs: imageFs(info.ImageFilesystems, at), ContainerFs: imageFs(info.ContainerFilesystems, at)}
		if n.Runtime.ContainerFs == nil {
			n.Runtime.ContainerFs = n.Runtime.ImageFs
		}
	}
	return n
}

// rate is the use of processors since the last question, nil for the first. Questions in quick succession get the same
// answer, because the clock of /proc/stat ticks only a hundred times per second.
func (c *Collector) rate(now time.Time, used uint64) *uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		if c.last.at.IsZero() || now.Sub(c.last.at) >= time.Second {
			c.last.at, c.last.used = now, used
		}
	}()
	if c.last.at.IsZero() {
		return nil
	}
	if since := now.Sub(c.last.at); since >= time.Second && used >= c.last.used {
		c.last.rate = uint64(float64(used-c.last.used) / since.Seconds())
	}
	rate := c.last.rate
	return &rate
}

func read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}

// cpuNanos is the processor time that anything but idling took, from the first line of /proc/stat, whose unit is 10 ms.
func cpuNanos(stat string) (uint64, bool) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, false
	}
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user nice system irq softirq steal; guest is part of user
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0, false
		}
		ticks += n
	}
	return ticks * uint64(10*time.Millisecond), true
}

// table reads lines of "key value" or "key: value kB" into numbers, in bytes where there is a unit.
func table(text string) map[string]uint64 {
	out := map[string]uint64{}
	for _, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		if len(fields) > 2 && fields[2] == "kB" {
			n *= 1024
		}
		out[strings.TrimSuffix(fields[0], ":")] = n
	}
	return out
}

// nodeMemory takes the working set for what is used less the file pages that nobody used lately, as everywhere in Kubernetes.
func nodeMemory(at metav1.Time) *v1alpha1.MemoryStats {
	info, vm := table(read("/proc/meminfo")), table(read("/proc/vmstat"))
	total, ok := info["MemTotal"]
	if !ok {
		return nil
	}
	usage := total - min(info["MemFree"], total)
	working := usage - min(info["Inactive(file)"], usage)
	available := total - working
	rss, faults, major := info["AnonPages"], vm["pgfault"], vm["pgmajfault"]
	return &v1alpha1.MemoryStats{Time: at, AvailableBytes: &available, UsageBytes: &usage, WorkingSetBytes: &working, RSSBytes: &rss,
		PageFaults: &faults, MajorPageFaults: &major}
}

func nodeSwap(at metav1.Time) *v1alpha1.SwapStats {
	info := table(read("/proc/meminfo"))
	free := info["SwapFree"]
	used := info["SwapTotal"] - min(free, info["SwapTotal"])
	return &v1alpha1.SwapStats{Time: at, SwapAvailableBytes: &free, SwapUsageBytes: &used}
}

// nodeRlimit is how many processes and threads there may be, and are.
func nodeRlimit(at metav1.Time) *v1alpha1.RlimitStats {
	most := MaxPIDs()
	fields := strings.Fields(read("/proc/loadavg"))
	if most == 0 || len(fields) < 4 {
		return nil
	}
	_, total, _ := strings.Cut(fields[3], "/")
	now, err := strconv.ParseInt(total, 10, 64)
	if err != nil {
		return nil
	}
	return &v1alpha1.RlimitStats{Time: at, MaxPID: &most, NumOfRunningProcesses: &now}
}

// MaxPIDs is how many processes and threads the machine may have at once, the least of what bounds it; 0 when none can be read.
func MaxPIDs() int64 {
	var most int64
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		n, err := strconv.ParseInt(strings.TrimSpace(read(file)), 10, 64)
		if err == nil && (most == 0 || n < most) {
			most = n
		}
	}
	return most
}

// nodeNetwork reads /proc/net/dev; the interface of the default route speaks for the node.
func nodeNetwork(at metav1.Time) *v1alpha1.NetworkStats {
	out := &v1alpha1.NetworkStats{Time: at}
	main := defaultInterface(read("/proc/net/route"))
	for _, line := range strings.Split(read("/proc/net/dev"), "\n") {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 11 {
			continue
		}
		name = strings.TrimSpace(name)
		if name == "lo" || strings.HasPrefix(name, "veth") {
			continue
		}
		number := func(i int) *uint64 {
			n, _ := strconv.ParseUint(fields[i], 10, 64)
			return &n
		}
		i := v1alpha1.InterfaceStats{Name: name, RxBytes: number(0), RxErrors: number(2), TxBytes: number(8), TxErrors: number(10)}
		out.Interfaces = append(out.Interfaces, i)
		if name == main {
			out.InterfaceStats = i
		}
	}
	return out
}

func defaultInterface(routes string) string {
	for _, line := range strings.Split(routes, "\n") {
		fields := strings.Fields(line)
		if len(fields) > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
			return fields[0]
		}
	}
	return ""
}

func bootTime(now time.Time) time.Time {
	if at, ok := table(read("/proc/stat"))["btime"]; ok {
		return time.Unix(int64(at), 0)
	}
	return now
}

// fsStats measures the file system that dir is on.
func fsStats(dir string, at metav1.Time) *v1alpha1.FsStats {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil
	}
	size := uint64(st.Bsize)
	capacity, available, used := st.Blocks*size, st.Bavail*size, (st.Blocks-st.Bfree)*size
	inodes, free := st.Files, st.Ffree
	taken := inodes - min(free, inodes)
	return &v1alpha1.FsStats{Time: at, CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &used,
		Inodes: &inodes, InodesFree: &free, InodesUsed: &taken}
}

// imageFs is the file system of the runtime's images; used is what the images take of it.
func imageFs(list []*runtimeapi.FilesystemUsage, at metav1.Time) *v1alpha1.FsStats {
	if len(list) == 0 {
		return nil
	}
	fs := fsStats(list[0].GetFsId().GetMountpoint(), at)
	if fs == nil {
		return nil
	}
	if v := value(list[0].UsedBytes); v != nil {
		fs.UsedBytes = v
	}
	if v := value(list[0].InodesUsed); v != nil {
		fs.InodesUsed = v
	}
	return fs
}
