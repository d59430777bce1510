package engine

import (
	"context"
	"maps"
	"path/filepath"

	"github.com/skiff-node/skiff/network"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/namespace"
	"github.com/skiff-node/skiff/runtimeservice/podfiles"
	"github.com/skiff-node/skiff/runtimeservice/rootfs"
	"github.com/skiff-node/skiff/runtimeservice/steps"
)

// sandboxParts makes and undoes what a sandbox is made of.
type sandboxParts struct{ *core }

// steps is what a sandbox is made of, in order. The first is the directory, which outlives Stop. The undos need
// nothing but the record.
func (s *sandboxParts) steps(o *sandbox) []steps.Step {
	rec := o.Record()
	id, config := rec.Sandbox.ID, rec.Sandbox.Config
	ns, dir := config.Security.Namespaces, s.sandboxDir(rec.Sandbox.ID)
	list := []steps.Step{{
		Name: "write the sandbox's files",
		Do:   func(context.Context) error { return podfiles.Write(dir, config) },
		Undo: func(context.Context) error { return rootfs.RemoveFlat(dir) },
	}}
	podNetwork := ns.Network != runtimeservice.NamespaceNode
	if podNetwork {
		list = append(list, steps.Step{
			Name: "make the network namespace",
			Do:   func(ctx context.Context) error { return s.newNamespace(ctx, o) },
			Undo: func(ctx context.Context) error { return s.removeNamespace(ctx, o) },
		})
	}
	list = append(list, steps.Step{
		Name: "pin the IPC and UTS namespaces",
		Do:   func(context.Context) error { return namespace.Pin(s.pinned(o.Record())) },
		Undo: func(context.Context) error { return namespace.Unpin(s.nsPath(id, "ipc"), s.nsPath(id, "uts")) },
	})
	if ns.IPC != runtimeservice.NamespaceNode {
		shm := filepath.Join(dir, "shm")
		list = append(list, steps.Step{
			Name: "mount the shared memory",
			Do:   func(context.Context) error { return podfiles.MountShm(shm) },
			Undo: func(context.Context) error { return rootfs.Unmount(shm) },
		})
	}
	if podNetwork {
		list = append(list, steps.Step{
			Name: "attach the network",
			Do:   func(ctx context.Context) error { return s.attach(ctx, o) },
			Undo: func(ctx context.Context) error { return s.cfg.Network.Detach(ctx, networkSandbox(o.Record().Sandbox)) },
		})
	}
	if rec.Pause {
		list = append(list, steps.Step{
			Name: "start the pause process",
			Do:   func(ctx context.Context) error { return s.startPause(ctx, o.Record()) },
			Undo: func(ctx context.Context) error { return s.endProcess(ctx, id) },
		})
	}
	return list
}

func (s *sandboxParts) newNamespace(ctx context.Context, o *sandbox) error {
	path, err := s.cfg.Network.NewNamespace(ctx, o.Record().Sandbox.ID)
	if err != nil {
		return err
	}
	// It is saved with the next phase; after a crash before that, Retain finds the namespace by the id.
	o.Set(func(r *sandboxRecord) { r.Sandbox.NetNS = path })
	return nil
}

func (s *sandboxParts) removeNamespace(ctx context.Context, o *sandbox) error {
	path := o.Record().Sandbox.NetNS
	if path == "" {
		return nil
	}
	return s.cfg.Network.RemoveNamespace(ctx, path)
}

func (s *sandboxParts) attach(ctx context.Context, o *sandbox) error {
	result, err := s.cfg.Network.Attach(ctx, networkSandbox(o.Record().Sandbox))
	if err != nil {
		return err
	}
	o.Set(func(r *sandboxRecord) { r.Sandbox.IPs = result.IPs })
	return nil
}

func networkSandbox(s runtimeservice.Sandbox) network.Sandbox {
	out := network.Sandbox{
		ID: s.ID, Name: s.Config.Metadata.Name, Namespace: s.Config.Metadata.Namespace, UID: s.Config.Metadata.UID,
		NetNS: s.NetNS, Annotations: s.Config.Annotations,
	}
	for _, p := range s.Config.PortMappings {
		if p.HostPort == 0 {
			continue
		}
		out.PortMappings = append(out.PortMappings, network.PortMapping{
			Protocol: network.Protocol(p.Protocol), HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort,
		})
	}
	return out
}

// pinned is what namespace.Pin makes for a sandbox. The two net sysctls let every container bind low ports and send
// pings without capabilities, as all runtimes do by default.
func (s *sandboxParts) pinned(rec sandboxRecord) namespace.Sandbox {
	config := rec.Sandbox.Config
	out := namespace.Sandbox{Hostname: podfiles.Hostname(config), Network: rec.Sandbox.NetNS, Sysctls: map[string]string{}}
	if config.Security.Namespaces.IPC != runtimeservice.NamespaceNode {
		out.IPC = s.nsPath(rec.Sandbox.ID, "ipc")
	}
	if config.Security.Namespaces.Network != runtimeservice.NamespaceNode {
		out.UTS = s.nsPath(rec.Sandbox.ID, "uts")
		out.Sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		out.Sysctls["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	maps.Copy(out.Sysctls, config.Sysctls)
	return out
}
