package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// Machine is what the defaults depend on.
type Machine struct {
	Hostname string
	Address  string
}

// ThisMachine reads the host name and the address that the machine uses towards others.
func ThisMachine() (Machine, error) {
	host, err := os.Hostname()
	if err != nil {
		return Machine{}, fmt.Errorf("read the host name: %w", err)
	}
	return Machine{Hostname: host, Address: address()}, nil
}

// address is the source of the default route if it names one, else the first global IPv4 address of the link
// behind the default route, else the first of any link but skiff's own.
func address() string {
	first := -1
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_V4)
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" {
			continue
		}
		if r.Src != nil {
			return r.Src.String()
		}
		first = r.LinkIndex
		break
	}
	links, _ := netlink.LinkList()
	found := ""
	for _, l := range links {
		a := global(l)
		if a != "" && l.Attrs().Index == first {
			return a
		}
		if found == "" && l.Attrs().Name != "skiff0" && l.Attrs().Name != "skiff-svc" {
			found = a
		}
	}
	return found
}

func global(l netlink.Link) string {
	if l.Attrs().Flags&net.FlagUp == 0 {
		return ""
	}
	addrs, _ := netlink.AddrList(l, netlink.FAMILY_V4)
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && ip.IsGlobalUnicast() {
			return ip.String()
		}
	}
	return ""
}

// WriteFile writes a file by a temporary one and a rename, making its directory.
func WriteFile(file string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, content, mode); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(tmp, file)
}
