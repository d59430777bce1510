package selinux

import (
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// fedora is a machine with SELinux, or with its kernel's part turned off.
type fedora struct{ off bool }

func (f fedora) Enabled() bool { return !f.off }

func (fedora) File(o *v1.SELinuxOptions) (string, error) {
	if o.Level == "bad" {
		return "", errors.New("no such level")
	}
	return "system_u:object_r:container_file_t:" + o.Level, nil
}

// container mounts the volumes, and has the level, empty for none of its own.
func container(name, level string, volumes ...string) v1.Container {
	c := v1.Container{Name: name}
	if level != "" {
		c.SecurityContext = &v1.SecurityContext{SELinuxOptions: &v1.SELinuxOptions{Level: level}}
	}
	for _, v := range volumes {
		c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: v})
	}
	return c
}

func TestMount(t *testing.T) {
	const prefix = "system_u:object_r:container_file_t:"
	recursive, option := v1.SELinuxChangePolicyRecursive, v1.SELinuxChangePolicyMountOption
	for _, tc := range []struct {
		name       string
		off        bool
		level      string // of the pod
		policy     *v1.PodSELinuxChangePolicy
		init       []v1.Container
		containers []v1.Container
		want       string
	}{
		{"no SELinux", true, "s0:c1", nil, nil, []v1.Container{container("a", "", "v")}, ""},
		{"no options", false, "", nil, nil, []v1.Container{container("a", "", "v")}, ""},
		{"the pod's", false, "s0:c1,c2", nil, nil, []v1.Container{container("a", "", "v"), container("b", "", "v")}, prefix + "s0:c1,c2"},
		{"the container's", false, "s0:c1", nil, nil, []v1.Container{container("a", "s0:c3", "v")}, prefix + "s0:c3"},
		{"of those that mount it", false, "", nil, nil, []v1.Container{container("a", "s0:c3", "v"), container("b", "s0:c4", "w")}, prefix + "s0:c3"},
		{"one says nothing", false, "", nil, nil, []v1.Container{container("a", "s0:c3", "v"), container("b", "", "v")}, prefix + "s0:c3"},
		{"two", false, "s0:c1", nil, []v1.Container{container("i", "s0:c9", "v")}, []v1.Container{container("a", "", "v")}, "multiple SELinux labels found: " + prefix + "s0:c9," + prefix + "s0:c1"},
		{"two, written to files", false, "s0:c1", &recursive, []v1.Container{container("i", "s0:c9", "v")}, []v1.Container{container("a", "", "v")}, ""},
		{"by mount option", false, "s0:c1", &option, nil, []v1.Container{container("a", "", "v")}, prefix + "s0:c1"},
		{"nobody mounts it", false, "s0:c1", nil, nil, []v1.Container{container("a", "", "w")}, ""},
		{"no label", false, "bad", nil, nil, []v1.Container{container("a", "", "v")}, "no such level"},
	} {
		p := &v1.Pod{Spec: v1.PodSpec{InitContainers: tc.init, Containers: tc.containers, SecurityContext: &v1.PodSecurityContext{SELinuxChangePolicy: tc.policy}}}
		if tc.level != "" {
			p.Spec.SecurityContext.SELinuxOptions = &v1.SELinuxOptions{Level: tc.level}
		}
		got, err := Mount(fedora{tc.off}, p, "v")
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if got := Option(prefix + "s0:c1,c2"); got != `context="system_u:object_r:container_file_t:s0:c1,c2"` {
		t.Errorf("%s", got)
	}
}

func TestFirst(t *testing.T) {
	p := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{container("i", "", "w")}, Containers: []v1.Container{container("a", "", "v"), container("b", "", "v", "w")}}}
	for _, tc := range []struct {
		container, volume string
		want              bool
	}{{"i", "w", true}, {"b", "w", false}, {"a", "v", true}, {"b", "v", false}, {"a", "w", false}, {"a", "x", false}} {
		if got := First(p, tc.container, tc.volume); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}
