package snapshot

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Node is one node and the sums over its pods.
type Node struct {
	Object      *v1.Node
	Allocatable Resources
	MaxPods     int64
	Requested   Resources
	// NonZero sums requests for scoring, where a container that asks for no CPU or memory counts as a small one.
	NonZero Resources

	name       string
	pods       []*Pod
	affine     []*Pod // those with any rule about other pods
	antiAffine []*Pod // those that refuse other pods
	ports      []Port
	images     map[string]int64 // size in bytes by each name of the image
}

// Name of the node.
func (n *Node) Name() string { return n.name }

// Pods lists the pods on the node; WithAffinity those that have rules about other pods, WithAntiAffinity those
// that refuse others. The slices belong to the node.
func (n *Node) Pods() []*Pod { return n.pods }

// WithAffinity lists the pods with any rule, required or preferred, about other pods.
func (n *Node) WithAffinity() []*Pod { return n.affine }

// WithAntiAffinity lists the pods with required anti-affinity.
func (n *Node) WithAntiAffinity() []*Pod { return n.antiAffine }

// ImageSize returns the size in bytes of an image on this node, 0 if it is not there.
func (n *Node) ImageSize(name string) int64 { return n.images[name] }

// Conflicts says whether a host port that the pod wants is taken.
func (n *Node) Conflicts(p *Pod) bool {
	for _, want := range p.Ports {
		if slices.ContainsFunc(n.ports, want.conflicts) {
			return true
		}
	}
	return false
}

func (n *Node) set(obj *v1.Node) {
	n.Object = obj
	n.Allocatable = ResourcesOf(obj.Status.Allocatable)
	n.MaxPods = obj.Status.Allocatable.Pods().Value()
	n.images = make(map[string]int64, len(obj.Status.Images))
	for _, image := range obj.Status.Images {
		for _, name := range image.Names {
			n.images[name] = image.SizeBytes
		}
	}
}

func (n *Node) add(p *Pod) {
	n.Requested.add(p.Requests, 1)
	n.NonZero.add(p.NonZero, 1)
	n.pods = append(n.pods, p)
	n.ports = append(n.ports, p.Ports...)
	if p.affine() {
		n.affine = append(n.affine, p)
	}
	if len(p.AntiAffinity) > 0 {
		n.antiAffine = append(n.antiAffine, p)
	}
}

func (n *Node) remove(p *Pod) {
	n.Requested.add(p.Requests, -1)
	n.NonZero.add(p.NonZero, -1)
	n.pods = without(n.pods, p)
	n.affine = without(n.affine, p)
	n.antiAffine = without(n.antiAffine, p)
	for _, port := range p.Ports {
		if i := slices.Index(n.ports, port); i >= 0 {
			n.ports = slices.Delete(n.ports, i, i+1)
		}
	}
}

func without(list []*Pod, p *Pod) []*Pod {
	for i := range list {
		if list[i] == p {
			last := len(list) - 1
			list[i], list[last] = list[last], nil
			return list[:last]
		}
	}
	return list
}

// Port is a host port in use or wanted. An empty IP is every address of the node.
type Port struct {
	IP       string
	Protocol v1.Protocol
	Number   int32
}

func (p Port) conflicts(q Port) bool {
	return p.Number == q.Number && p.Protocol == q.Protocol && (p.IP == "" || q.IP == "" || p.IP == q.IP)
}
