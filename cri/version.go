package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/runtimeservice"
)

// versionHandlers serves what concerns the node as a whole.
type versionHandlers struct {
	version string
	node    runtimeservice.Node
	calls   *calls.Table
}

func (h versionHandlers) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: "skiff", RuntimeVersion: h.version, RuntimeApiVersion: "v1",
	}, nil
}

func (h versionHandlers) Status(ctx context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	st := h.node.Status(ctx)
	out := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			condition(runtimeapi.RuntimeReady, "RuntimeNotReady", st.Runtime),
			condition(runtimeapi.NetworkReady, "NetworkNotReady", st.Network),
		}},
		Features: &runtimeapi.RuntimeFeatures{
			SupplementalGroupsPolicy: true, MountOptions: true, UserNamespacesHostNetwork: st.Features.UserNamespacesHostNetwork,
		},
	}
	for _, handler := range st.Handlers {
		out.RuntimeHandlers = append(out.RuntimeHandlers, &runtimeapi.RuntimeHandler{
			Name: handler.Name,
			Features: &runtimeapi.RuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: handler.RecursiveReadOnlyMounts, UserNamespaces: handler.UserNamespaces,
			},
		})
	}
	if r.GetVerbose() {
		out.Info = map[string]string{}
		for name, value := range map[string]any{
			"info": st.Info, "calls": map[string]any{"inFlight": h.calls.InFlight()},
			"config": map[string]any{"stateDir": st.Info["runDir"]}, // where clients of containerd look for root file systems
		} {
			text, err := json.Marshal(value)
			if err != nil {
				return nil, fmt.Errorf("encode the runtime's information: %w", err)
			}
			out.Info[name] = string(text)
		}
	}
	return out, nil
}

func condition(name, reason string, err error) *runtimeapi.RuntimeCondition {
	if err != nil {
		return &runtimeapi.RuntimeCondition{Type: name, Reason: reason, Message: err.Error()}
	}
	return &runtimeapi.RuntimeCondition{Type: name, Status: true}
}

// RuntimeConfig tells the kubelet which cgroup driver it must have too.
func (h versionHandlers) RuntimeConfig(ctx context.Context, _ *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if h.node.Status(ctx).SystemdCgroups {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig tells the network the node's pod ranges, one per address family, separated by commas.
func (h versionHandlers) UpdateRuntimeConfig(ctx context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	var cidrs []netip.Prefix
	for text := range strings.SplitSeq(r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr(), ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%w: network_config.pod_cidr: %w", runtimeservice.ErrInvalid, err)
		}
		cidrs = append(cidrs, cidr)
	}
	if len(cidrs) == 0 {
		return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, h.node.SetPodCIDRs(ctx, cidrs)
}
