// Package handler knows the runtime handlers of a node: what containers are run with, as the configuration names it, what
// each can do, as it says itself, and what it adds to a container's specification.
//
// A handler is an OCI runtime driven by its command line, or the one that is always there, "runc" or "": libcontainer in
// the keeper.
package handler

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// Default is the name of the handler that sandboxes get that ask for none. It may be configured too: then what is
// configured takes the place of libcontainer.
const Default = "runc"

// Config is one handler as it is configured.
type Config struct {
	// Type is "oci", which is the default: an OCI runtime by its command line; or "shim": a shim of containerd's.
	Type string
	// Path is the binary, or of a shim its name (io.containerd.kata.v2). Required but for the default handler, which is
	// in the keeper then.
	Path string
	// Args are global arguments, before the command.
	Args []string
	// Root is the runtime's own state directory. Default: below the keeper's.
	Root string
	// ShimConfig is the configuration file of a shim. Default: its own.
	ShimConfig string
	// BaseSpec is a config.json that each container's specification is merged onto.
	BaseSpec string
	// PrivilegedWithoutHostDevices gives privileged containers only the devices they ask for.
	PrivilegedWithoutHostDevices bool
	// PodAnnotations and ContainerAnnotations are patterns ("io.katacontainers.*") of annotations that the runtime is
	// told. A "*" stands for any characters but "/".
	PodAnnotations, ContainerAnnotations []string
	// SnapshotOptions are overlayfs mount options of the containers' root file systems ("xino=on"), see snapshotOptions.
	SnapshotOptions []string
}

// snapshotOptions are the options of overlayfs (kernel documentation, filesystems/overlayfs) that a handler may choose,
// with their values; "" stands alone. The directories of the overlay are the image service's.
var snapshotOptions = map[string][]string{
	"volatile": {""}, "userxattr": {""}, "noatime": {""}, "nodev": {""}, "nosuid": {""},
	"xino": {"on", "off", "auto"}, "index": {"on", "off"}, "metacopy": {"on", "off"}, "nfs_export": {"on", "off"},
	"redirect_dir": {"on", "off", "follow", "nofollow"}, "uuid": {"on", "off", "null", "auto"},
}

// The types of handlers.
const (
	OCI  = "oci"
	Shim = "shim"
)

// Handler is one that can be used.
type Handler struct {
	Config
	driver   string // of shims: the binary of skiff-shim
	Name     string
	Features Features
	base     map[string]any
}

// Set is the handlers of a node, by name.
type Set map[string]Handler

// native is what libcontainer can do.
var native = Features{RecursiveReadOnly: true, UserNamespaces: true}

// Only is the set of the default handler alone.
func Only() Set { return Set{Default: {Name: Default, Features: native}} }

// New checks the configured handlers, and asks each what it can do. One whose binary cannot be run is kept, with a
// warning: its sandboxes fail, and the others do not. Driver is the binary of skiff-shim, for handlers of that type.
func New(ctx context.Context, configs map[string]Config, driver string, log *slog.Logger) (Set, error) {
	set := Only()
	for name, c := range configs {
		h := Handler{Config: c, Name: name, Features: set[Default].Features, driver: driver}
		if err := h.check(); err != nil {
			return nil, fmt.Errorf("runtime handler %s: %w", name, err)
		}
		if run := h.Runtime(); run.Path != "" {
			var err error
			if h.Features, err = Probe(ctx, run.Path, run.Args); err != nil {
				log.Warn("a runtime handler may not work", "handler", name, "error", err)
			}
		}
		set[name] = h
	}
	return set, nil
}

// snapshotHelp lists what can be chosen.
func snapshotHelp() string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(snapshotOptions)) {
		if values := strings.Join(snapshotOptions[key], "|"); values != "" {
			key += "=" + values
		}
		out = append(out, key)
	}
	return strings.Join(out, ", ")
}

func (h *Handler) check() error {
	if h.Name == "" || strings.ContainsAny(h.Name, "/\x00") || h.Name == "." || h.Name == ".." {
		return fmt.Errorf("the name %q is not possible", h.Name)
	}
	if h.Path == "" && h.Name != Default {
		return fmt.Errorf("path is missing: which binary is it?")
	}
	if h.Type != "" && h.Type != OCI && h.Type != Shim {
		return fmt.Errorf("type: %q is neither %q nor %q", h.Type, OCI, Shim)
	}
	if h.Type != Shim && h.Path != "" && !filepath.IsAbs(h.Path) {
		return fmt.Errorf("path: %q is not an absolute path", h.Path)
	}
	if h.Type != Shim && h.ShimConfig != "" {
		return fmt.Errorf("shim_config: the handler's type is not %q", Shim)
	}
	if h.Type == Shim && (h.Path == "" || len(h.Args) > 0) {
		return fmt.Errorf("a shim needs a path, and takes no args")
	}
	if h.Root != "" && !filepath.IsAbs(h.Root) {
		return fmt.Errorf("root: %q is not an absolute path", h.Root)
	}
	for key, patterns := range map[string][]string{"pod_annotations": h.PodAnnotations, "container_annotations": h.ContainerAnnotations} {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("%s: %q: %w", key, p, err)
			}
		}
	}
	for _, o := range h.SnapshotOptions {
		key, value, _ := strings.Cut(o, "=")
		if !slices.Contains(snapshotOptions[key], value) {
			return fmt.Errorf("snapshot_options: %q is not an overlayfs option that can be chosen: those are %s", o, snapshotHelp())
		}
	}
	if h.BaseSpec == "" {
		return nil
	}
	text, err := os.ReadFile(h.BaseSpec)
	if err != nil {
		return fmt.Errorf("base_spec: %w", err)
	}
	if err := json.Unmarshal(text, &specs.Spec{}); err != nil {
		return fmt.Errorf("base_spec: %s: %w", h.BaseSpec, err)
	}
	h.base, err = decode(text)
	return err
}

// Find is the handler of that name; "" is the default one.
func (s Set) Find(name string) (Handler, error) {
	if name == "" {
		name = Default
	}
	if h, ok := s[name]; ok {
		return h, nil
	}
	return Handler{}, fmt.Errorf("%w: runtime handler %q is not configured; there are %s", runtimeservice.ErrInvalid,
		name, strings.Join(slices.Sorted(maps.Keys(s)), ", "))
}

// Describe lists the handlers for Status, the default one also as "". A feature is there when the kernel has it too.
func (s Set) Describe(kernel Features) []runtimeservice.Handler {
	var out []runtimeservice.Handler
	for _, name := range append([]string{""}, slices.Sorted(maps.Keys(s))...) {
		h, _ := s.Find(name)
		out = append(out, runtimeservice.Handler{
			Name:                    name,
			RecursiveReadOnlyMounts: h.Features.RecursiveReadOnly && kernel.RecursiveReadOnly,
			UserNamespaces:          h.Features.UserNamespaces && kernel.UserNamespaces,
		})
	}
	return out
}

// Runtime is what the keeper is told.
func (h Handler) Runtime() keeper.Runtime {
	if h.Path == "" {
		return keeper.Runtime{}
	}
	if h.Type == Shim {
		args := []string{"--shim", h.Path}
		if h.ShimConfig != "" {
			args = append(args, "--shim-config", h.ShimConfig)
		}
		return keeper.Runtime{Handler: h.Name, Path: h.driver, Args: args, Root: h.Root, Monitor: true}
	}
	return keeper.Runtime{Handler: h.Name, Path: h.Path, Args: h.Args, Root: h.Root}
}

// NeedsSandbox says that each pod has a container of its own for the sandbox, which the others are made beside.
func (h Handler) NeedsSandbox() bool { return h.Type == Shim }

// Annotations by which runtimes know what a container is in its pod, as containerd names them.
const (
	annotationType      = "io.kubernetes.cri.container-type"
	annotationSandbox   = "io.kubernetes.cri.sandbox-id"
	annotationName      = "io.kubernetes.cri.sandbox-name"
	annotationNamespace = "io.kubernetes.cri.sandbox-namespace"
	annotationUID       = "io.kubernetes.cri.sandbox-uid"
	annotationLog       = "io.kubernetes.cri.sandbox-log-directory"
	annotationPeriod    = "io.kubernetes.cri.sandbox-cpu-period"
	annotationQuota     = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationShares    = "io.kubernetes.cri.sandbox-cpu-shares"
	annotationMemory    = "io.kubernetes.cri.sandbox-memory"
)

// AdjustSandbox makes of the specification of a pod's sandbox container the one that the runtime gets. A runtime of virtual
// machines learns from it how large the pod is going to be.
func (h Handler) AdjustSandbox(s *specs.Spec, box runtimeservice.Sandbox) (*specs.Spec, error) {
	m := box.Config.Metadata
	s.Annotations = map[string]string{
		annotationType: "sandbox", annotationName: m.Name, annotationNamespace: m.Namespace, annotationUID: m.UID,
		annotationLog: box.Config.LogDirectory,
	}
	if r := box.Config.Resources; r != nil {
		for key, value := range map[string]int64{
			annotationPeriod: r.CPUPeriod, annotationQuota: r.CPUQuota, annotationShares: r.CPUShares, annotationMemory: r.MemoryLimit,
		} {
			s.Annotations[key] = strconv.FormatInt(value, 10)
		}
	}
	return h.Adjust(s, box, nil)
}

// Adjust makes of a container's specification the one that the runtime gets.
func (h Handler) Adjust(s *specs.Spec, box runtimeservice.Sandbox, container map[string]string) (*specs.Spec, error) {
	s.Annotations[annotationSandbox] = box.ID
	for key, value := range pass(box.Config.Annotations, h.PodAnnotations) {
		s.Annotations[key] = value
	}
	for key, value := range pass(container, h.ContainerAnnotations) {
		s.Annotations[key] = value
	}
	if h.Features.OCIVersion != "" && compareVersions(h.Features.OCIVersion, s.Version) < 0 {
		s.Version = h.Features.OCIVersion
	}
	if h.base == nil {
		return s, nil
	}
	return overlay(h.base, s)
}

// pass picks the annotations that match.
func pass(annotations map[string]string, patterns []string) map[string]string {
	out := map[string]string{}
	for key, value := range annotations {
		if slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, key); return ok }) {
			out[key] = value
		}
	}
	return out
}
