// Package volume makes the volumes of a pod exist on the node, keeps their content current and takes them away again.
//
// # Words
//
// A pod's spec lists volumes; each has exactly one source, and the source's type is the volume's kind. A Kind sets
// volumes of its sort up. The Manager chooses the kind, owns the directories and is the only one that takes down.
//
// # Layout
//
// Everything of a pod lies below one directory, in the same places as under upstream's /var/lib/kubelet, because
// people and agents look there:
//
//	<root>/pods/<uid>/volumes/kubernetes.io~<kind>/<volume>             the volume
//	<root>/pods/<uid>/volume-subpaths/<volume>/<container>/<index>     a bind mount of a subPath
//
// A hostPath volume has no directory; its path is the host's.
//
// # Life
//
//	Setup     makes each volume of the pod and returns where it is. It may be called again at any time, with the same or
//	          a newer version of the pod: what is there already stays, content that changed is replaced atomically.
//	Run       repeats the setup of the volumes whose content may change, on a slow beat (tokens expire) and when it is
//	          told (Changed: a ConfigMap was edited).
//	Teardown  unmounts all that lies below the pod's directory, deepest first, and removes the directory. It needs no
//	          memory of what was set up, so it works the same after a restart, and it never deletes through a mount.
//	Retain    tears down every pod directory that belongs to none of the living pods, once at start.
package volume

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// ErrUnsupported is wrapped by the error for a volume of a kind that no registered Kind handles.
var ErrUnsupported = errors.New("volume kind is not supported")

// Kind sets up the volumes of one sort.
type Kind interface {
	// Name is the kind as it appears in directory names, e.g. "empty-dir".
	Name() string
	// Handles reports whether the source is of this kind.
	Handles(*v1.VolumeSource) bool
	// Setup makes the volume and returns its path on the host: req.Dir unless the kind has another. It is
	// idempotent; on failure it may leave parts behind, which a later Setup or Teardown deals with.
	Setup(ctx context.Context, req Request) (path string, err error)
}

// Live is a Kind whose content may change while the pod lives; its Setup is repeated.
type Live interface {
	Kind
	Live()
}

// Forgetter is a Kind that remembers things of pods, such as their tokens.
type Forgetter interface {
	Kind
	Forget(pod string)
}

// Request is one volume of one pod.
type Request struct {
	Pod    *v1.Pod
	Volume *v1.Volume
	// Dir is where the volume belongs. It need not exist yet.
	Dir string
}

// FSGroup is the group that must own the volume's files, or nil (securityContext.fsGroup).
func (r Request) FSGroup() *int64 {
	if sc := r.Pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// SetupError is a failure to set up one volume, in the words operators know from upstream's FailedMount events.
type SetupError struct {
	Volume string
	Err    error
}

func (e *SetupError) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }

// ReadOnly reports whether containers may only ever mount the volume read-only, whatever their volumeMount says: the
// kubelet alone writes the content of these kinds.
func ReadOnly(src *v1.VolumeSource) bool {
	return src.ConfigMap != nil || src.Secret != nil || src.DownwardAPI != nil || src.Projected != nil
}

// SourceName is the API's name of the source's type, e.g. "persistentVolumeClaim", or "" when none is set.
func SourceName(src *v1.VolumeSource) string {
	v := reflect.ValueOf(src).Elem()
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Pointer && !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return ""
}
