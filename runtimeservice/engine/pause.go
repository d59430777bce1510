package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/pause"
)

// startPause runs the process that holds the PID namespace of a pod that shares one, or the sandbox container of a
// handler that needs one. The keeper knows it by the sandbox's id.
func (s *sandboxParts) startPause(ctx context.Context, rec sandboxRecord) error {
	root, err := pause.Root(filepath.Join(s.cfg.RunDir, "pause"))
	if err != nil {
		return err
	}
	run, err := s.handlerOf(rec.Sandbox.Config.Handler)
	if err != nil {
		return err
	}
	id, config := rec.Sandbox.ID, s.pauseSpec(rec, root)
	req := keeper.Create{ID: id, SystemdCgroup: s.cfg.CgroupDriver == cgroup.Systemd}
	if run.NeedsSandbox() {
		if config, err = run.AdjustSandbox(config, rec.Sandbox); err != nil {
			return err
		}
		req.Runtime = run.Runtime()
	}
	if req.Spec, err = json.Marshal(config); err != nil {
		return fmt.Errorf("encode the specification: %w", err)
	}
	_, err = s.link.Process(ctx, req)
	return err
}

func (s *sandboxParts) pauseSpec(rec sandboxRecord, root string) *specs.Spec {
	pinned := s.pinned(rec)
	adj := s.host.ClampOOMScore(-998)
	_, oci := s.cfg.CgroupDriver.Container(rec.Cgroup, rec.Sandbox.ID)
	out := pause.Spec(root, oci)
	out.Process.OOMScoreAdj = &adj
	user := ""
	if pinned.Owned {
		user = s.nsPath(rec.Sandbox.ID, "user")
	}
	for kind, path := range map[specs.LinuxNamespaceType]string{
		specs.UserNamespace:    user,
		specs.NetworkNamespace: rec.Sandbox.NetNS, specs.IPCNamespace: pinned.IPC, specs.UTSNamespace: pinned.UTS,
	} {
		if path != "" {
			out.Linux.Namespaces = append(out.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	return out
}

// pausePid asks the keeper, which always knows.
func (s *sandboxParts) pausePid(rec sandboxRecord) (int, error) {
	var listing keeper.Listing
	err := s.link.Do(context.Background(), func(kept link.Keeper) (err error) {
		listing, err = kept.List(context.Background())
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, row := range listing.Containers {
		if row.ID == rec.Sandbox.ID && row.State == keeper.Running {
			return row.Pid, nil
		}
	}
	return 0, fmt.Errorf("the pause process of sandbox %s does not run: %w", rec.Sandbox.ID, runtimeservice.ErrState)
}
