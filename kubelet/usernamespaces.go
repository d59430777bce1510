package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/userns"
)

// userNamespaces gives pods ids of their own, where the runtime can do it.
func userNamespaces(k *Kubelet) (func(*v1.Pod) (*cri.UserNamespace, error), error) {
	c := k.cfg.Configuration
	cfg := userns.Config{PodsDir: filepath.Join(k.cfg.RootDir, "pods"), MaxPods: int64(c.MaxPods)}
	if u := c.UserNamespaces; u != nil && u.IDsPerPod != nil {
		cfg.PodIDs = *u.IDsPerPod
	}
	ids, err := userns.New(cfg)
	if err != nil {
		return nil, err
	}
	return func(p *v1.Pod) (*cri.UserNamespace, error) {
		calls, _ := k.runtime.CRI()
		if err := mayHaveUserNamespace(p, calls); err != nil {
			return nil, err
		}
		m, err := ids.Of(p.UID)
		if err != nil {
			return nil, err
		}
		mapping := []*cri.IDMapping{{HostId: m.First, Length: m.Length}}
		return &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping, Gids: mapping}, nil
	}, nil
}

// mayHaveUserNamespace asks whether the runtime makes user namespaces. Only pods that want one ask. A RuntimeClass is not
// looked up here: its handler, or another one, must be able to.
func mayHaveUserNamespace(p *v1.Pod, runtime cri.RuntimeServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	status, err := runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return fmt.Errorf("ask the runtime whether it supports user namespaces: %w", err)
	}
	for _, h := range status.RuntimeHandlers {
		wanted := h.Name == "" || p.Spec.RuntimeClassName != nil
		if wanted && h.GetFeatures().GetUserNamespaces() {
			return nil
		}
	}
	return errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
}
