package source

import v1 "k8s.io/api/core/v1"

func orElse[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func orString[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

// setDefaults fills in what the API server would have filled in: static pods do not pass it before they run.
func setDefaults(spec *v1.PodSpec) {
	orString(&spec.RestartPolicy, v1.RestartPolicyAlways)
	orString(&spec.DNSPolicy, v1.DNSClusterFirst)
	orString(&spec.SchedulerName, v1.DefaultSchedulerName)
	orElse(&spec.TerminationGracePeriodSeconds, v1.DefaultTerminationGracePeriodSeconds)
	orElse(&spec.EnableServiceLinks, v1.DefaultEnableServiceLinks)
	orElse(&spec.SecurityContext, v1.PodSecurityContext{})
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i], spec.HostNetwork)
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i], spec.HostNetwork)
	}
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i])
	}
}

func defaultContainer(c *v1.Container, hostNetwork bool) {
	orString(&c.TerminationMessagePath, v1.TerminationMessagePathDefault)
	orString(&c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
	orString(&c.ImagePullPolicy, pullPolicy(c.Image))
	for i := range c.Ports {
		orString(&c.Ports[i].Protocol, v1.ProtocolTCP)
		if hostNetwork && c.Ports[i].HostPort == 0 {
			c.Ports[i].HostPort = c.Ports[i].ContainerPort
		}
	}
	for name, limit := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; ok {
			continue
		}
		if c.Resources.Requests == nil {
			c.Resources.Requests = v1.ResourceList{}
		}
		c.Resources.Requests[name] = limit.DeepCopy()
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			orString(&from.FieldRef.APIVersion, "v1")
		}
	}
	for _, p := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
	if c.Lifecycle == nil {
		return
	}
	for _, h := range []*v1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
		if h != nil {
			defaultHTTP(h.HTTPGet)
		}
	}
}

// pullPolicy is Always for the tag latest, said or not, since what it means changes.
func pullPolicy(image string) v1.PullPolicy {
	for i := len(image) - 1; i >= 0; i-- {
		switch image[i] {
		case '@':
			return v1.PullIfNotPresent
		case ':':
			if image[i+1:] == "latest" {
				return v1.PullAlways
			}
			return v1.PullIfNotPresent
		case '/':
			return v1.PullAlways
		}
	}
	return v1.PullAlways
}

func defaultProbe(p *v1.Probe) {
	if p == nil {
		return
	}
	for field, value := range map[*int32]int32{&p.TimeoutSeconds: 1, &p.PeriodSeconds: 10, &p.SuccessThreshold: 1, &p.FailureThreshold: 3} {
		if *field == 0 {
			*field = value
		}
	}
	defaultHTTP(p.HTTPGet)
	if p.GRPC != nil {
		orElse(&p.GRPC.Service, "")
	}
}

func defaultHTTP(a *v1.HTTPGetAction) {
	if a != nil {
		orString(&a.Path, "/")
		orString(&a.Scheme, v1.URISchemeHTTP)
	}
}

func defaultVolume(v *v1.Volume) {
	switch {
	case v.HostPath != nil:
		orElse(&v.HostPath.Type, v1.HostPathUnset)
	case v.DownwardAPI != nil:
		orElse(&v.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode)
	case v.Projected != nil:
		orElse(&v.Projected.DefaultMode, v1.ProjectedVolumeSourceDefaultMode)
	case v.VolumeSource == (v1.VolumeSource{}):
		v.EmptyDir = &v1.EmptyDirVolumeSource{}
	}
}
