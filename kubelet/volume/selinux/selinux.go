// Package selinux decides with which SELinux label the files of a pod's volumes are seen (KEP-1710). There are two ways: the
// volume is mounted with the label of its containers (-o context=…), which costs nothing, or the container runtime writes the
// label to each file. The first is for volumes of CSI drivers that say that they can (spec.seLinuxMount), unless the pod wants
// the second (securityContext.seLinuxChangePolicy: Recursive). Where the kernel has no SELinux, nothing of this happens.
package selinux

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	v1 "k8s.io/api/core/v1"
)

// Labels is what the machine knows of labels.
type Labels interface {
	// Enabled tells whether the kernel labels files.
	Enabled() bool
	// File is the label of files for a container with these options; what they leave out is the machine's default.
	File(opts *v1.SELinuxOptions) (string, error)
}

// Host is the Labels of this machine.
type Host struct{}

// Enabled implements Labels.
func (Host) Enabled() bool { return selinux.GetEnabled() }

// File implements Labels.
func (Host) File(opts *v1.SELinuxOptions) (string, error) {
	var args []string
	for _, o := range [][2]string{{"user", opts.User}, {"role", opts.Role}, {"type", opts.Type}, {"level", opts.Level}} {
		if o[1] != "" {
			args = append(args, o[0]+":"+o[1])
		}
	}
	if len(args) == 0 {
		return "", nil
	}
	process, file, err := label.InitLabels(args)
	if err != nil {
		return "", fmt.Errorf("failed to construct SELinux label from context %q: %w", opts, err)
	}
	selinux.ReleaseLabel(process) // it may have been reserved here, where no container is started
	return file, nil
}

// Mount is the label to mount the volume of the pod with, empty for none. The caller has seen that it can be mounted with one.
func Mount(labels Labels, pod *v1.Pod, volume string) (string, error) {
	if !labels.Enabled() || recursive(pod) {
		return "", nil
	}
	var found []string
	for _, u := range users(pod, volume) {
		if u.options == nil {
			continue
		}
		l, err := labels.File(u.options)
		if err != nil {
			return "", err
		}
		if !slices.Contains(found, l) {
			found = append(found, l)
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("multiple SELinux labels found: %s", strings.Join(found, ","))
}

func recursive(pod *v1.Pod) bool {
	sc := pod.Spec.SecurityContext
	return sc != nil && sc.SELinuxChangePolicy != nil && *sc.SELinuxChangePolicy == v1.SELinuxChangePolicyRecursive
}

// Option is the mount option for a label. It is quoted because labels contain commas.
func Option(label string) string { return fmt.Sprintf("context=%q", label) }

// First tells whether the container is the first of the pod to mount the volume: it alone has the files labelled, so that no
// container with another label takes them from one that runs.
func First(pod *v1.Pod, container, volume string) bool {
	all := users(pod, volume)
	return len(all) > 0 && all[0].name == container
}

// user is a container that mounts a volume.
type user struct {
	name    string
	options *v1.SELinuxOptions
}

// users are the containers that mount the volume, in the order in which they start.
func users(pod *v1.Pod, volume string) []user {
	var all []user
	add := func(name string, mounts []v1.VolumeMount, sc *v1.SecurityContext) {
		if !slices.ContainsFunc(mounts, func(m v1.VolumeMount) bool { return m.Name == volume }) {
			return
		}
		u := user{name: name}
		if sc := pod.Spec.SecurityContext; sc != nil {
			u.options = sc.SELinuxOptions
		}
		if sc != nil && sc.SELinuxOptions != nil {
			u.options = sc.SELinuxOptions
		}
		all = append(all, u)
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			add(list[i].Name, list[i].VolumeMounts, list[i].SecurityContext)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		add(c.Name, c.VolumeMounts, c.SecurityContext)
	}
	return all
}
