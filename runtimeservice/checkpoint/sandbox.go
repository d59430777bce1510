package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skiff-node/skiff/runtimeservice"
)

// podFile describes a checkpoint of a pod. A container's part is the directory of its name beside it.
const podFile = "pod.json"

// formatVersion changes when an older runtime would misread what this one writes.
const formatVersion = 1

type podDump struct {
	Version    int             `json:"version"`
	Runtime    string          `json:"runtime"`
	Handler    string          `json:"handler,omitempty"`
	Containers []podDumpedUnit `json:"containers"`
}

type podDumpedUnit struct {
	Name    string                         `json:"name"`
	ImageID string                         `json:"imageID"`
	Config  runtimeservice.ContainerConfig `json:"config"`
	User    runtimeservice.User            `json:"user"`
}

// CheckpointSandbox implements runtimeservice.Checkpoints: all containers are frozen before the first is written, and
// thawed on each way out. What was written is deleted when the whole fails.
func (c *Checkpoints) CheckpointSandbox(ctx context.Context, r runtimeservice.SandboxCheckpoint) (err error) {
	if err := emptyDir(r.Path); err != nil {
		return err
	}
	box, units, err := c.selected(ctx, r)
	if err != nil {
		return err
	}
	if err := Usable(ctx); err != nil {
		return err
	}
	defer func() {
		for _, u := range units {
			if thaw := c.Runtime.Thaw(context.WithoutCancel(ctx), u); thaw != nil {
				err = errors.Join(err, fmt.Errorf("let container %s go on: %w", u.Container.ID, thaw))
			}
		}
		if err != nil {
			err = errors.Join(err, clear(r.Path))
		}
	}()
	for _, u := range units {
		if err := c.Runtime.Freeze(ctx, u); err != nil {
			return fmt.Errorf("freeze container %s: %w", u.Container.ID, err)
		}
	}
	out := podDump{Version: formatVersion, Runtime: "skiff", Handler: box.Config.Handler}
	for _, u := range units {
		name := u.Container.Config.Metadata.Name
		dir := filepath.Join(r.Path, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make a directory for container %s: %w", name, err)
		}
		if err := c.dump(ctx, u, dir); err != nil {
			return err
		}
		out.Containers = append(out.Containers, podDumpedUnit{
			Name: name, ImageID: u.Container.ImageID, Config: u.Container.Config, User: u.Container.User,
		})
	}
	return writeJSON(filepath.Join(r.Path, podFile), out)
}

func emptyDir(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%w: output_path: %q is not an absolute path", runtimeservice.ErrInvalid, path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("%w: output_path: %w", runtimeservice.ErrInvalid, err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: output_path: %s is not empty", runtimeservice.ErrInvalid, path)
	}
	return nil
}

// clear empties a directory that is not ours to remove.
func clear(path string) error {
	entries, err := os.ReadDir(path)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(path, e.Name())))
	}
	return err
}

// selected finds the containers, which must be all that run in the sandbox.
func (c *Checkpoints) selected(ctx context.Context, r runtimeservice.SandboxCheckpoint) (runtimeservice.Sandbox, []Unit, error) {
	box, err := c.Sandboxes.Sandbox(ctx, r.SandboxID)
	if err != nil {
		return box, nil, err
	}
	if box.State != runtimeservice.SandboxReady {
		return box, nil, fmt.Errorf("sandbox %s is %s: %w", box.ID, box.State, runtimeservice.ErrState)
	}
	if len(r.ContainerIDs) == 0 {
		return box, nil, fmt.Errorf("%w: container_ids: is empty", runtimeservice.ErrInvalid)
	}
	var units []Unit
	seen := map[string]bool{}
	for i, id := range r.ContainerIDs {
		u, err := c.Runtime.Unit(id)
		switch {
		case err != nil:
			return box, nil, fmt.Errorf("container_ids[%d]: %w", i, err)
		case u.Container.SandboxID != box.ID:
			return box, nil, fmt.Errorf("%w: container_ids[%d]: container %s is not of this sandbox", runtimeservice.ErrInvalid, i, id)
		case seen[u.Container.ID]:
			return box, nil, fmt.Errorf("%w: container_ids[%d]: container %s is there twice", runtimeservice.ErrInvalid, i, id)
		}
		seen[u.Container.ID] = true
		units = append(units, u)
	}
	return box, units, nil
}

// RestoreSandbox implements runtimeservice.Checkpoints.
func (c *Checkpoints) RestoreSandbox(ctx context.Context, r runtimeservice.SandboxRestore) (out runtimeservice.Restored, err error) {
	dump, err := readDump(r.Path)
	if err != nil {
		return out, err
	}
	if err := match(dump, r); err != nil {
		return out, err
	}
	if err := Usable(ctx); err != nil {
		return out, err
	}
	c.restoring.Lock()
	defer c.restoring.Unlock()
	// Nothing cuts this short: what it makes must be known, to be removed.
	box, err := c.Sandboxes.RunSandbox(context.WithoutCancel(ctx), r.Config)
	if err != nil {
		return out, err
	}
	if err := c.unused(ctx, box); err != nil {
		return out, err
	}
	out = runtimeservice.Restored{SandboxID: box, Containers: map[string]string{}}
	for _, config := range r.Containers {
		id, err := c.restore(ctx, box, config, r.Path, dump)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			err = fmt.Errorf("restore container %s: %w", config.Metadata.Name, err)
			return runtimeservice.Restored{}, errors.Join(err, c.Sandboxes.RemoveSandbox(context.WithoutCancel(ctx), box))
		}
		out.Containers[config.Metadata.Name] = id
	}
	return out, nil
}

// unused refuses a sandbox that is there already and has had a container started: nothing may happen to it.
func (c *Checkpoints) unused(ctx context.Context, box string) error {
	containers, err := c.Containers.ListContainers(context.WithoutCancel(ctx), runtimeservice.Filter{SandboxID: box})
	if err != nil {
		return err
	}
	for _, has := range containers {
		if has.State != runtimeservice.ContainerCreated {
			return fmt.Errorf("sandbox %s is in use, container %s is %s: %w", box, has.ID, has.State, runtimeservice.ErrState)
		}
	}
	return nil
}

func (c *Checkpoints) restore(ctx context.Context, box string, config runtimeservice.ContainerConfig, path string, dump podDump) (string, error) {
	id, err := c.Containers.CreateContainer(ctx, box, config)
	if err != nil {
		return "", err
	}
	made, err := c.Containers.Container(ctx, id)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(path, config.Metadata.Name)
	was := dump.Containers[slices.IndexFunc(dump.Containers, func(u podDumpedUnit) bool { return u.Name == config.Metadata.Name })]
	if made.ImageID != was.ImageID {
		return "", fmt.Errorf("%w: container_configs: image is %s, the checkpoint has %s", runtimeservice.ErrInvalid, made.ImageID, was.ImageID)
	}
	if made.User.UID != was.User.UID || made.User.GID != was.User.GID {
		return "", fmt.Errorf("%w: container_configs: the user is %d:%d, the checkpoint has %d:%d", runtimeservice.ErrInvalid,
			made.User.UID, made.User.GID, was.User.UID, was.User.GID)
	}
	return id, c.Runtime.ContinueFrom(id, func(rootfs, copies string) error {
		if err := copyFiles(filepath.Join(dir, imagesDir), copies); err != nil {
			return err
		}
		return restoreRootfs(dir, rootfs)
	})
}

func restoreRootfs(dir, rootfs string) error {
	var deleted []string
	if err := readJSON(filepath.Join(dir, deletedFile), &deleted); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.Open(filepath.Join(dir, diffFile))
	if err != nil {
		return err
	}
	defer f.Close()
	return applyDiff(rootfs, f, deleted)
}

func readDump(path string) (podDump, error) {
	var dump podDump
	if !filepath.IsAbs(path) {
		return dump, fmt.Errorf("%w: checkpoint_path: %q is not an absolute path", runtimeservice.ErrInvalid, path)
	}
	if err := readJSON(filepath.Join(path, podFile), &dump); err != nil {
		return dump, fmt.Errorf("%w: checkpoint_path: no checkpoint of this runtime: %w", runtimeservice.ErrInvalid, err)
	}
	if dump.Version != formatVersion || dump.Runtime != "skiff" {
		return dump, fmt.Errorf("%w: checkpoint_path: it is of %s, format %d", runtimeservice.ErrInvalid, dump.Runtime, dump.Version)
	}
	return dump, nil
}

// match compares what is asked for with what was running. What it cannot see, CRIU or the start will.
func match(dump podDump, r runtimeservice.SandboxRestore) error {
	have := map[string]podDumpedUnit{}
	for _, u := range dump.Containers {
		if u.Name == "" || u.Name == "." || u.Name == ".." || strings.ContainsRune(u.Name, '/') {
			return fmt.Errorf("%w: checkpoint_path: the name of a container is %q", runtimeservice.ErrInvalid, u.Name)
		}
		have[u.Name] = u
	}
	if r.Config.Handler != dump.Handler {
		return fmt.Errorf("%w: runtime_handler: %q, the checkpoint has %q", runtimeservice.ErrInvalid, r.Config.Handler, dump.Handler)
	}
	if len(r.Containers) == 0 {
		return fmt.Errorf("%w: container_configs: is empty", runtimeservice.ErrInvalid)
	}
	for i, c := range r.Containers {
		field := fmt.Sprintf("container_configs[%d]", i)
		was, ok := have[c.Metadata.Name]
		if !ok {
			return fmt.Errorf("%w: %s.metadata.name: the checkpoint has no container %q, or it is there twice", runtimeservice.ErrInvalid, field, c.Metadata.Name)
		}
		delete(have, c.Metadata.Name)
		for name, same := range map[string]bool{
			"command": slices.Equal(c.Command, was.Config.Command), "args": slices.Equal(c.Args, was.Config.Args),
			"working_dir": c.WorkingDir == was.Config.WorkingDir, "envs": slices.Equal(c.Env, was.Config.Env),
			"tty": c.TTY == was.Config.TTY, "stdin": c.Stdin == was.Config.Stdin,
		} {
			if !same {
				return fmt.Errorf("%w: %s.%s: it is not that of the checkpoint", runtimeservice.ErrInvalid, field, name)
			}
		}
	}
	for name := range have {
		return fmt.Errorf("%w: container_configs: container %q of the checkpoint is missing", runtimeservice.ErrInvalid, name)
	}
	return nil
}
