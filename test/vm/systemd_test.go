//go:build vm

package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// units are what systemd does there: run the tests, on the console, and switch the machine off.
var units = map[string]string{
	"default.target": "[Unit]\nRequires=tests.service\n",
	"tests.service": `[Unit]
DefaultDependencies=no
Wants=dbus.socket dbus.service
After=dbus.socket dbus.service
[Service]
Type=oneshot
StandardOutput=file:/dev/console
StandardError=file:/dev/console
ExecStart=/bin/sh /tests/run-tests
`,
	"dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
	"dbus.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=notify\nStandardError=file:/dev/console\n" +
		"ExecStart=/bin/dbus-daemon --config-file=/etc/bus.conf --address=systemd: --nofork --nopidfile --systemd-activation\n",
}

// runTests asks systemd by its own socket first, and then by the bus, on which it appears once it has been told of it.
const runTests = `export PATH=/bin HOME=/root TMPDIR=/tmp
mkdir -p /var
ln -s /run /var/run
cd /tests
echo "by systemd's own socket"
WANT_BUS=no DBUS_SYSTEM_BUS_ADDRESS=unix:path=/none ./systemd.test -test.v -test.count=1 -test.run TestRealSystemd
first=$?
echo "by the bus"
WANT_BUS=yes ./systemd.test -test.v -test.count=1 -test.run TestRealSystemd
echo "the tests ended with $((first + $?))"
poweroff -f
`

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/><allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/>
<allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/></policy></busconfig>
`

// TestSystemd boots the machine with Debian's systemd, and has it make the slices of pods.
func TestSystemd(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("the emulator is missing (Debian: qemu-system-x86): %v", err)
	}
	const init = "/lib/systemd/systemd"
	if _, err := os.Stat(init); err != nil {
		t.Skipf("systemd is missing (Debian: systemd): %v", err)
	}
	root := t.TempDir()
	base(t, root)
	loadModules(t, root, find(t, os.Getenv("VM_KERNEL"), "lib/modules/*"))
	for name, text := range units {
		put(t, filepath.Join(root, "etc/systemd/system", name), text)
	}
	put(t, filepath.Join(root, "etc/bus.conf"), busConfig)
	put(t, filepath.Join(root, "etc/machine-id"), "0123456789abcdef0123456789abcdef\n")
	put(t, filepath.Join(root, "etc/os-release"), "ID=test\n")
	put(t, filepath.Join(root, "tests/run-tests"), runTests)
	put(t, filepath.Join(root, "lib/systemd/README"), "")
	command(t, "cp", "-L", init, filepath.Join(root, init))
	libraries(t, root, init)
	for _, helper := range []string{"systemd-executor", "systemd-shutdown"} { // the former is of newer versions
		if _, err := os.Stat("/lib/systemd/" + helper); err == nil {
			command(t, "cp", "-L", "/lib/systemd/"+helper, filepath.Join(root, "lib/systemd", helper))
			libraries(t, root, "/lib/systemd/"+helper)
		}
	}
	for _, name := range []string{"busybox", "dbus-daemon"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("%s is missing: %v", name, err)
		}
		copyProgram(t, root, path)
	}
	test := filepath.Join(root, "tests/systemd.test")
	command(t, "go", "test", "-c", "-tags", "seccomp,root", "-o", test, "github.com/skiff-node/skiff/kubelet/cgroup/systemd")
	libraries(t, root, test)
	boot(t, qemu, find(t, os.Getenv("VM_KERNEL"), "boot/vmlinuz-*"), root)
}

// put writes a file and makes the directories above it.
func put(t *testing.T, path, text string) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, path, text, 0o644)
}
