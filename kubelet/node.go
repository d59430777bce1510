package kubelet

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

type nodePart struct{ run func(context.Context) error }
type serverPart struct{ run func(context.Context) error }

func (k *Kubelet) newNode() error   { return nil }
func (k *Kubelet) newServer() error { return nil }

func (k *Kubelet) nodeObject() *v1.Node { return nil }
func (k *Kubelet) nodeUID() types.UID   { return "" }

func (k *Kubelet) allocatable() v1.ResourceList {
	return k.facts.capacity(k.cfg.Configuration.MaxPods)
}
