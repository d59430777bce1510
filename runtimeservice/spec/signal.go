package spec

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The real-time signals that libc leaves to programs (signal(7)).
const (
	rtMin = 34
	rtMax = 64
)

// Signal is the number of a signal given as "SIGTERM", "TERM", "15" or "SIGRTMIN+3". The empty name is 0.
func Signal(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= rtMax {
		return n, nil
	}
	full := strings.ToUpper(name)
	if !strings.HasPrefix(full, "SIG") {
		full = "SIG" + full
	}
	for prefix, base := range map[string]int{"SIGRTMIN": rtMin, "SIGRTMAX": rtMax} {
		rest, found := strings.CutPrefix(full, prefix)
		if !found {
			continue
		}
		offset, err := strconv.Atoi(strings.TrimPrefix(rest, "+"))
		if rest == "" {
			offset, err = 0, nil
		}
		if n := base + offset; err == nil && n >= rtMin && n <= rtMax {
			return n, nil
		}
	}
	if n := unix.SignalNum(full); n != 0 {
		return int(n), nil
	}
	return 0, invalid("unknown signal %q", name)
}

// SignalName is the name of a signal as CRI spells it.
func SignalName(n int) string {
	if n >= rtMin && n <= rtMax {
		switch middle := 49; {
		case n == rtMin:
			return "SIGRTMIN"
		case n == rtMax:
			return "SIGRTMAX"
		case n <= middle:
			return fmt.Sprintf("SIGRTMIN+%d", n-rtMin)
		}
		return fmt.Sprintf("SIGRTMAX-%d", rtMax-n)
	}
	return unix.SignalName(unix.Signal(n))
}

// StopSignal is the first of the names that is a signal, or SIGTERM.
func StopSignal(names ...string) string {
	for _, name := range names {
		if n, err := Signal(name); err == nil && n > 0 {
			return SignalName(n)
		}
	}
	return "SIGTERM"
}
