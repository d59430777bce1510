//go:build root

package main

import (
	"fmt"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkPod takes a pod with one container up and down, and says how long each call takes. The kubelet's default is
// no seccomp profile; the runtime's own makes libseccomp compile some hundred rules in each start and exec.
func BenchmarkPod(b *testing.B) {
	b.Run("seccomp=none", func(b *testing.B) { benchPod(b, nil) })
	b.Run("seccomp=default", func(b *testing.B) {
		benchPod(b, &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault})
	})
}

func benchPod(b *testing.B, seccomp *cri.SecurityProfile) {
	h := newHost(b)
	container := containerConfig("app", "sleep 1000")
	container.Linux.SecurityContext.Seccomp = seccomp
	names := []string{"RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync", "StopContainer", "StopPodSandbox", "RemovePodSandbox"}
	took := map[string]time.Duration{}
	n := 0
	for b.Loop() {
		n++
		config := h.sandboxConfig(fmt.Sprintf("bench-%d", n))
		var box, id string
		calls := []func() error{
			func() error {
				r, err := h.runtime.RunPodSandbox(b.Context(), &cri.RunPodSandboxRequest{Config: config})
				box = r.GetPodSandboxId()
				return err
			},
			func() error {
				r, err := h.runtime.CreateContainer(b.Context(), &cri.CreateContainerRequest{PodSandboxId: box, Config: container, SandboxConfig: config})
				id = r.GetContainerId()
				return err
			},
			func() error {
				_, err := h.runtime.StartContainer(b.Context(), &cri.StartContainerRequest{ContainerId: id})
				return err
			},
			func() error {
				_, err := h.runtime.ExecSync(b.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
				return err
			},
			func() error {
				_, err := h.runtime.StopContainer(b.Context(), &cri.StopContainerRequest{ContainerId: id})
				return err
			},
			func() error {
				_, err := h.runtime.StopPodSandbox(b.Context(), &cri.StopPodSandboxRequest{PodSandboxId: box})
				return err
			},
			func() error {
				_, err := h.runtime.RemovePodSandbox(b.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: box})
				return err
			},
		}
		for i, call := range calls {
			began := time.Now()
			if err := call(); err != nil {
				b.Fatalf("%s: %v", names[i], err)
			}
			took[names[i]] += time.Since(began)
		}
	}
	for _, name := range names {
		b.ReportMetric(float64(took[name].Microseconds())/1000/float64(n), name+"-ms")
	}
}
