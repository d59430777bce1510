//go:build root

package veth

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/network/networktest"
)

func TestMain(m *testing.M) { os.Exit(networktest.Isolate(m.Run)) }

// plugged is a host, and a sandbox to be plugged in.
func plugged(t *testing.T) (*Host, Port) {
	t.Helper()
	h, err := Ensure(Config{Interface: "skiff0", MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	gateway := netip.MustParseAddr("10.42.0.1")
	if err := h.SetAddresses([]netip.Addr{gateway}); err != nil {
		t.Fatal(err)
	}
	path := pinned(t)
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), RemoveAll("skiff0")); err != nil {
			t.Error(err)
		}
		h.Close()
	})
	return h, Port{SandboxID: "box", NetNS: path, IfName: "eth0", IP: netip.MustParseAddr("10.42.0.5"), Gateway: gateway}
}

// pinned is the path of a new network namespace.
func pinned(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		done <- errors.Join(unix.Unshare(unix.CLONE_NEWNET), unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""))
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPlug: both ends are as drawn in host.go, also where an earlier attempt left a pair of the name.
func TestPlug(t *testing.T) {
	h, port := plugged(t)
	for range 2 {
		done, err := h.Plug(port)
		if err != nil {
			t.Fatal(err)
		}
		host, err := netlink.LinkByName(done.HostName)
		if err != nil {
			t.Fatal(err)
		}
		if a := host.Attrs(); a.HardwareAddr.String() != done.HostMAC || a.MTU != 1400 || a.RawFlags&unix.IFF_UP == 0 {
			t.Errorf("host end: %s, MTU %d, flags %#x", a.HardwareAddr, a.MTU, a.RawFlags)
		}
		checkNeighbour(t, h.nl, host, "10.42.0.5 "+done.MAC)
		routes, err := netlink.RouteList(host, netlink.FAMILY_V4)
		if err != nil || len(routes) != 1 || routes[0].Dst.String() != "10.42.0.5/32" || routes[0].Src.String() != "10.42.0.1" {
			t.Errorf("the host's routes: %v, %v", routes, err)
		}
		checkInside(t, port, done)
	}
}

func checkInside(t *testing.T, port Port, done Plugged) {
	t.Helper()
	ns, err := netns.GetFromPath(port.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(port.IfName)
	if err != nil {
		t.Fatal(err)
	}
	if a := link.Attrs(); a.HardwareAddr.String() != done.MAC || a.MTU != 1400 || a.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("%s: %s, MTU %d, flags %#x", port.IfName, a.HardwareAddr, a.MTU, a.RawFlags)
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "10.42.0.5/32" || addrs[0].Scope != unix.RT_SCOPE_UNIVERSE {
		t.Errorf("addresses: %v, %v", addrs, err)
	}
	checkNeighbour(t, h, link, "10.42.0.1 "+done.HostMAC)
	routes, err := h.RouteList(link, netlink.FAMILY_V4)
	if err != nil || len(routes) != 1 || routes[0].Gw.String() != "10.42.0.1" || routes[0].Flags&int(netlink.FLAG_ONLINK) == 0 {
		t.Errorf("routes: %v, %v", routes, err)
	}
}

func checkNeighbour(t *testing.T, h *netlink.Handle, link netlink.Link, want string) {
	t.Helper()
	all, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil || len(all) != 1 || all[0].IP.String()+" "+all[0].HardwareAddr.String() != want || all[0].State != unix.NUD_PERMANENT {
		t.Errorf("neighbours of %s: %v, %v; want %s", link.Attrs().Name, all, err, want)
	}
}

// TestPlugThatFails names what failed, and leaves nothing.
func TestPlugThatFails(t *testing.T) {
	h, port := plugged(t)
	port.Gateway = port.IP // no route goes through oneself
	_, err := h.Plug(port)
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "route the sandbox through 10.42.0.5") {
		t.Errorf("error %v", err)
	}
	if left, err := h.List(); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	port.NetNS = filepath.Join(t.TempDir(), "none")
	if _, err := h.Plug(port); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a namespace that is not there: %v", err)
	}
}
