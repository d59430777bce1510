package node

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// Facts are what does not change while the kubelet runs.
type Facts struct {
	Info      v1.NodeSystemInfo
	CPUs      int64
	Online    string          // the list of the processors that run, "0-3"; empty when it cannot be read
	Memory    int64           // bytes
	HugePages map[int64]int64 // page size in bytes → bytes reserved for pages of this size
	Storage   int64           // bytes of the file system of the kubelet's directory
	DefaultIP string          // the address packets of the node leave from
}

// ReadFacts reads the machine. root is a directory, which need not exist yet, on the file system for pods' data.
func ReadFacts(root string) (Facts, error) {
	var f Facts
	var err error
	if f.Memory, err = memInfo("MemTotal"); err != nil {
		return f, err
	}
	swap, err := memInfo("SwapTotal")
	if err != nil {
		return f, err
	}
	f.Online = firstOf("/sys/devices/system/cpu/online")
	f.CPUs = countCPUs(f.Online)
	f.HugePages = hugePages("/sys/kernel/mm/hugepages")
	if f.Storage, err = storage(root); err != nil {
		return f, err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return f, fmt.Errorf("uname: %w", err)
	}
	machine := firstOf("/etc/machine-id", "/var/lib/dbus/machine-id")
	f.Info = v1.NodeSystemInfo{
		MachineID:       machine,
		SystemUUID:      firstOf("/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid", "/etc/machine-id"),
		BootID:          firstOf("/proc/sys/kernel/random/boot_id"),
		KernelVersion:   unix.ByteSliceToString(uts.Release[:]),
		OSImage:         osImage(),
		OperatingSystem: goruntime.GOOS,
		Architecture:    goruntime.GOARCH,
	}
	if swap > 0 { // the API takes no zero
		f.Info.Swap = &v1.NodeSwapStatus{Capacity: &swap}
	}
	f.DefaultIP = defaultIP()
	return f, nil
}

// Swap is the machine's swap space in bytes.
func (f *Facts) Swap() int64 {
	if f.Info.Swap == nil || f.Info.Swap.Capacity == nil {
		return 0
	}
	return *f.Info.Swap.Capacity
}

// Pages are the huge pages as resources, of each size that the machine knows.
func (f *Facts) Pages() v1.ResourceList {
	list := v1.ResourceList{}
	for size, bytes := range f.HugePages {
		name := v1.ResourceName(v1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String())
		list[name] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return list
}

// memInfo reads a line of /proc/meminfo, in bytes.
func memInfo(key string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) >= 2 && fields[0] == key+":" {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", key)
}

func countCPUs(online string) int64 {
	if n := countList(online); n > 0 {
		return n
	}
	return int64(goruntime.NumCPU())
}

// countList counts the members of a list such as "0-3,8".
func countList(text string) int64 {
	var n int64
	for _, part := range strings.Split(text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseInt(first, 10, 64)
		b, err2 := strconv.ParseInt(last, 10, 64)
		if err1 == nil && err2 == nil && b >= a {
			n += b - a + 1
		}
	}
	return n
}

func hugePages(dir string) map[int64]int64 {
	entries, _ := os.ReadDir(dir)
	pages := map[int64]int64{}
	for _, e := range entries {
		var kb int64
		if _, err := fmt.Sscanf(e.Name(), "hugepages-%dkB", &kb); err != nil {
			continue
		}
		n, _ := strconv.ParseInt(firstOf(filepath.Join(dir, e.Name(), "nr_hugepages")), 10, 64)
		pages[kb*1024] = n * kb * 1024
	}
	return pages
}

// storage is the size of the file system at dir or its nearest directory that exists.
func storage(dir string) (int64, error) {
	for ; ; dir = filepath.Dir(dir) {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(st.Blocks) * st.Bsize, nil
		}
		if err != unix.ENOENT || dir == "/" {
			return 0, fmt.Errorf("size of the file system at %s: %w", dir, err)
		}
	}
}

// firstOf is the first line of the first file that can be read and is not empty.
func firstOf(paths ...string) string {
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if line, _, _ := strings.Cut(strings.TrimRight(string(data), "\x00"), "\n"); err == nil && line != "" {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// osImage is the name of the distribution (os-release(5)).
func osImage() string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(data), "\n") {
			if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				return strings.Trim(name, `"'`)
			}
		}
	}
	return "Linux"
}

// defaultIP is the address of the interface with the default route, or the first global one, or the loopback's on a
// machine without any network.
func defaultIP() string {
	if ip, err := utilnet.ChooseHostInterface(); err == nil {
		return ip.String()
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

// resources are what the node has and what pods may have of it.
func resources(c Capacity, f Facts) (capacity, allocatable v1.ResourceList) {
	capacity = v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(f.CPUs, resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(f.Memory, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(f.Storage, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(c.MaxPods, resource.DecimalSI),
	}
	if c.NoStorage {
		delete(capacity, v1.ResourceEphemeralStorage)
	}
	maps.Copy(capacity, f.Pages())
	allocatable = capacity.DeepCopy()
	subtract := func(name v1.ResourceName, q resource.Quantity) {
		left := allocatable[name]
		left.Sub(q)
		if left.Sign() < 0 {
			left.Set(0)
		}
		allocatable[name] = left
	}
	for name, q := range c.Reserved(capacity) {
		if _, ok := allocatable[name]; ok {
			subtract(name, q)
		}
	}
	for name, q := range capacity { // huge pages are taken out of the memory that pods may have
		if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
			subtract(v1.ResourceMemory, q)
		}
	}
	if c.Devices != nil {
		all, well := c.Devices()
		maps.Copy(capacity, all)
		maps.Copy(allocatable, well)
	}
	return capacity, allocatable
}

// isExtended tells resources of devices, whose names have a domain other than kubernetes.io, from the kubelet's own.
func isExtended(name v1.ResourceName) bool {
	domain, _, ok := strings.Cut(string(name), "/")
	return ok && !strings.HasSuffix(domain, "kubernetes.io") && !strings.HasPrefix(domain, v1.DefaultResourceRequestsPrefix)
}
