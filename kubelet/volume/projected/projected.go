// Package projected holds the volume kinds whose files the kubelet writes itself: configMap, secret, downwardAPI and
// projected. The first three are a projected volume with one source; they differ in their directory's name and in
// where they lie. All but configMap lie in memory, so that no secret ever reaches a disk.
package projected

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/atomic"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// defaultMode is the mode of files whose volume names none. The API server fills it in; static pods may lack it.
const defaultMode = 0o644

// Objects reads what pods refer to; kubelet/objects implements it.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Tokens gets service account tokens; volume/token implements it.
type Tokens interface {
	Token(ctx context.Context, pod *v1.Pod, want *v1.ServiceAccountTokenProjection) (string, error)
	Forget(pod string)
}

// Bundles reads trust bundles; volume/trust implements it.
type Bundles interface {
	Bundle(ctx context.Context, src *v1.ClusterTrustBundleProjection) ([]byte, error)
}

// Certificates gets pods' certificates; volume/podcert implements it.
type Certificates interface {
	Certificate(ctx context.Context, pod *v1.Pod, volume string, source int) (key, chain []byte, err error)
	Forget(pod string)
}

// Config is what the kinds need.
type Config struct {
	Objects Objects
	Tokens  Tokens
	// Bundles and Certificates are nil where there is no API server.
	Bundles      Bundles
	Certificates Certificates
	// Allocatable is what pods may use of the node: the limits of containers that have none. May be nil.
	Allocatable func() v1.ResourceList
}

// Kinds returns the four kinds.
func Kinds(cfg Config) []volume.Kind {
	if cfg.Allocatable == nil {
		cfg.Allocatable = func() v1.ResourceList { return nil }
	}
	return []volume.Kind{
		&kind{cfg: cfg, name: "configmap", disk: true, spec: func(s *v1.VolumeSource) *spec {
			if s.ConfigMap == nil {
				return nil
			}
			c := s.ConfigMap
			return newSpec(c.DefaultMode, v1.VolumeProjection{ConfigMap: &v1.ConfigMapProjection{
				LocalObjectReference: c.LocalObjectReference, Items: c.Items, Optional: c.Optional}})
		}},
		&kind{cfg: cfg, name: "secret", spec: func(s *v1.VolumeSource) *spec {
			if s.Secret == nil {
				return nil
			}
			c := s.Secret
			return newSpec(c.DefaultMode, v1.VolumeProjection{Secret: &v1.SecretProjection{
				LocalObjectReference: v1.LocalObjectReference{Name: c.SecretName}, Items: c.Items, Optional: c.Optional}})
		}},
		&kind{cfg: cfg, name: "downward-api", spec: func(s *v1.VolumeSource) *spec {
			if s.DownwardAPI == nil {
				return nil
			}
			return newSpec(s.DownwardAPI.DefaultMode, v1.VolumeProjection{DownwardAPI: &v1.DownwardAPIProjection{Items: s.DownwardAPI.Items}})
		}},
		&kind{cfg: cfg, name: "projected", spec: func(s *v1.VolumeSource) *spec {
			if s.Projected == nil {
				return nil
			}
			return newSpec(s.Projected.DefaultMode, s.Projected.Sources...)
		}},
	}
}

// spec is the common form of the four sources.
type spec struct {
	mode    int32
	sources []v1.VolumeProjection
}

func newSpec(mode *int32, sources ...v1.VolumeProjection) *spec {
	s := &spec{mode: defaultMode, sources: sources}
	if mode != nil {
		s.mode = *mode
	}
	return s
}

type kind struct {
	cfg  Config
	name string
	disk bool
	spec func(*v1.VolumeSource) *spec
}

func (k *kind) Name() string                      { return k.name }
func (k *kind) Handles(src *v1.VolumeSource) bool { return k.spec(src) != nil }
func (k *kind) Live()                             {}

// Forget implements volume.Forgetter.
func (k *kind) Forget(pod string) {
	if k.cfg.Tokens != nil {
		k.cfg.Tokens.Forget(pod)
	}
	if k.cfg.Certificates != nil {
		k.cfg.Certificates.Forget(pod)
	}
}

// Setup implements volume.Kind: collect first, so that a missing object leaves nothing behind, then write.
func (k *kind) Setup(ctx context.Context, req volume.Request) (volume.Place, error) {
	place := volume.Place{Path: req.Dir, ReadOnly: true, Relabel: true} // the kubelet alone writes here
	files, err := k.collect(ctx, req, k.spec(&req.Volume.VolumeSource))
	if err != nil {
		return place, err
	}
	if k.disk {
		err = os.MkdirAll(req.Dir, 0o750)
	} else {
		list := k.cfg.Allocatable()
		err = volume.MountTmpfs(req.Dir, list.Memory().Value())
	}
	if err != nil {
		return place, err
	}
	if err := volume.OwnRoot(req.Dir, req.FSGroup()); err != nil {
		return place, err
	}
	if err := nested(req); err != nil {
		return place, err
	}
	_, err = atomic.Write(req.Dir, files, req.FSGroup())
	return place, err
}

// Measure implements volume.Measurer.
func (k *kind) Measure(_ context.Context, _ volume.Request, at volume.Place) (v1alpha1.FsStats, error) {
	if k.disk {
		return volume.MeasureTree(at.Path)
	}
	return volume.MeasureFS(at.Path)
}

// collect reads all sources. Later sources win where paths collide. All failures are returned together.
func (k *kind) collect(ctx context.Context, req volume.Request, s *spec) (atomic.Files, error) {
	all := atomic.Files{}
	var failed []error
	for i := range s.sources {
		files, err := k.source(ctx, req, s, i)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		maps.Copy(all, files)
	}
	return all, errors.Join(failed...)
}

func (k *kind) source(ctx context.Context, req volume.Request, s *spec, i int) (atomic.Files, error) {
	src, mode := &s.sources[i], s.mode
	switch {
	case src.ConfigMap != nil:
		return k.configMap(ctx, req.Pod.Namespace, src.ConfigMap, mode)
	case src.Secret != nil:
		return k.secret(ctx, req.Pod.Namespace, src.Secret, mode)
	case src.DownwardAPI != nil:
		return downwardFiles(req.Pod, src.DownwardAPI.Items, mode, k.cfg.Allocatable())
	case src.ServiceAccountToken != nil:
		return k.token(ctx, req, src.ServiceAccountToken, mode)
	case src.ClusterTrustBundle != nil:
		return k.bundle(ctx, req, src.ClusterTrustBundle, mode)
	case src.PodCertificate != nil:
		return k.certificate(ctx, req, i, mode)
	}
	return nil, fmt.Errorf("projected source without a known type: %w by this kubelet", volume.ErrUnsupported)
}

func (k *kind) configMap(ctx context.Context, namespace string, src *v1.ConfigMapProjection, mode int32) (atomic.Files, error) {
	o := object{kind: "configmap", name: src.Name, items: src.Items, mode: mode, optional: src.Optional != nil && *src.Optional}
	cm, err := k.cfg.Objects.ConfigMap(ctx, namespace, src.Name)
	switch {
	case err == nil:
		o.data = configMapData(cm)
	case !apierrors.IsNotFound(err) || !o.optional:
		return nil, err
	}
	return o.files()
}

func (k *kind) secret(ctx context.Context, namespace string, src *v1.SecretProjection, mode int32) (atomic.Files, error) {
	o := object{kind: "secret", name: src.Name, items: src.Items, mode: mode, optional: src.Optional != nil && *src.Optional}
	secret, err := k.cfg.Objects.Secret(ctx, namespace, src.Name)
	switch {
	case err == nil:
		o.data = secret.Data
	case !apierrors.IsNotFound(err) || !o.optional:
		return nil, err
	}
	return o.files()
}

// token writes the token so that only those who need it can read it: the pods' one user, or the volume's group.
func (k *kind) token(ctx context.Context, req volume.Request, src *v1.ServiceAccountTokenProjection, mode int32) (atomic.Files, error) {
	text, err := k.cfg.Tokens.Token(ctx, req.Pod, src)
	if err != nil {
		return nil, err
	}
	return atomic.Files{src.Path: personal(req, []byte(text), mode)}, nil
}

// personal is a file for the pods' one user or the volume's group; where there is neither, for whom its mode says.
func personal(req volume.Request, data []byte, mode int32) atomic.File {
	f := atomic.File{Data: data, Mode: mode, User: commonUser(req.Pod)}
	if f.User != nil || req.FSGroup() != nil {
		f.Mode = 0o600
	}
	return f
}

func (k *kind) bundle(ctx context.Context, req volume.Request, src *v1.ClusterTrustBundleProjection, mode int32) (atomic.Files, error) {
	if k.cfg.Bundles == nil {
		return nil, fmt.Errorf("projected source clusterTrustBundle needs an API server and this kubelet has none: %w", volume.ErrUnsupported)
	}
	certificates, err := k.cfg.Bundles.Bundle(ctx, src)
	if err != nil {
		return nil, err
	}
	return atomic.Files{src.Path: personal(req, certificates, mode)}, nil
}

// certificate writes the key and the certificate to the files that the source names.
func (k *kind) certificate(ctx context.Context, req volume.Request, i int, mode int32) (atomic.Files, error) {
	if k.cfg.Certificates == nil {
		return nil, fmt.Errorf("projected source podCertificate needs an API server and this kubelet has none: %w", volume.ErrUnsupported)
	}
	key, chain, err := k.cfg.Certificates.Certificate(ctx, req.Pod, req.Volume.Name, i)
	if err != nil {
		return nil, err
	}
	src := req.Volume.Projected.Sources[i].PodCertificate
	files := atomic.Files{}
	for path, data := range map[string][]byte{
		src.CredentialBundlePath: slices.Concat(key, chain), src.KeyPath: key, src.CertificateChainPath: chain,
	} {
		if path != "" {
			files[path] = personal(req, data, mode)
		}
	}
	return files, nil
}

// nested makes the directories at which containers mount other volumes inside this one: the runtime cannot, because it
// mounts this one read-only.
func nested(req volume.Request) error {
	var mounts [][]v1.VolumeMount
	for i := range req.Pod.Spec.InitContainers {
		mounts = append(mounts, req.Pod.Spec.InitContainers[i].VolumeMounts)
	}
	for i := range req.Pod.Spec.Containers {
		mounts = append(mounts, req.Pod.Spec.Containers[i].VolumeMounts)
	}
	for _, list := range mounts {
		for _, dir := range nestedIn(list, req.Volume.Name) {
			if err := os.MkdirAll(filepath.Join(req.Dir, dir), 0o755); err != nil {
				return fmt.Errorf("make the mount point of a nested volume: %w", err)
			}
		}
	}
	return nil
}

// nestedIn lists the paths, below the volume, of other mounts that lie inside a mount of the volume.
func nestedIn(mounts []v1.VolumeMount, name string) []string {
	var dirs []string
	for _, outer := range mounts {
		if outer.Name != name || outer.SubPath != "" || outer.SubPathExpr != "" {
			continue
		}
		for _, inner := range mounts {
			rel, err := filepath.Rel(outer.MountPath, inner.MountPath)
			if err == nil && rel != "." && !strings.HasPrefix(rel, "..") {
				dirs = append(dirs, rel)
			}
		}
	}
	return dirs
}
