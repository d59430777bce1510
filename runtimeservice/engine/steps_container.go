package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/bundle"
	"github.com/skiff-node/skiff/runtimeservice/cdi"
	"github.com/skiff-node/skiff/runtimeservice/podfiles"
	"github.com/skiff-node/skiff/runtimeservice/rootfs"
	"github.com/skiff-node/skiff/runtimeservice/spec"
	"github.com/skiff-node/skiff/runtimeservice/steps"
)

// containerParts makes and undoes what a container consists of.
type containerParts struct {
	*core
	sandboxes *sandboxParts
}

// steps is what a container consists of, with undos only: they need nothing but the record.
func (c *containerParts) steps(o *container) []steps.Step {
	rec := o.Record()
	id := rec.Container.ID
	dir := c.containerDir(id)
	list := []steps.Step{
		{Name: "make the directory", Undo: func(context.Context) error {
			return errors.Join(rootfs.RemoveFlat(dir), os.RemoveAll(c.copiesDir(id)))
		}},
		{Name: "prepare the root file system", Undo: func(ctx context.Context) error { return c.cfg.Images.Release(ctx, id) }},
		{Name: "mount the root file system", Undo: func(context.Context) error { return rootfs.Unmount(filepath.Join(dir, "rootfs")) }},
	}
	for n := range rec.Volumes {
		list = append(list, steps.Step{Name: "mount image volume " + strconv.Itoa(n), Undo: func(ctx context.Context) error {
			if err := rootfs.Unmount(volumeDir(dir, n)); err != nil {
				return err
			}
			return c.cfg.Images.Release(ctx, volumeKey(id, n))
		}})
	}
	return append(list,
		steps.Step{Name: "write the specification"},
		steps.Step{Name: "run the process", Undo: func(ctx context.Context) error {
			if err := c.link.End(ctx, id); err != nil {
				return err
			}
			return c.cgroups.Remove(rec.Cgroup)
		}},
	)
}

// makeSteps are the same steps with what they do, up to the process.
func (c *containerParts) makeSteps(o *container, box sandboxRecord, image imageservice.Image) []steps.Step {
	rec := o.Record()
	id, dir := rec.Container.ID, c.containerDir(rec.Container.ID)
	var mounts []imageservice.Mount
	list := c.steps(o)
	list[0].Do = func(context.Context) error { return os.Mkdir(dir, 0o711) }
	list[1].Do = func(ctx context.Context) error {
		points, err := spec.Points(rec.Container.Config, c.files(box))
		if err == nil {
			mounts, err = c.cfg.Images.Prepare(ctx, id, image.ID, points)
		}
		return err
	}
	_, label := spec.SELinuxLabels(box.Sandbox.Config.Security.SELinux, rec.Container.Config.Security, c.host)
	list[2].Do = func(context.Context) error {
		run, err := c.handlerOf(box.Sandbox.Config.Handler)
		if err != nil {
			return err
		}
		return c.mount(box, rootfs.With(rootfs.Labelled(mounts, label), run.SnapshotOptions), filepath.Join(dir, "rootfs"))
	}
	for n, image := range rec.Container.Config.ImageVolumes() {
		list[3+n].Do = func(ctx context.Context) error { return c.mountVolume(ctx, o, box, volume{n, image.Image.Ref}) }
	}
	list[len(list)-2].Do = func(ctx context.Context) error { return c.writeSpec(ctx, o, box, image) }
	return list[:len(list)-1]
}

func volumeDir(dir string, n int) string { return filepath.Join(dir, "volume-"+strconv.Itoa(n)) }
func volumeKey(id string, n int) string  { return id + "-volume-" + strconv.Itoa(n) }

// volume is an image volume of a container, by its number.
type volume struct {
	number int
	image  string
}

func (c *containerParts) mountVolume(ctx context.Context, o *container, box sandboxRecord, v volume) error {
	id := o.Record().Container.ID
	image, err := c.cfg.Images.Get(ctx, v.image)
	if err != nil {
		return fmt.Errorf("%w: %w", runtimeservice.ErrImageVolume, err)
	}
	mounts, err := c.cfg.Images.View(ctx, volumeKey(id, v.number), image.ID)
	if err != nil {
		return fmt.Errorf("%w: %w", runtimeservice.ErrImageVolume, err)
	}
	o.Set(func(r *containerRecord) { r.Container.VolumeImages = append(r.Container.VolumeImages, image.ID) })
	return c.mount(box, mounts, volumeDir(c.containerDir(id), v.number))
}

// mount mounts the files of an image, with the ids of the pod's user namespace where it has one.
func (c *core) mount(box sandboxRecord, mounts []imageservice.Mount, target string) error {
	ns := box.Sandbox.Config.Security.Namespaces
	if !ns.UserPod {
		return rootfs.Mount(mounts, target)
	}
	uid, _ := runtimeservice.HostID(ns.UIDs, 0)
	gid, _ := runtimeservice.HostID(ns.GIDs, 0)
	return rootfs.MountMapped(mounts, target, rootfs.IDMap{
		UserNS: c.nsPath(box.Sandbox.ID, "user"), UID: int(uid), GID: int(gid),
	})
}

// writeSpec looks up what the specification needs and writes it beside the root file system.
func (c *containerParts) writeSpec(ctx context.Context, o *container, box sandboxRecord, image imageservice.Image) error {
	rec := o.Record()
	dir := c.containerDir(rec.Container.ID)
	root := filepath.Join(dir, "rootfs")
	config := rec.Container.Config
	user, err := spec.ResolveUser(config.Security, image.Config.User, func(path string) (io.ReadCloser, error) {
		return rootfs.Open(root, path)
	})
	if err != nil {
		return err
	}
	_, oci := c.cfg.CgroupDriver.Container(box.Cgroup, rec.Container.ID)
	in := spec.Input{
		ID: rec.Container.ID, Config: config, Sandbox: box.Sandbox.Config, Image: image.Config, User: user,
		Host: c.host, Rootfs: root, Cgroup: oci, Files: c.files(box),
	}
	in.Sandbox.Hostname = podfiles.Hostname(box.Sandbox.Config)
	if in.Joins, err = c.joins(box, config); err != nil {
		return err
	}
	if in.Volumes, err = spec.Volumes(config, func(n int) string { return volumeDir(dir, n) }); err != nil {
		return err
	}
	run, err := c.handlerOf(box.Sandbox.Config.Handler)
	if err != nil {
		return err
	}
	in.NoHostDevices = run.PrivilegedWithoutHostDevices
	if in.Devices, err = spec.Devices(config, in.NoHostDevices); err != nil {
		return err
	}
	if err := spec.Relabel(in); err != nil {
		return err
	}
	if in.Profiles, err = spec.LoadProfiles(config.Security, c.cfg.SeccompDir); err != nil {
		return err
	}
	if err := run.CanMount(config.Mounts); err != nil {
		return err
	}
	built, err := spec.Build(in)
	if err != nil {
		return err
	}
	if err := cdi.Inject(built, config, c.cfg.CDIDirs); err != nil {
		return err
	}
	if built, err = run.Adjust(built, box.Sandbox, config.Annotations); err != nil {
		return err
	}
	o.Set(func(r *containerRecord) { r.Container.User = user })
	if err := c.adjust(ctx, o, built); err != nil {
		return err
	}
	return bundle.Write(dir, built)
}

// files are the sandbox's files; its shared memory is the host's with the host's IPC namespace.
func (c *containerParts) files(box sandboxRecord) spec.Files {
	dir := c.sandboxDir(box.Sandbox.ID)
	out := spec.Files{
		ResolvConf: filepath.Join(dir, "resolv.conf"), Hostname: filepath.Join(dir, "hostname"),
		Hosts: filepath.Join(dir, "hosts"), Shm: filepath.Join(dir, "shm"),
	}
	if box.Sandbox.Config.Security.Namespaces.IPC == runtimeservice.NamespaceNode {
		out.Shm = "/dev/shm"
	}
	return out
}

// joins are the namespaces of the sandbox; the PID namespace may be another container's.
func (c *containerParts) joins(box sandboxRecord, config runtimeservice.ContainerConfig) (spec.Joins, error) {
	pinned := c.sandboxes.pinned(box)
	out := spec.Joins{Network: box.Sandbox.NetNS, IPC: pinned.IPC, UTS: pinned.UTS}
	if pinned.Owned {
		out.User = c.nsPath(box.Sandbox.ID, "user")
	}
	holder := ""
	switch config.Security.Namespaces.PID {
	case runtimeservice.NamespacePod:
		if !box.Pause {
			return out, fmt.Errorf("%w: namespace_options.pid: the container wants the pod's PID namespace, but the sandbox was made without one", runtimeservice.ErrInvalid)
		}
		pid, err := c.sandboxes.pausePid(box)
		out.PID = fmt.Sprintf("/proc/%d/ns/pid", pid)
		return out, err
	case runtimeservice.NamespaceTarget:
		holder = config.Security.Namespaces.TargetID
	default:
		return out, nil
	}
	o, err := c.units.Find(holder)
	if err != nil {
		return out, fmt.Errorf("target of the PID namespace: %w", err)
	}
	target := o.Record()
	if target.Container.SandboxID != box.Sandbox.ID || target.Container.Pid == 0 {
		return out, fmt.Errorf("%w: namespace_options.target_id: container %s does not run in this sandbox", runtimeservice.ErrInvalid, holder)
	}
	out.PID = fmt.Sprintf("/proc/%d/ns/pid", target.Container.Pid)
	return out, nil
}
