//go:build e2e

package conformance

import corev1 "k8s.io/api/core/v1"

// security is users, privileges and sysctls.
func security() []behaviour {
	return []behaviour{
		{"[sig-node] Security Context When creating a container with runAsUser should run the container with uid 65534 [LinuxOnly]", func(w *world) {
			w.prints(w.spec(`containers: [{args: ["id -u"], securityContext: {runAsUser: 65534}}]`), "65534")
		}},
		{"[sig-node] Security Context When creating a pod with privileged should run the container as unprivileged when false [LinuxOnly]", func(w *world) {
			w.prints(w.spec(`containers: [{args: ["ip link add dummy0 type dummy 2>/dev/null || echo refused"], securityContext: {privileged: false}}]`), "refused")
		}},
		{"[sig-node] Security Context When creating a pod with readOnlyRootFilesystem should run the container with writable rootfs when readOnlyRootFilesystem=false", func(w *world) {
			w.prints(w.spec(`containers: [{args: ["echo written >/file && cat /file"], securityContext: {readOnlyRootFilesystem: false}}]`), "written")
		}},
		{"[sig-node] Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false [LinuxOnly]", func(w *world) {
			w.prints(w.spec(`containers: [{args: ["grep NoNewPrivs /proc/self/status"], securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false}}]`), "NoNewPrivs:\t1")
		}},
		{"[sig-node] Sysctls [LinuxOnly] should support sysctls [Environment:NotInUserNS]", func(w *world) {
			w.prints(w.spec(`securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: "1"}]}
containers: [{args: ["cat /proc/sys/kernel/shm_rmid_forced"]}]`), "1")
		}},
		{"[sig-node] Sysctls [LinuxOnly] should reject invalid sysctls", func(w *world) {
			p := w.run(w.spec(`securityContext: {sysctls: [{name: kernel.msgmax, value: "10000"}]}
containers: [{args: [exit]}]`))
			if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "SysctlForbidden" {
				w.Errorf("a sysctl that is not allowed on the node: %s", p.Status.String())
			}
			w.refuses(`securityContext: {sysctls: [{name: "foo-", value: bar}, {name: kernel.shmmax, value: "1"}, {name: safe-and-unsafe, value: "1"}, {name: "bar..", value: "1"}]}
containers: [{args: [exit]}]`, `Invalid value: "foo-"`, `Invalid value: "bar.."`)
		}},
	}
}
