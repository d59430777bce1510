// Package networktest helps to test the pod network: a suite that every network.Service passes, a fake that
// holds state, and namespaces to run tests in.
package networktest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isolated marks the process that runs in namespaces of its own.
const isolated = "SKIFF_NETWORKTEST_ISOLATED"

// Isolate runs the tests of the calling TestMain in a process with a network and a mount namespace of its own:
//
//	func TestMain(m *testing.M) { os.Exit(networktest.Isolate(m.Run)) }
//
// There the whole process, not just a thread, is on a host without any interface but loopback, and nothing it
// mounts is seen outside. When it ends, the kernel takes everything away.
func Isolate(run func() int) int {
	if os.Getenv(isolated) == "" {
		return again()
	}
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, "isolate the tests:", err)
		return 1
	}
	return run()
}

func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolate the tests:", err)
		return 1
	}
	return 0
}

// settle makes mounts private, and /sys and the loopback interface those of the new namespace.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	return netlink.LinkSetUp(lo)
}
