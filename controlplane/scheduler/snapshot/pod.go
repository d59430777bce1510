package snapshot

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1"
)

// What a container that asks for nothing counts for in scores, as upstream has it.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// Pod is a pod with everything the rules need parsed once.
type Pod struct {
	Object   *v1.Pod
	Priority int32
	Requests Resources
	NonZero  Resources
	Ports    []Port

	Affinity, AntiAffinity                   []Term // required
	PreferredAffinity, PreferredAntiAffinity []Term // with Weight

	node string
}

// Node is the name of the node the pod is on, "" if it is on none.
func (p *Pod) Node() string { return p.node }

func (p *Pod) affine() bool {
	return len(p.Affinity)+len(p.AntiAffinity)+len(p.PreferredAffinity)+len(p.PreferredAntiAffinity) > 0
}

// NewPod parses a pod. An error names the selector that cannot be parsed; the API does not let such pods in.
func NewPod(obj *v1.Pod) (*Pod, error) {
	nonMissing := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.BinarySI),
	}
	// A running pod counts with what it was given, also while a resize is under way (KEP-1287).
	opts := resourcehelper.PodResourcesOptions{UseStatusResources: obj.Spec.NodeName != "", InPlacePodLevelResourcesVerticalScalingEnabled: true}
	p := &Pod{Object: obj, Priority: corev1.PodPriority(obj), Ports: hostPorts(obj)}
	p.Requests = ResourcesOf(resourcehelper.PodRequests(obj, opts))
	opts.NonMissingContainerRequests = nonMissing
	p.NonZero = ResourcesOf(resourcehelper.PodRequests(obj, opts))
	if err := p.parseAffinity(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Pod) parseAffinity() (err error) {
	a := p.Object.Spec.Affinity
	if a == nil {
		return nil
	}
	if a.PodAffinity != nil {
		if p.Affinity, err = terms(p.Object, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return fmt.Errorf("required pod affinity: %w", err)
		}
		if p.PreferredAffinity, err = weighted(p.Object, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution); err != nil {
			return fmt.Errorf("preferred pod affinity: %w", err)
		}
	}
	if a.PodAntiAffinity != nil {
		if p.AntiAffinity, err = terms(p.Object, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return fmt.Errorf("required pod anti-affinity: %w", err)
		}
		if p.PreferredAntiAffinity, err = weighted(p.Object, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution); err != nil {
			return fmt.Errorf("preferred pod anti-affinity: %w", err)
		}
	}
	return nil
}

// Term is one parsed rule about other pods.
type Term struct {
	TopologyKey string
	Weight      int32

	selector          labels.Selector
	namespaces        sets.Set[string]
	namespaceSelector labels.Selector
}

// Matches says whether the rule speaks of the pod, whose namespace has the given labels.
func (t *Term) Matches(pod *v1.Pod, namespace labels.Set) bool {
	if !t.namespaces.Has(pod.Namespace) && !t.namespaceSelector.Matches(namespace) {
		return false
	}
	return t.selector.Matches(labels.Set(pod.Labels))
}

func terms(pod *v1.Pod, in []v1.PodAffinityTerm) ([]Term, error) {
	out := make([]Term, 0, len(in))
	for i := range in {
		t, err := newTerm(pod, &in[i])
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func weighted(pod *v1.Pod, in []v1.WeightedPodAffinityTerm) ([]Term, error) {
	out := make([]Term, 0, len(in))
	for i := range in {
		t, err := newTerm(pod, &in[i].PodAffinityTerm)
		if err != nil {
			return nil, err
		}
		t.Weight = in[i].Weight
		out = append(out, t)
	}
	return out, nil
}

func newTerm(pod *v1.Pod, in *v1.PodAffinityTerm) (Term, error) {
	selector, err := metav1.LabelSelectorAsSelector(in.LabelSelector)
	if err != nil {
		return Term{}, fmt.Errorf("label selector: %w", err)
	}
	namespaceSelector, err := metav1.LabelSelectorAsSelector(in.NamespaceSelector)
	if err != nil {
		return Term{}, fmt.Errorf("namespace selector: %w", err)
	}
	namespaces := sets.New(in.Namespaces...)
	if len(in.Namespaces) == 0 && in.NamespaceSelector == nil {
		namespaces.Insert(pod.Namespace)
	}
	return Term{TopologyKey: in.TopologyKey, selector: selector, namespaces: namespaces, namespaceSelector: namespaceSelector}, nil
}

// hostPorts lists the host ports of containers that run as long as the pod does.
func hostPorts(pod *v1.Pod) []Port {
	var out []Port
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			port := Port{IP: p.HostIP, Protocol: p.Protocol, Number: p.HostPort}
			if port.IP == "0.0.0.0" {
				port.IP = ""
			}
			if port.Protocol == "" {
				port.Protocol = v1.ProtocolTCP
			}
			out = append(out, port)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// Resources are amounts in plain integers: CPU in thousandths, memory and storage in bytes, all others in units.
type Resources struct {
	MilliCPU, Memory, Storage int64
	Others                    map[v1.ResourceName]int64 // nil when there are none
}

// ResourcesOf converts a list. The number of pods is not a resource here.
func ResourcesOf(list v1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case v1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case v1.ResourceMemory:
			r.Memory = q.Value()
		case v1.ResourceEphemeralStorage:
			r.Storage = q.Value()
		case v1.ResourcePods:
		default:
			if r.Others == nil {
				r.Others = map[v1.ResourceName]int64{}
			}
			r.Others[name] = q.Value()
		}
	}
	return r
}

// Zero says whether nothing is asked for.
func (r Resources) Zero() bool {
	return r.MilliCPU == 0 && r.Memory == 0 && r.Storage == 0 && len(r.Others) == 0
}

func (r *Resources) add(o Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.Storage += sign * o.Storage
	if len(o.Others) > 0 && r.Others == nil {
		r.Others = make(map[v1.ResourceName]int64, len(o.Others))
	}
	for name, n := range o.Others {
		r.Others[name] += sign * n
	}
}
