package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Features is what a runtime can do.
type Features struct {
	OCIVersion        string // the highest of the runtime specification, without a suffix; "" is unknown
	RecursiveReadOnly bool   // mount option rro
	UserNamespaces    bool   // with idmapped mounts, without which volumes do not work in them
}

// Kernel is what the kernel can do: mount_setattr(2) with AT_RECURSIVE is there since Linux 5.12; an older one says ENOSYS.
func Kernel(userNamespaces bool) Features {
	err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{})
	return Features{RecursiveReadOnly: err != unix.ENOSYS, UserNamespaces: userNamespaces}
}

// probeLimit bounds how long a runtime may take to say what it can do.
const probeLimit = 5 * time.Second

// Probe asks a runtime by its command `features`, which OCI defines since 1.1, or else, for the version alone, by
// `--version`, whose line "spec: 1.0.0" runc and its likes have.
func Probe(ctx context.Context, path string, args []string) (Features, error) {
	text, err := output(ctx, path, append(slices.Clone(args), "features"))
	if err == nil {
		return parseFeatures(text)
	}
	text, versionErr := output(ctx, path, []string{"--version"})
	if versionErr != nil {
		return Features{}, errors.Join(err, versionErr)
	}
	return Features{OCIVersion: parseVersion(string(text))}, nil
}

func output(ctx context.Context, path string, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second // for the pipes, should a grandchild hold them
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", path, args[len(args)-1], err)
	}
	return text, nil
}

func parseFeatures(text []byte) (Features, error) {
	var f features.Features
	if err := json.Unmarshal(text, &f); err != nil {
		return Features{}, fmt.Errorf("what the runtime says of its features: %w", err)
	}
	out := Features{OCIVersion: plain(f.OCIVersionMax), RecursiveReadOnly: slices.Contains(f.MountOptions, "rro")}
	if l := f.Linux; l != nil && l.MountExtensions != nil && l.MountExtensions.IDMap != nil {
		idmap := l.MountExtensions.IDMap.Enabled
		out.UserNamespaces = idmap != nil && *idmap && slices.Contains(l.Namespaces, "user")
	}
	return out, nil
}

func parseVersion(text string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "spec:"); ok {
			return plain(strings.TrimSpace(v))
		}
	}
	return ""
}

// plain cuts what comes after the three numbers: runtimes say 1.0.2-dev and mean no less than 1.0.2.
func plain(version string) string {
	version, _, _ = strings.Cut(version, "-")
	version, _, _ = strings.Cut(version, "+")
	return version
}

// compareVersions compares number by number; what is not a number counts as zero.
func compareVersions(a, b string) int {
	return slices.Compare(numbers(a), numbers(b))
}

func numbers(version string) []int {
	var out []int
	for part := range strings.SplitSeq(plain(version), ".") {
		n, _ := strconv.Atoi(part)
		out = append(out, n)
	}
	return out
}

// CanMount refuses what cannot be mounted with this handler: a mount that shall be read-only below too must not be less.
func (h Handler) CanMount(mounts []runtimeservice.Mount) error {
	for i, m := range mounts {
		if m.RecursiveReadonly && !(h.Features.RecursiveReadOnly && Kernel(false).RecursiveReadOnly) {
			return fmt.Errorf("config.mounts[%d].recursive_read_only: %w with handler %q", i, runtimeservice.ErrRecursiveReadOnly, h.Name)
		}
	}
	return nil
}
