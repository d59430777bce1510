// Package checkpoint writes running containers to files and makes containers from them, by CRIU (criu.org). The keeper has
// CRIU do the work; here is what goes with it: the changes of the root file system, descriptions, and the order of things.
package checkpoint

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Usable says why CRIU cannot be used on this machine.
func Usable(ctx context.Context) error {
	path, err := exec.LookPath("criu")
	if err != nil {
		return fmt.Errorf("checkpoints are %w here: criu is not installed (Debian: apt install criu)", runtimeservice.ErrUnsupported)
	}
	out, err := exec.CommandContext(ctx, path, "check").CombinedOutput()
	if err != nil {
		return fmt.Errorf("checkpoints are %w here: criu check: %w: %s", runtimeservice.ErrUnsupported, err, reason(out))
	}
	return nil
}

// reason is the errors among CRIU's messages.
func reason(out []byte) string {
	var lines []string
	for line := range bytes.Lines(out) {
		if text := strings.TrimSpace(string(line)); strings.Contains(text, "Error") {
			lines = append(lines, text)
		}
	}
	return strings.Join(lines, "; ")
}

// restorable refuses the versions that are known to fail: CRIU 3 reads a configuration file twice, and then looks in vain
// for the streams that it has already taken.
func restorable(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "criu", "--version").Output()
	if err != nil {
		return fmt.Errorf("ask criu for its version: %w", err)
	}
	if version := versionOf(string(out)); strings.HasPrefix(version, "3.") {
		return fmt.Errorf("restoring pods is %w with criu %s: it cannot take over the containers' streams; it takes criu 4", runtimeservice.ErrUnsupported, version)
	}
	return nil
}

func versionOf(out string) string {
	for line := range strings.Lines(out) {
		if version, found := strings.CutPrefix(line, "Version: "); found {
			return strings.TrimSpace(version)
		}
	}
	return ""
}
