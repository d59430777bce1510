package namespace

import "testing"

func TestSysctlPathAndScope(t *testing.T) {
	for _, tc := range []struct{ name, path, scope string }{
		{"net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward", "net"},
		{"net/ipv4/conf/eth0.100/forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding", "net"},
		{"net.ipv4.conf.eth0/100.forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding", "net"},
		{"kernel.shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced", "ipc"},
		{"kernel.sem", "/proc/sys/kernel/sem", "ipc"},
		{"fs.mqueue.msg_max", "/proc/sys/fs/mqueue/msg_max", "ipc"},
		{"vm.swappiness", "/proc/sys/vm/swappiness", ""},
		{"kernel.hostname", "/proc/sys/kernel/hostname", ""},
		{"net/../vm/swappiness", "/proc/sys/vm/swappiness", ""},
	} {
		if path, scope := SysctlPath(tc.name), Scope(tc.name); path != tc.path || scope != tc.scope {
			t.Errorf("%s: %s, %q; want %s, %q", tc.name, path, scope, tc.path, tc.scope)
		}
	}
}
