// Package snapshot holds what the scheduler knows of the cluster: nodes, the pods on them, and sums over both that
// are kept up to date with each change, so that a decision costs no walk over all pods.
//
// A [Cluster] has one writer and no lock of its own. Pods count as being on a node from the moment the scheduler
// has chosen it ("assumed"), before the API knows; an assumption is undone by removing the pod.
package snapshot

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Cluster is the nodes by name, in the order of their arrival, and the pods on them.
type Cluster struct {
	nodes      []*Node // those with a Node object
	byName     map[string]*Node
	pods       map[types.UID]*Pod
	namespaces map[string]labels.Set
	images     map[string]int // on how many nodes an image is
	affine     int            // pods on nodes that carry any pod affinity or anti-affinity
}

// NewCluster returns an empty cluster.
func NewCluster() *Cluster {
	return &Cluster{
		byName:     map[string]*Node{},
		pods:       map[types.UID]*Pod{},
		namespaces: map[string]labels.Set{},
		images:     map[string]int{},
	}
}

// Nodes lists the nodes. The slice belongs to the cluster.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Node returns the node of that name, or nil if there is no such Node object.
func (c *Cluster) Node(name string) *Node {
	if n := c.byName[name]; n != nil && n.Object != nil {
		return n
	}
	return nil
}

// Pod returns a pod that is on a node, or nil.
func (c *Cluster) Pod(uid types.UID) *Pod { return c.pods[uid] }

// AnyAffinity says whether any pod on any node has rules about other pods.
func (c *Cluster) AnyAffinity() bool { return c.affine > 0 }

// NodesWithImage counts the nodes that hold the image.
func (c *Cluster) NodesWithImage(name string) int { return c.images[name] }

// NamespaceLabels returns the labels of a namespace, nil if it is unknown.
func (c *Cluster) NamespaceLabels(name string) labels.Set { return c.namespaces[name] }

// SetNamespace records the labels of a namespace.
func (c *Cluster) SetNamespace(ns *v1.Namespace) { c.namespaces[ns.Name] = ns.Labels }

// RemoveNamespace forgets a namespace.
func (c *Cluster) RemoveNamespace(name string) { delete(c.namespaces, name) }

// SetNode adds or updates a node.
func (c *Cluster) SetNode(obj *v1.Node) {
	n := c.node(obj.Name)
	if n.Object == nil {
		c.nodes = append(c.nodes, n)
	}
	c.countImages(n, -1)
	n.set(obj)
	c.countImages(n, 1)
}

// RemoveNode removes a node. Pods that are still said to be on it are kept aside for when it returns.
func (c *Cluster) RemoveNode(name string) {
	n := c.byName[name]
	if n == nil || n.Object == nil {
		return
	}
	c.countImages(n, -1)
	n.Object = nil
	n.images = nil
	for i := range c.nodes {
		if c.nodes[i] == n {
			c.nodes = append(c.nodes[:i:i], c.nodes[i+1:]...)
			break
		}
	}
	c.drop(n)
}

func (c *Cluster) countImages(n *Node, by int) {
	for name := range n.images {
		if c.images[name] += by; c.images[name] <= 0 {
			delete(c.images, name)
		}
	}
}

// Put records that the pod is on the node, which may be one that is not known yet. A pod that was there before,
// or elsewhere, is replaced.
func (c *Cluster) Put(p *Pod, node string) {
	c.Remove(p.Object.UID)
	p.node = node
	c.pods[p.Object.UID] = p
	c.node(node).add(p)
	if p.affine() {
		c.affine++
	}
}

// Remove forgets a pod. Removing an unknown one does nothing.
func (c *Cluster) Remove(uid types.UID) {
	p := c.pods[uid]
	if p == nil {
		return
	}
	delete(c.pods, uid)
	n := c.byName[p.node]
	n.remove(p)
	if p.affine() {
		c.affine--
	}
	c.drop(n)
}

// node returns the entry of that name and makes an empty one if needed.
func (c *Cluster) node(name string) *Node {
	n := c.byName[name]
	if n == nil {
		n = &Node{name: name}
		c.byName[name] = n
	}
	return n
}

// drop forgets an entry that holds neither a Node object nor pods.
func (c *Cluster) drop(n *Node) {
	if n.Object == nil && len(n.pods) == 0 {
		delete(c.byName, n.name)
	}
}
