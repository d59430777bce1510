// Package preflight looks at the machine before anything is started or written: what skiff needs of the kernel, of
// the process's rights, of ports and disk. Each finding says what is missing and what to do.
package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/cmd/skiff/config"
)

// Finding is the outcome of one check. Problem is empty when the check passed; a Warning does not stop a start.
type Finding struct {
	Check   string `json:"check"`
	Problem string `json:"problem,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
	Warning bool   `json:"warning,omitempty"`
}

// check is one question to the machine.
type check struct {
	name string
	run  func(config.Config) (problem, remedy string)
	warn bool
}

var checks = []check{
	{name: "root", run: isRoot},
	{name: "capabilities", run: capabilities},
	{name: "CAP_SYS_RESOURCE", run: sysResource, warn: true},
	{name: "overlay file system", run: overlay},
	{name: "bridge and veth", run: links},
	{name: "nftables", run: nftables},
	{name: "cgroups", run: cgroups},
	{name: "ports", run: ports},
	{name: "disk space", run: disk},
}

// Run makes every check and returns the findings in a fixed order.
func Run(c config.Config) []Finding {
	var out []Finding
	for _, ch := range checks {
		problem, remedy := ch.run(c)
		out = append(out, Finding{Check: ch.name, Problem: problem, Remedy: remedy, Warning: ch.warn})
		if ch.name == "root" && problem != "" {
			break // nothing else can be asked
		}
	}
	return out
}

// Error joins the findings that stop a start, nil when there are none.
func Error(findings []Finding) error {
	var errs []error
	for _, f := range findings {
		if f.Problem != "" && !f.Warning {
			errs = append(errs, fmt.Errorf("%s: %s\n  remedy: %s", f.Check, f.Problem, f.Remedy))
		}
	}
	return errors.Join(errs...)
}

func isRoot(config.Config) (string, string) {
	if os.Geteuid() != 0 {
		return "skiff needs root to make namespaces, mounts and links", "run it with sudo"
	}
	return "", ""
}

// needed are the capabilities without which no container starts.
var needed = map[string]uint{"CAP_SYS_ADMIN": 21, "CAP_NET_ADMIN": 12, "CAP_SYS_CHROOT": 18, "CAP_MKNOD": 27, "CAP_SETUID": 7, "CAP_SETGID": 6, "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_KILL": 5, "CAP_SYS_PTRACE": 19}

func capabilities(config.Config) (string, string) {
	var missing []string
	for name, bit := range needed {
		if !has(bit) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return "missing " + strings.Join(missing, ", "), "run skiff outside of a restricted container, or grant these capabilities"
	}
	return "", ""
}

func sysResource(config.Config) (string, string) {
	if !has(24) {
		return "missing: OOM scores cannot be lowered and limits not raised", "grant CAP_SYS_RESOURCE for full OOM protection of pods"
	}
	return "", ""
}

func has(bit uint) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[bit/32].Effective&(1<<(bit%32)) != 0
}

func overlay(config.Config) (string, string) {
	raw, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err.Error(), "mount /proc"
	}
	if !strings.Contains(string(raw), "\toverlay\n") {
		return "the kernel has no overlay file system", "modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS"
	}
	return "", ""
}

// links makes a bridge and a veth pair in a network namespace of its own, which goes with the thread.
func links(config.Config) (string, string) {
	remedy := "modprobe bridge veth, or use a kernel with CONFIG_BRIDGE and CONFIG_VETH"
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end with the goroutine
		done <- tryLinks()
	}()
	if err := <-done; err != nil {
		return err.Error(), remedy
	}
	return "", ""
}

func tryLinks() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}); err != nil {
		return fmt.Errorf("make a bridge: %w", err)
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	return nil
}

// nftables asks for the rule set's generation, which every kernel with nf_tables answers.
func nftables(config.Config) (string, string) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, unix.NLM_F_ACK)
	req.AddRawData([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0})
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		return fmt.Sprintf("the kernel does not answer for nf_tables: %v", err), "modprobe nf_tables, or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"
	}
	return "", ""
}

func cgroups(config.Config) (string, string) {
	const root = "/sys/fs/cgroup"
	var missing []string
	v2, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	for _, c := range []string{"cpu", "memory", "pids"} {
		if err == nil && !strings.Contains(string(v2), c) {
			missing = append(missing, c)
		}
		if _, serr := os.Stat(filepath.Join(root, c)); err != nil && errors.Is(serr, fs.ErrNotExist) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return "no cgroup controller " + strings.Join(missing, ", "), "mount cgroups at " + root + " and enable the controllers on the kernel's command line"
	}
	return "", ""
}

func disk(c config.Config) (string, string) {
	dir := c.Dirs.State
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err.Error(), "choose another directory with --data-dir"
	}
	const floor = 256 << 20
	if free := int64(st.Bavail) * st.Bsize; free < floor {
		return fmt.Sprintf("%s has %d MiB free, skiff needs %d", dir, free>>20, floor>>20), "free some space, or choose another directory with --data-dir"
	}
	return "", ""
}
