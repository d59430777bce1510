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
