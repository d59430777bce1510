//go:build e2e

package conformance

import "fmt"

// emptyDirs is the modes of emptyDir volumes and of files in them.
func emptyDirs() []behaviour {
	var out []behaviour
	for medium, volume := range map[string]string{"default": "emptyDir: {}", "tmpfs": "emptyDir: {medium: Memory}"} {
		out = append(out, behaviour{modeName(medium), func(w *world) {
			lines := []string{"777"}
			if medium == "tmpfs" {
				lines = append(lines, "tmpfs")
			}
			w.prints(w.spec(`containers: [{args: ["stat -c %a /v; awk '$2==\"/v\" {print $3}' /proc/mounts"], volumeMounts: [{name: v, mountPath: /v}]}]
volumes: [{name: v, `+volume+`}]`), lines...)
		}})
		for who, uid := range map[string]int{"root": 0, "non-root": 1001} {
			for _, mode := range []string{"0644", "0666", "0777"} {
				out = append(out, behaviour{fmt.Sprintf("[sig-storage] EmptyDir volumes should support (%s,%s,%s) [LinuxOnly]", who, mode, medium), func(w *world) {
					w.prints(w.spec(fmt.Sprintf(`containers:
- args: ["umask 0; echo mount-tester >/v/f && chmod %s /v/f && stat -c '%%a %%u' /v/f && cat /v/f"]
  securityContext: {runAsUser: %d}
  volumeMounts: [{name: v, mountPath: /v}]
volumes: [{name: v, %s}]`, mode, uid, volume)), fmt.Sprintf("%s %d", mode[1:], uid), "mount-tester")
				}})
			}
		}
	}
	return out
}

func modeName(medium string) string {
	if medium == "tmpfs" {
		return "[sig-storage] EmptyDir volumes volume on tmpfs should have the correct mode [LinuxOnly]"
	}
	return "[sig-storage] EmptyDir volumes volume on default medium should have the correct mode [LinuxOnly]"
}
