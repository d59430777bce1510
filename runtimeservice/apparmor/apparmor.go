// Package apparmor loads the profile that containers have by default, and knows which profiles the kernel has.
package apparmor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Default is the name of the profile of containers that ask for none, or for the runtime's own.
const Default = "skiff-default"

// kernelProfiles lists the loaded profiles, one a line: "name (mode)".
const kernelProfiles = "/sys/kernel/security/apparmor/profiles"

// Enabled says whether the kernel confines by AppArmor.
func Enabled() bool {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(on), "Y") {
		return false
	}
	_, err = os.Stat(kernelProfiles)
	return err == nil
}

// Loaded says whether the kernel has the profile.
func Loaded(name string) (bool, error) {
	list, err := os.ReadFile(kernelProfiles)
	if err != nil {
		return false, fmt.Errorf("list AppArmor profiles: %w", err)
	}
	return contains(string(list), name), nil
}

func contains(list, name string) bool {
	for line := range strings.Lines(list) {
		if at := strings.LastIndex(line, " ("); at > 0 && line[:at] == name {
			return true
		}
	}
	return false
}

// LoadDefault loads the default profile unless it is loaded already. It needs apparmor_parser.
func LoadDefault(ctx context.Context) error {
	if loaded, err := Loaded(Default); loaded || err != nil {
		return err
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		return fmt.Errorf("the default AppArmor profile cannot be loaded: apparmor_parser is not installed (Debian: apt install apparmor)")
	}
	cmd := exec.CommandContext(ctx, parser, "--replace", "--skip-cache")
	cmd.Stdin = strings.NewReader(profile(Default))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load the default AppArmor profile: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// profile is what Docker's and containerd's default profiles agree on: all but mounting, writing to the kernel's switches
// below /proc and /sys, and touching processes outside.
func profile(name string) string {
	return `@{PROC}=/proc/
profile ` + name + ` flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (send,receive) peer=` + name + `,

  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/kcore rwklx,

  deny mount,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

  ptrace (trace,read,tracedby,readby) peer=` + name + `,
}
`
}
