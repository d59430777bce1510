package objects

import v1 "k8s.io/api/core/v1"

// Kind is the sort of a referenced object, by its resource's singular name.
type Kind string

// The kinds a pod may refer to.
const (
	ConfigMap Kind = "configmap"
	Secret    Kind = "secret"
)

// Ref names one object.
type Ref struct {
	Kind            Kind
	Namespace, Name string
}

func (r Ref) String() string { return string(r.Kind) + " " + r.Namespace + "/" + r.Name }

// References lists the ConfigMaps and Secrets that the pod refers to: by the environment of any of its containers, by
// its volumes and by its image pull secrets. The Node authorizer reads pods by the same rules.
func References(pod *v1.Pod) map[Ref]bool {
	refs := refSet{namespace: pod.Namespace, set: map[Ref]bool{}}
	for _, s := range pod.Spec.ImagePullSecrets {
		refs.add(Secret, s.Name)
	}
	for i := range pod.Spec.InitContainers {
		refs.container(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom)
	}
	for i := range pod.Spec.Containers {
		refs.container(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		refs.container(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
	}
	for i := range pod.Spec.Volumes {
		refs.volume(&pod.Spec.Volumes[i].VolumeSource)
	}
	return refs.set
}

type refSet struct {
	namespace string
	set       map[Ref]bool
}

func (r refSet) add(kind Kind, name string) {
	if name != "" {
		r.set[Ref{kind, r.namespace, name}] = true
	}
}

func (r refSet) container(env []v1.EnvVar, from []v1.EnvFromSource) {
	for i := range from {
		if from[i].ConfigMapRef != nil {
			r.add(ConfigMap, from[i].ConfigMapRef.Name)
		}
		if from[i].SecretRef != nil {
			r.add(Secret, from[i].SecretRef.Name)
		}
	}
	for i := range env {
		src := env[i].ValueFrom
		if src == nil {
			continue
		}
		if src.ConfigMapKeyRef != nil {
			r.add(ConfigMap, src.ConfigMapKeyRef.Name)
		}
		if src.SecretKeyRef != nil {
			r.add(Secret, src.SecretKeyRef.Name)
		}
	}
}

func (r refSet) volume(v *v1.VolumeSource) {
	if v.ConfigMap != nil {
		r.add(ConfigMap, v.ConfigMap.Name)
	}
	if v.Secret != nil {
		r.add(Secret, v.Secret.SecretName)
	}
	if v.CSI != nil && v.CSI.NodePublishSecretRef != nil {
		r.add(Secret, v.CSI.NodePublishSecretRef.Name)
	}
	if v.Projected == nil {
		return
	}
	for i := range v.Projected.Sources {
		if s := v.Projected.Sources[i].ConfigMap; s != nil {
			r.add(ConfigMap, s.Name)
		}
		if s := v.Projected.Sources[i].Secret; s != nil {
			r.add(Secret, s.Name)
		}
	}
}
