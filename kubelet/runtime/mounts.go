package runtime

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/runtime/spec"
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/selinux"
)

const etcHosts = "/etc/hosts"

// imageVolumes gets the images of the image volumes (KEP-4639) that the container mounts, by volume name. Its error is a
// *Fault.
func (r launch) imageVolumes(ctx context.Context, sandbox *cri.PodSandboxConfig) (map[string]*cri.ImageSpec, error) {
	p, c := r.req.Pod, r.req.Start.Spec
	images := map[string]*cri.ImageSpec{}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		mounted := slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == v.Name })
		if v.Image == nil || !mounted {
			continue
		}
		image, err := puller{r.Runtime, p, c, sandbox, v.Image.Reference, v.Image.PullPolicy}.ensure(ctx)
		r.cfg.Metrics.ImageVolume(err)
		if err != nil {
			return nil, err
		}
		images[v.Name] = &cri.ImageSpec{Image: image.Id, UserSpecifiedImage: v.Image.Reference, Annotations: p.Annotations}
	}
	return images, nil
}

// mount translates one volume mount and binds its part of the volume.
func (r launch) mount(ctx context.Context, index int, env []spec.Var, images map[string]*cri.ImageSpec) (*cri.Mount, error) {
	req, p, c := r.req, r.req.Pod, r.req.Start.Spec
	m := &c.VolumeMounts[index]
	sub, err := spec.SubPath(m, env)
	if err != nil {
		return nil, err
	}
	if image := images[m.Name]; image != nil {
		mount := spec.Mount(m, "")
		mount.Image, mount.ImageSubPath, mount.Readonly = image, sub, true
		return mount, nil
	}
	at, ok := req.Volumes[m.Name]
	path := at.Path
	if !ok || at.Device {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
	}
	if sub != "" {
		place := volume.SubPath{Pod: p.UID, Volume: m.Name, Container: c.Name, Index: index, VolumePath: path, Path: sub}
		if path, err = r.cfg.SubPath(ctx, place); err != nil {
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
		}
	}
	mount := spec.Mount(m, path)
	mount.Readonly = mount.Readonly || at.ReadOnly
	mount.SelinuxRelabel = at.Relabel && r.cfg.Labelled && selinux.First(p, c.Name, m.Name)
	return mount, nil
}

// devices lists the raw block devices of the container.
func devices(volumes map[string]volume.Place, c *v1.Container) ([]*cri.Device, error) {
	var list []*cri.Device
	for _, d := range c.VolumeDevices {
		at, ok := volumes[d.Name]
		if !ok || !at.Device {
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, c.Name)
		}
		permissions := "mrw"
		if at.ReadOnly {
			permissions = "r"
		}
		list = append(list, &cri.Device{HostPath: at.Path, ContainerPath: d.DevicePath, Permissions: permissions})
	}
	return list, nil
}

// mounts lists the container's volumes, its hosts file and its place for last words.
func (r launch) mounts(ctx context.Context, env []spec.Var, images map[string]*cri.ImageSpec) ([]*cri.Mount, error) {
	c := r.req.Start.Spec
	hosts := r.req.Pod.Spec.HostNetwork || len(r.req.IPs) > 0
	var list []*cri.Mount
	for i := range c.VolumeMounts {
		hosts = hosts && c.VolumeMounts[i].MountPath != etcHosts
		mount, err := r.mount(ctx, i, env, images)
		if err != nil {
			return nil, err
		}
		list = append(list, mount)
	}
	if hosts {
		path, err := r.hostsFile()
		if err != nil {
			return nil, err
		}
		list = append(list, &cri.Mount{ContainerPath: etcHosts, HostPath: path, SelinuxRelabel: r.cfg.Labelled})
	}
	if c.TerminationMessagePath == "" {
		return list, nil
	}
	path, err := r.lastWordsFile()
	if err != nil {
		return nil, err
	}
	return append(list, &cri.Mount{ContainerPath: absolute(c.TerminationMessagePath), HostPath: path, SelinuxRelabel: r.cfg.Labelled}), nil
}

func absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return "/" + path
}
