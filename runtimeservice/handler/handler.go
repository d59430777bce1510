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
	// Path is the binary. Required but for the default handler, which is in the keeper then.
	Path string
	// Args are global arguments, before the command.
	Args []string
	// Root is the runtime's own state directory. Default: below the keeper's.
	Root string
	// BaseSpec is a config.json that each container's specification is merged onto.
	BaseSpec string
	// PrivilegedWithoutHostDevices gives privileged containers only the devices they ask for.
	PrivilegedWithoutHostDevices bool
	// PodAnnotations and ContainerAnnotations are patterns ("io.katacontainers.*") of annotations that the runtime is
	// told. A "*" stands for any characters but "/".
	PodAnnotations, ContainerAnnotations []string
}

// Handler is one that can be used.
type Handler struct {
	Config
	Name     string
	Features Features
	base     map[string]any
}

// Set is the handlers of a node, by name.
type Set map[string]Handler

// New checks the configured handlers, and asks each what it can do. One whose binary cannot be run is kept, with a
// warning: its sandboxes fail, and the others do not.
func New(ctx context.Context, configs map[string]Config, log *slog.Logger) (Set, error) {
	set := Set{Default: {Name: Default, Features: Features{RecursiveReadOnly: true, UserNamespaces: true}}}
	for name, c := range configs {
		h := Handler{Config: c, Name: name, Features: set[Default].Features}
		if err := h.check(); err != nil {
			return nil, fmt.Errorf("runtime handler %s: %w", name, err)
		}
		if c.Path != "" {
			var err error
			if h.Features, err = Probe(ctx, c.Path, c.Args); err != nil {
				log.Warn("a runtime handler may not work", "handler", name, "error", err)
			}
		}
		set[name] = h
	}
	return set, nil
}

func (h *Handler) check() error {
	if h.Name == "" || strings.ContainsAny(h.Name, "/\x00") || h.Name == "." || h.Name == ".." {
		return fmt.Errorf("the name %q is not possible", h.Name)
	}
	if h.Path == "" && h.Name != Default {
		return fmt.Errorf("path is missing: which binary is it?")
	}
	if h.Path != "" && !filepath.IsAbs(h.Path) {
		return fmt.Errorf("path: %q is not an absolute path", h.Path)
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
	return keeper.Runtime{Handler: h.Name, Path: h.Path, Args: h.Args, Root: h.Root}
}

// Adjust makes of a container's specification the one that the runtime gets.
func (h Handler) Adjust(s *specs.Spec, pod, container map[string]string) (*specs.Spec, error) {
	for key, value := range pass(pod, h.PodAnnotations) {
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
