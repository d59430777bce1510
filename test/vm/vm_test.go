//go:build vm

// Package vm runs the kernel-level tests of the CRI server in an emulated machine with Debian's kernel and the unified
// cgroup hierarchy: cgroup v2 is what users have, whatever the machine of the tests has.
package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// modules are what the tests need of Debian's kernel that is not built in; what they depend on comes with them.
var modules = regexp.MustCompile(`/(overlay|ip6?table_filter|xt_mark|veth|dummy|bridge|unix|nft?_[a-z0-9_]*|nf_[a-z0-9_]*|(unix|inet|tcp|udp|netlink|af_packet)_diag)\.ko$`)

// script is what the machine runs after its kernel. pivot_root, which containers need, does not work on the first root
// file system, so all is moved to another one.
const script = `#!/bin/busybox sh
export PATH=/bin
if [ "$1" != second ]; then
  /bin/busybox mkdir -p /bin /proc /new
  /bin/busybox --install -s /bin
  mount -t tmpfs -o size=80% tmpfs /new
  cp -a /bin /etc /lib /lib64 /usr /sbin /modules /tests /init /new/ 2>/dev/null
  mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/var/log /new/root
  chmod 1777 /new/tmp
  exec switch_root /new /init second
fi
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /
echo "+cpu +cpuset +io +memory +pids +hugetlb" >/sys/fs/cgroup/cgroup.subtree_control
while read m; do insmod /modules/$m; done </modules/order
ip link set lo up
hostname vm
cd /tests
export HOME=/root TMPDIR=/tmp SKIFF_KEEPER=/bin/skiff-keeper
[ ! -x /lib/systemd/systemd ] || exec /lib/systemd/systemd
./cri.test -test.v -test.count=1 -test.timeout 20m -test.run "$(cat /tests/run)"
echo "the tests ended with $?"
poweroff -f
`

// TestCgroupV2 boots the machine and judges each test by what it prints. VM_KERNEL is a directory with an unpacked
// kernel package (boot, lib/modules); VM_RUN chooses tests.
func TestCgroupV2(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("the emulator is missing (Debian: qemu-system-x86): %v", err)
	}
	kernel := find(t, os.Getenv("VM_KERNEL"), "boot/vmlinuz-*")
	root := t.TempDir()
	fill(t, root, find(t, os.Getenv("VM_KERNEL"), "lib/modules/*"))
	boot(t, qemu, kernel, root)
}

// boot runs the machine with that root file system, and judges what it prints.
func boot(t *testing.T, qemu, kernel, root string) {
	archive := filepath.Join(t.TempDir(), "root.cpio")
	command(t, "sh", "-c", `cd "$1" && find . | cpio --quiet -o -H newc >"$2"`, "sh", root, archive)
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", kernel, "-initrd", archive, "-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all")
	var out bytes.Buffer
	var to io.Writer = &out
	if path := os.Getenv("VM_OUTPUT"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		to = io.MultiWriter(&out, f)
	}
	cmd.Stdout, cmd.Stderr = to, to // one writer, so that os/exec copies both in one goroutine
	err := cmd.Run()
	judge(t, out.Bytes(), err)
}

// result is a line of a test's end: "--- PASS: TestX (0.1s)".
var result = regexp.MustCompile(`--- (PASS|FAIL|SKIP): (Test[A-Za-z0-9_]*) \(([0-9.]+s)\)`)

func judge(t *testing.T, out []byte, err error) {
	found := result.FindAllSubmatch(out, -1)
	for _, m := range found {
		t.Run(string(m[2]), func(t *testing.T) {
			switch string(m[1]) {
			case "FAIL":
				t.Errorf("failed after %s", m[3])
			case "SKIP":
				t.Skip("skipped in the machine")
			}
		})
	}
	if err != nil || len(found) == 0 || !bytes.Contains(out, []byte("the tests ended with 0")) {
		t.Errorf("the machine: %v\n%s", err, out[max(0, len(out)-12000):])
	}
}

// fill makes the machine's root file system: busybox, the binaries with their libraries, kernel modules, the tests.
func fill(t *testing.T, root, modulesDir string) {
	base(t, root)
	xtables(t, root)
	run := os.Getenv("VM_RUN")
	if run == "" {
		run = "."
	}
	write(t, filepath.Join(root, "tests/run"), run, 0o644)
	command(t, "go", "build", "-tags", "seccomp", "-o", filepath.Join(root, "bin/skiff-keeper"), "github.com/skiff-node/skiff/cmd/skiff-keeper")
	command(t, "go", "test", "-c", "-tags", "seccomp,root", "-o", filepath.Join(root, "tests/cri.test"), "github.com/skiff-node/skiff/cmd/skiff-cri")
	for _, name := range []string{"busybox", "nft", "criu", "apparmor_parser", "tar", "gzip"} {
		path, err := exec.LookPath(name)
		if err != nil && name == "busybox" {
			t.Fatal(err)
		}
		if err == nil {
			copyProgram(t, root, path)
		}
	}
	for _, name := range []string{"skiff-keeper", "../tests/cri.test"} {
		libraries(t, root, filepath.Join(root, "bin", name))
	}
	loadModules(t, root, modulesDir)
}

// base is what every machine has.
func base(t *testing.T, root string) {
	for _, dir := range []string{"bin", "etc", "sbin", "tests", "modules", "lib", "lib64", "usr/lib"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "init"), script, 0o755)
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\n", 0o644)
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\n", 0o644)
	write(t, filepath.Join(root, "etc/hosts"), "127.0.0.1 localhost\n", 0o644)
}

// xtables is what CRIU locks the network of a pod with while it writes: iptables-restore and its extensions.
func xtables(t *testing.T, root string) {
	path, err := exec.LookPath("iptables-legacy-restore")
	if err != nil {
		return // then the test of checkpoints says what is missing
	}
	libraries(t, root, path)
	for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
		command(t, "cp", "-L", path, filepath.Join(root, "bin", name))
	}
	found, _ := filepath.Glob("/usr/lib/*/xtables/libxt_*.so")
	for _, extension := range found {
		to := filepath.Join(root, extension)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		command(t, "cp", extension, to)
	}
}

// loadModules copies the modules with what they need, and writes the order to load them in.
func loadModules(t *testing.T, root, dir string) {
	version := filepath.Base(dir)
	command(t, "depmod", "-b", strings.TrimSuffix(dir, "/lib/modules/"+version), version)
	text, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	needs := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		name, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[name] = strings.Fields(deps)
	}
	var order []string
	seen := map[string]bool{}
	var add func(string)
	add = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		for _, dep := range needs[name] {
			add(dep)
		}
		order = append(order, filepath.Base(name))
		command(t, "cp", filepath.Join(dir, name), filepath.Join(root, "modules"))
	}
	add("kernel/crypto/crc32c_generic.ko") // libcrc32c needs it at once, and does not say so
	for name := range needs {
		if modules.MatchString(name) {
			add(name)
		}
	}
	write(t, filepath.Join(root, "modules/order"), strings.Join(order, "\n")+"\n", 0o644)
}

// copyProgram puts a program in /bin, with its libraries where they are.
func copyProgram(t *testing.T, root, path string) {
	command(t, "cp", "-L", path, filepath.Join(root, "bin", filepath.Base(path)))
	libraries(t, root, path)
}

var library = regexp.MustCompile(`(/[^ ]*/[^ ]+) \(0x`)

func libraries(t *testing.T, root, path string) {
	out, _ := exec.Command("ldd", path).Output() // a static program has none, which ldd calls an error
	for _, m := range library.FindAllSubmatch(out, -1) {
		to := filepath.Join(root, string(m[1]))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		command(t, "cp", "-L", string(m[1]), to)
	}
}

func find(t *testing.T, dir, pattern string) string {
	found, _ := filepath.Glob(filepath.Join(dir, pattern))
	if dir == "" || len(found) == 0 {
		t.Fatalf("VM_KERNEL=%q holds no %s: unpack Debian's kernel package there (make test-vm does)", dir, pattern)
	}
	return found[0]
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, name string, args ...string) {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%s %q: %w: %s", name, args, err, out))
	}
}
