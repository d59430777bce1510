package engine

import (
	"context"
	"errors"
	"maps"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/network"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/namespace"
	"github.com/skiff-node/skiff/runtimeservice/podfiles"
	"github.com/skiff-node/skiff/runtimeservice/rootfs"
	"github.com/skiff-node/skiff/runtimeservice/steps"
	"github.com/skiff-node/skiff/runtimeservice/userns"
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
	switch {
	case ns.UserPod:
		list = append(list, steps.Step{
			Name: "make the user namespace and those it owns",
			Do:   func(ctx context.Context) error { return s.newOwned(ctx, o) },
			Undo: func(ctx context.Context) error {
				return errors.Join(s.removeNamespace(ctx, o), namespace.Unpin(s.nsPath(id, "user")))
			},
		})
	case podNetwork:
		list = append(list, steps.Step{
			Name: "make the network namespace",
			Do:   func(ctx context.Context) error { return s.newNamespace(ctx, o) },
			Undo: func(ctx context.Context) error { return s.removeNamespace(ctx, o) },
		})
	}
	list = append(list, steps.Step{
		Name: "set up the IPC and UTS namespaces",
		Do:   func(context.Context) error { return namespace.Pin(s.pinned(o.Record())) },
		Undo: func(context.Context) error { return namespace.Unpin(s.nsPath(id, "ipc"), s.nsPath(id, "uts")) },
	})
	if ns.IPC != runtimeservice.NamespaceNode {
		shm := filepath.Join(dir, "shm")
		list = append(list, steps.Step{
			Name: "mount the shared memory",
			Do:   func(context.Context) error { return podfiles.MountShm(shm, ns) },
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
			Undo: func(ctx context.Context) error { return s.link.End(ctx, id) },
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

// newOwned makes the user namespace, and the others below its power: only their owner's root may configure a network or
// mount what shows them.
func (s *sandboxParts) newOwned(ctx context.Context, o *sandbox) error {
	rec := o.Record()
	ns, pinned := rec.Sandbox.Config.Security.Namespaces, s.pinned(rec)
	flags := uintptr(0)
	for _, want := range []struct {
		wanted bool
		flag   uintptr
	}{{ns.Network != runtimeservice.NamespaceNode, unix.CLONE_NEWNET}, {pinned.IPC != "", unix.CLONE_NEWIPC}, {pinned.UTS != "", unix.CLONE_NEWUTS}} {
		if want.wanted {
			flags |= want.flag
		}
	}
	holder, err := userns.Hold(ns.UIDs, ns.GIDs, flags)
	if err != nil {
		return err
	}
	defer holder.Close()
	for kind, path := range map[string]string{"user": s.nsPath(rec.Sandbox.ID, "user"), "ipc": pinned.IPC, "uts": pinned.UTS} {
		if err := holder.Pin(kind, path); err != nil {
			return err
		}
	}
	if ns.Network == runtimeservice.NamespaceNode {
		return nil
	}
	path, err := s.cfg.Network.AdoptNamespace(ctx, rec.Sandbox.ID, holder.File("net"))
	if err != nil {
		return err
	}
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
	out := namespace.Sandbox{
		Hostname: podfiles.Hostname(config), Network: rec.Sandbox.NetNS, Sysctls: map[string]string{},
		Owned: config.Security.Namespaces.UserPod,
	}
	if root, ok := runtimeservice.HostID(config.Security.Namespaces.UIDs, 0); ok {
		out.Root = int(root)
	}
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
