package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// inCgroup executes a program in a cgroup of the host's, in each hierarchy.
const inCgroup = `for d in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do
  [ -e "$d/cgroup.procs" ] || continue
  mkdir -p "$d$0"
  for f in cpuset.cpus cpuset.mems; do
    p=$(dirname "$d$0"); [ ! -e "$p/$f" ] || { cat "$d/$f" >"$p/$f"; cat "$p/$f" >"$d$0/$f"; }
  done
  echo $$ >"$d$0/cgroup.procs"
done 2>/dev/null
exec "$@"`

// CommandIn is a command inside the host that runs in a cgroup below the host's own.
func CommandIn(ctx context.Context, h *Host, cgroup string, argv ...string) *exec.Cmd {
	return h.Command(ctx, "sh", append([]string{"-c", inCgroup, h.CgroupRoot + "/" + cgroup}, argv...)...)
}

// Write makes a file on the host, with the directories above it.
func Write(h *Host, path, text string) error {
	file := h.Path(path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// ContainerdConfig is the configuration of Debian's containerd: what a kubelet's node needs and no more; everything else is
// containerd's default. pause is the image of its sandboxes.
func ContainerdConfig(pause string) string {
	return fmt.Sprintf(`version = 2
root = "/var/lib/skiff/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
`, pause)
}

// Conflist is the network of containerd's pods: Debian's bridge, host-local and portmap plugins.
const Conflist = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
{"type": "portmap", "capabilities": {"portMappings": true}}]}
`
