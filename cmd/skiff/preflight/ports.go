package preflight

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skiff-node/skiff/cmd/skiff/config"
)

// ports tries each port as the server would take it, and names the process that has a busy one.
func ports(c config.Config) (string, string) {
	var busy []string
	for _, p := range c.Ports.Named() {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(p.Port))
		if err == nil {
			l.Close()
			continue
		}
		busy = append(busy, fmt.Sprintf("port %d (ports.%s) is in use%s", p.Port, p.Name, holder(p.Port)))
	}
	if len(busy) == 0 {
		return "", ""
	}
	return strings.Join(busy, "; "), "stop that process, or choose another port in the configuration (ports: in server.yaml)"
}

// holder is " by PROCESS (pid N)" for the process that listens on the port, "" where it cannot be found.
func holder(port int) string {
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		inode := listener(file, port)
		if inode == "" {
			continue
		}
		fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, fd := range fds {
			if link, _ := os.Readlink(fd); link != "socket:["+inode+"]" {
				continue
			}
			pid := strings.Split(fd, "/")[2]
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf(" by %s (pid %s)", strings.TrimSpace(string(comm)), pid)
		}
	}
	return ""
}

// listener is the inode of the listening socket on a port in a /proc/net/tcp file, "" where there is none.
func listener(file string, port int) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		const listen = "0A" // TCP_LISTEN, include/net/tcp_states.h
		if len(fields) > 9 && fields[3] == listen && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			return fields[9]
		}
	}
	return ""
}
