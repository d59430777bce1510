package kubelet

import (
	"context"
	"maps"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/assign"
	"github.com/skiff-node/skiff/kubelet/dra"
	"github.com/skiff-node/skiff/kubelet/plugin"
	"github.com/skiff-node/skiff/kubelet/podresources"
	"github.com/skiff-node/skiff/kubelet/podsapi"
	"github.com/skiff-node/skiff/kubelet/reserve"
	"github.com/skiff-node/skiff/kubelet/worker"
)

// newAssigner makes what gives parts of the machine to pods, and the API that tells which pod has what.
func newAssigner(k *Kubelet) error {
	kept, err := reserve.Read(k.cfg.Configuration)
	if err != nil {
		return err
	}
	calls, _ := k.runtime.CRI()
	a, err := assign.New(assign.Config{Configuration: k.cfg.Configuration, RootDir: k.cfg.RootDir, Reserved: kept.Fixed,
		Kept:            kept.Of(v1.ResourceList{v1.ResourceMemory: *resource.NewQuantity(k.facts.memory, resource.BinarySI)}),
		DevicePluginDir: k.cfg.DevicePluginDir, Dial: plugin.Dial, Counts: k.metrics.Devices, Runtime: calls, Log: k.log,
		Changed: func() {
			if k.node != nil {
				k.node.Wake()
			}
		},
		Sick: func(uids []types.UID) {
			for _, uid := range uids {
				k.pool.Wake(uid)
			}
		}})
	if err != nil {
		return err
	}
	k.facts.assigned, k.spec.Sets = a, a.Sets
	maps.Copy(k.loops, a.Loops())
	s := podresources.New(podresources.Config{Socket: filepath.Join(k.cfg.RootDir, "pod-resources", "kubelet.sock"),
		Pods: k.Pods, Sources: []podresources.Source{a, k.facts.claims}})
	k.loops["pod resources"] = aside(k, "pod-resources", s.Run)
	return nil
}

// newPodsAPI makes the API that tells agents of the node how its pods are. It sees each status on its way to the API server.
func newPodsAPI(k *Kubelet) worker.Statuses {
	s := podsapi.New(podsapi.Config{Socket: filepath.Join(k.cfg.RootDir, "pods-api", "pods-api.sock"), Pods: k.Pods, Known: k.sourced, Statuses: k.statuses})
	k.loops["pods API"] = aside(k, "pods", s.Run)
	return s
}

// aside is a loop that must not stop the kubelet when it fails.
func aside(k *Kubelet, api string, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); err != nil {
			k.log.Warn("an API of the node is not served", "api", api, "err", err)
			<-ctx.Done()
		}
		return nil
	}
}

// newClaims makes what gives pods the devices of their resource claims.
func newClaims(k *Kubelet) (err error) {
	k.facts.claims, err = dra.NewNode(dra.NodeConfig{Dir: k.cfg.RootDir, Client: k.client, Name: k.cfg.NodeName, Dial: plugin.Dial, Counts: k.metrics, Log: k.log,
		Registered: func() bool { return k.node == nil || k.nodeObject() != nil }, Pods: func() dra.Pods { return k.pool }})
	k.loops["resource claims"] = func(ctx context.Context) error { return k.facts.claims.Run(ctx) }
	return err
}
