package cri

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/skiff-node/skiff/runtimeservice"
)

// containerInfo is what a verbose ContainerStatus adds. The keys in small letters are those of containerd and CRI-O,
// which people's scripts look for.
type containerInfo struct {
	SandboxID   string                   `json:"sandboxID"`
	PID         int                      `json:"pid"`
	RuntimeSpec json.RawMessage          `json:"runtimeSpec,omitempty"`
	Record      runtimeservice.Container `json:"record"`
}

// sandboxInfo is what a verbose PodSandboxStatus adds. A sandbox has no process, so no pid leads to its namespaces:
// their paths do.
type sandboxInfo struct {
	RuntimeHandler string                 `json:"runtimeHandler"`
	RuntimeSpec    sandboxSpec            `json:"runtimeSpec"`
	Record         runtimeservice.Sandbox `json:"record"`
}

type sandboxSpec struct {
	Linux struct {
		Namespaces []namespacePath `json:"namespaces"`
	} `json:"linux"`
}

type namespacePath struct {
	Type string `json:"type"`
	Path string `json:"path"`
}

func verboseContainer(ctx context.Context, in runtimeservice.Inspector, c runtimeservice.Container) (map[string]string, error) {
	spec, err := in.Spec(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	return info(containerInfo{SandboxID: c.SandboxID, PID: c.Pid, RuntimeSpec: spec, Record: c})
}

func verboseSandbox(s runtimeservice.Sandbox) (map[string]string, error) {
	out := sandboxInfo{RuntimeHandler: s.Config.Handler, Record: s}
	out.RuntimeSpec.Linux.Namespaces = []namespacePath{}
	if s.NetNS != "" {
		out.RuntimeSpec.Linux.Namespaces = append(out.RuntimeSpec.Linux.Namespaces, namespacePath{"network", s.NetNS})
	}
	return info(out)
}

// info is the verbose form of an object, as JSON.
func info(object any) (map[string]string, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode verbose information: %w", err)
	}
	return map[string]string{"info": string(text)}, nil
}
