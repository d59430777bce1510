package stats

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Network counts the interfaces of the calling thread's network namespace, without loopback.
func Network() ([]runtimeservice.InterfaceUsage, error) {
	text, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return nil, fmt.Errorf("count network traffic: %w", err)
	}
	return parseNetwork(string(text)), nil
}

// parseNetwork reads /proc/net/dev: "eth0: rx-bytes packets errs drop fifo frame compressed multicast tx-bytes …".
func parseNetwork(text string) []runtimeservice.InterfaceUsage {
	var out []runtimeservice.InterfaceUsage
	for line := range strings.Lines(text) {
		name, rest, found := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		columns := strings.Fields(rest)
		if !found || name == "lo" || len(columns) < 12 {
			continue
		}
		number := func(column int) uint64 {
			v, _ := strconv.ParseUint(columns[column], 10, 64)
			return v
		}
		out = append(out, runtimeservice.InterfaceUsage{
			Name: name, RxBytes: number(0), RxPackets: number(1), RxErrors: number(2), RxDropped: number(3),
			TxBytes: number(8), TxPackets: number(9), TxErrors: number(10), TxDropped: number(11),
		})
	}
	return out
}
