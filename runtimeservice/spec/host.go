package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/apparmor"
)

// Host is what the machine has to give. Probe fills it once at start.
type Host struct {
	CgroupV2       bool
	Capabilities   []string // what a container can get at most
	OOMScoreAdj    int      // of this process: the lowest possible one without CAP_SYS_RESOURCE
	NoFile         uint64   // limit of open files of a container's process
	Hugetlb        bool
	SwapAccounting bool
	Seccomp        bool
	AppArmor       bool
	// AppArmorDefault is the profile of containers that name none; "" where it could not be loaded.
	AppArmorDefault string
	SELinux         bool
}

// maxNoFile keeps programs that walk all possible descriptors usable.
const maxNoFile = 1 << 20

// Probe looks at the machine.
func Probe() (Host, error) {
	h := Host{}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return h, fmt.Errorf("look at the cgroup file system: %w", err)
	}
	h.CgroupV2 = st.Type == unix.CGROUP2_SUPER_MAGIC
	if h.CgroupV2 {
		controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return h, fmt.Errorf("list cgroup controllers: %w", err)
		}
		h.Hugetlb = slices.Contains(strings.Fields(string(controllers)), "hugetlb")
		h.SwapAccounting = exists("/proc/self/cgroup") && swapFileV2()
	} else {
		h.Hugetlb = exists("/sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes") || exists("/sys/fs/cgroup/hugetlb/tasks")
		h.SwapAccounting = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	if err := h.probeSelf(); err != nil {
		return h, err
	}
	h.Seccomp = exists("/proc/sys/kernel/seccomp/actions_avail")
	h.AppArmor = apparmor.Enabled()
	h.SELinux = exists("/sys/fs/selinux/enforce")
	return h, nil
}

// swapFileV2 finds memory.swap.max in any child of the root; the root itself never has it.
func swapFileV2() bool {
	entries, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.IsDir() && exists("/sys/fs/cgroup/"+e.Name()+"/memory.swap.max")
	})
}

func (h *Host) probeSelf() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("read the capabilities of this process: %w", err)
	}
	h.Capabilities, err = parseCapabilities(string(status))
	if err != nil {
		return err
	}
	adj, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return fmt.Errorf("read the OOM score of this process: %w", err)
	}
	if h.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(adj))); err != nil {
		return fmt.Errorf("read the OOM score of this process: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	h.NoFile = min(limit.Max, maxNoFile)
	return nil
}

// parseCapabilities reads the permitted set of /proc/<pid>/status.
func parseCapabilities(status string) ([]string, error) {
	for line := range strings.Lines(status) {
		hex, found := strings.CutPrefix(line, "CapPrm:")
		if !found {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read the capabilities of this process: %w", err)
		}
		var out []string
		for n, name := range CapabilityNames {
			if bits&(1<<n) != 0 {
				out = append(out, name)
			}
		}
		return out, nil
	}
	return nil, errors.New("read the capabilities of this process: /proc/self/status has no CapPrm line")
}

// ClampOOMScore raises a score that this process may not give.
func (h Host) ClampOOMScore(asked int) int {
	if slices.Contains(h.Capabilities, "CAP_SYS_RESOURCE") {
		return asked
	}
	return max(asked, h.OOMScoreAdj)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
