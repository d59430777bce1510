package checkpoint

import (
	"fmt"
	"os"
	"strings"
)

// upperDir is the upper layer of the overlay that is mounted at a path.
func upperDir(rootfs string) (string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("read the mount table: %w", err)
	}
	if upper := upperOf(string(table), rootfs); upper != "" {
		return upper, nil
	}
	return "", fmt.Errorf("the root file system at %s is no overlay with an upper layer", rootfs)
}

// upperOf reads the options of a file system (proc_pid_mountinfo(5)). The last mount at a path covers the others.
func upperOf(table, rootfs string) string {
	upper := ""
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[4] != rootfs {
			continue
		}
		upper = ""
		for option := range strings.SplitSeq(fields[len(fields)-1], ",") {
			if value, found := strings.CutPrefix(option, "upperdir="); found {
				upper = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(value)
			}
		}
	}
	return upper
}
