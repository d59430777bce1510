// Package filter decides on which nodes a pod can run.
//
// The rules are those of the default profile of Kubernetes' scheduler, in its order and with its words, as tools and
// people read the messages. Each rule first looks at the pod and the cluster once (prepare) and says whether it
// has anything to say at all; what it returns then judges one node at a time. All is pure: the same pod and
// cluster give the same verdicts.
package filter

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// Events are kinds of change in the cluster that may turn a refusal.
type Events uint16

// The kinds of change.
const (
	NodeAdded     Events = 1 << iota
	NodeChanged          // labels, taints, allocatable, unschedulable
	PodGone              // a pod left a node
	PodPlaced            // a pod came onto a node or changed its labels there
	VolumeChanged        // a claim, volume or storage class
	NamespaceChanged
	DevicesChanged        // a resource claim, device class, resource slice or taint rule
	Always         Events = 1<<iota - 1
)

// Verdict says why a node was refused. The zero Verdict is acceptance.
type Verdict struct {
	Reasons []string
	// Unresolvable means that removing pods from the node cannot help.
	Unresolvable bool
	// Helped are the changes that may turn the verdict.
	Helped Events
}

// Fits says whether the node was accepted.
func (v Verdict) Fits() bool { return len(v.Reasons) == 0 }

// Refusal is a verdict over all nodes at once, from the pod alone.
type Refusal struct {
	Reason string
	Helped Events
}

func (r *Refusal) Error() string { return r.Reason }

// World is what the rules may look at.
type World struct {
	Cluster *snapshot.Cluster
	Volumes Volumes // nil: pods with claims are refused
	Devices Devices // nil: there are none
}

// Devices judges by the devices that the resource claims of a pod need.
type Devices interface {
	// Prepare returns what tells why a node will not do, nil for a pod that needs no devices. An error refuses all nodes.
	Prepare(p *v1.Pod) (node func(*v1.Node) string, err error)
	// Backs tells whether the node can have the extended resource by claims, though it does not count it.
	Backs(name v1.ResourceName, n *v1.Node) bool
}

// Volumes finds storage objects in a cache. A nil result means that there is none.
type Volumes interface {
	Claim(namespace, name string) *v1.PersistentVolumeClaim
	Volume(name string) *v1.PersistentVolume
	Class(name string) *storagev1.StorageClass
	// ClaimUsers counts the pods on nodes that use the claim.
	ClaimUsers(namespace, name string) int
}

// judge judges one node; a nil judge accepts all.
type judge func(*snapshot.Node) Verdict

// rules lists the rules in the order in which they are asked; the first refusal ends the asking, as cheap rules
// come first and upstream reports only the first.
func rules() []func(*snapshot.Pod, World) (judge, *Refusal) {
	return []func(*snapshot.Pod, World) (judge, *Refusal){
		unschedulable, taints, nodeAffinity, ports, resources, volumes, spread, podAffinity, devices,
	}
}

// Check is a pod's set of judges.
type Check struct{ judges []judge }

// Prepare readies the rules for a pod. A Refusal means that no node can do.
func Prepare(p *snapshot.Pod, w World) (*Check, *Refusal) {
	c := &Check{}
	for _, prepare := range rules() {
		j, refusal := prepare(p, w)
		if refusal != nil {
			return nil, refusal
		}
		if j != nil {
			c.judges = append(c.judges, j)
		}
	}
	return c, nil
}

// Node judges one node.
func (c *Check) Node(n *snapshot.Node) Verdict {
	for _, j := range c.judges {
		if v := j(n); !v.Fits() {
			return v
		}
	}
	return Verdict{}
}

func refuse(helped Events, reasons ...string) Verdict {
	return Verdict{Reasons: reasons, Helped: helped}
}

func refuseForGood(helped Events, reason string) Verdict {
	return Verdict{Reasons: []string{reason}, Unresolvable: true, Helped: helped}
}

func refusef(helped Events, format string, args ...any) *Refusal {
	return &Refusal{Reason: fmt.Sprintf(format, args...), Helped: helped}
}
