package pod

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/dump"
)

// Hash identifies what makes a running container out of date: its name and image. It is the hash that the upstream kubelet
// writes, so that either kubelet can take over the other's containers.
func Hash(c *v1.Container) uint64 {
	raw, err := json.Marshal(map[string]string{"name": c.Name, "image": c.Image})
	if err != nil {
		panic(err) // a map of strings always marshals
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(raw))
	return uint64(h.Sum32())
}

// Sidecar tells whether an init container keeps running beside the main ones (KEP-753).
func Sidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// Find returns the spec of the named container of any kind, or nil.
func Find(p *v1.Pod, name string) *v1.Container {
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == name {
			return &p.Spec.Containers[i]
		}
	}
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return &p.Spec.InitContainers[i]
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return (*v1.Container)(&p.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		}
	}
	return nil
}

// RestartsAfter tells whether a container that exited with code is started again. The container's own policy and rules
// (KEP-5307) come before the pod's policy.
func RestartsAfter(spec *v1.PodSpec, c *v1.Container, code int32) bool {
	if c.RestartPolicy == nil {
		return restarts(string(spec.RestartPolicy), code)
	}
	for _, rule := range c.RestartPolicyRules {
		if ruleMatches(rule, code) {
			return true // both actions, Restart and RestartAllContainers, mean that it comes again
		}
	}
	return restarts(string(*c.RestartPolicy), code)
}

func ruleMatches(rule v1.ContainerRestartRule, code int32) bool {
	if rule.ExitCodes == nil {
		return false
	}
	in := slices.Contains(rule.ExitCodes.Values, code)
	if rule.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpNotIn {
		return !in
	}
	return in
}

func restarts(policy string, code int32) bool {
	switch policy {
	case string(v1.RestartPolicyNever):
		return false
	case string(v1.RestartPolicyOnFailure):
		return code != 0
	}
	return true
}

// restartsAfterKill tells whether a container that a probe had killed is started again: the code does not matter, since it
// did not end by itself.
func restartsAfterKill(spec *v1.PodSpec, c *v1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != v1.ContainerRestartPolicyNever
	}
	return spec.RestartPolicy != v1.RestartPolicyNever
}

// Newest returns the newest container of that name, or nil.
func (o *Observed) Newest(name string) *Container {
	for i := range o.Containers {
		if o.Containers[i].Name == name {
			return &o.Containers[i]
		}
	}
	return nil
}

// Unborn tells whether a container, though it runs, is not shown as running: its postStart hook has not succeeded (yet).
func (o *Observed) Unborn(c *Container) bool {
	if c.State != Running {
		return false
	}
	return o.Kills[c.ID].Cause == CausePostStart || (o.Hooking[c.Name] && o.Newest(c.Name) == c)
}

// Active returns the newest container of that name in the newest sandbox, or nil. A container of an earlier sandbox, as
// after a reboot, does not count as progress of this one.
func (o *Observed) Active(name string) *Container {
	if len(o.Sandboxes) == 0 {
		return nil
	}
	for i := range o.Containers {
		if o.Containers[i].Name == name && o.Containers[i].SandboxID == o.Sandboxes[0].ID {
			return &o.Containers[i]
		}
	}
	return nil
}

// WantsStart tells whether the container should be started, now or after a back-off.
func WantsStart(p *v1.Pod, c *v1.Container, o *Observed) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	last := o.Newest(c.Name)
	if last == nil {
		return true
	}
	switch last.State {
	case Running:
		return false
	case Exited:
		return o.Kills[last.ID].Restart || RestartsAfter(&p.Spec, c, last.ExitCode)
	}
	return true
}

// MainStarted tells whether a main container was started in the newest sandbox: then initialisation is behind us, even
// when init containers have been removed since.
func MainStarted(p *v1.Pod, o *Observed) bool {
	for i := range p.Spec.Containers {
		if c := o.Active(p.Spec.Containers[i].Name); c != nil && (c.State == Running || c.State == Exited) {
			return true
		}
	}
	return false
}

// MainCreated tells whether any main container was ever created.
func MainCreated(p *v1.Pod, o *Observed) bool {
	for i := range p.Spec.Containers {
		if o.Newest(p.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// SysctlName is the name of a sysctl with dots between its parts, as runtimes want it. Names may also be written with
// slashes, and then have dots within parts: net/ipv4/conf/eth0.1/forwarding.
func SysctlName(name string) string {
	first := strings.IndexAny(name, "./")
	if first < 0 || name[first] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, name)
}

// Describe names a pod as upstream's messages do: name_namespace(uid).
func Describe(p *v1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID)
}
