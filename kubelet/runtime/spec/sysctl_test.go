package spec

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestSysctls(t *testing.T) {
	n := &Node{Sysctls: map[string]string{"net/ipv4/ip_forward": "1", "kernel.shmall": "7", "fs.mqueue.msg_max": "8", "kernel.domainname": "d",
		"user.max_inotify_watches": "9", "kernel.shm": "x", "vm.swappiness": "0"}}
	own := false
	for name, tc := range map[string]struct {
		spec v1.PodSpec
		want string
	}{
		"a pod's own namespaces": {v1.PodSpec{}, "map[fs.mqueue.msg_max:8 kernel.domainname:d kernel.shmall:7 net.ipv4.ip_forward:1]"},
		"host network":           {v1.PodSpec{HostNetwork: true}, "map[fs.mqueue.msg_max:8 kernel.shmall:7]"},
		"host IPC":               {v1.PodSpec{HostIPC: true}, "map[kernel.domainname:d net.ipv4.ip_forward:1]"},
		"own users":              {v1.PodSpec{HostUsers: &own, HostIPC: true, HostNetwork: true}, "map[user.max_inotify_watches:9]"},
		"the pod says otherwise": {v1.PodSpec{HostIPC: true, SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{
			{Name: "net.ipv4.ip_forward", Value: "0"}, {Name: "net/ipv4/conf/eth0.1/forwarding", Value: "2"}}}},
			"map[kernel.domainname:d net.ipv4.conf.eth0/1.forwarding:2 net.ipv4.ip_forward:0]"},
	} {
		if got := fmt.Sprint(sysctls(n, &v1.Pod{Spec: tc.spec})); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	if got := sysctls(&Node{}, &v1.Pod{}); got == nil || len(got) != 0 {
		t.Errorf("no defaults: %v", got)
	}
}
