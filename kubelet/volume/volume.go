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
//	<root>/plugins/kubernetes.io/csi/                                  what CSI drivers have staged for all pods of the node
//
// A hostPath volume has no directory; its path is the host's. The directory of a claim is named by its persistent volume.
//
// # Life
//
//	Setup     makes each volume of the pod and returns where it is. It may be called again at any time, with the same or
//	          a newer version of the pod: what is there already stays, content that changed is replaced atomically.
//	Run       repeats the setup of the volumes whose content may change, on a slow beat (tokens expire) and when it is
//	          told (Changed: a ConfigMap was edited).
//	Teardown  lets the kinds give back what others hold for the pod (Releaser), unmounts all that lies below the pod's
//	          directory, deepest first, and removes the directory. It needs no memory of what was set up: what has to be
//	          given back was written below the pod's directory before it was taken. So it works the same after a
//	          restart, and it never deletes through a mount.
//	Retain    tears down every pod directory that belongs to none of the living pods, once at start.
package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ErrUnsupported is wrapped by the error for a volume of a kind that no registered Kind handles.
var ErrUnsupported = errors.New("volume kind is not supported")

// Place is where a volume is on the node and what containers may do with it.
type Place struct {
	// Path on the host: what is to be mounted, or the device.
	Path string
	// ReadOnly volumes may only ever be mounted read-only, whatever a volumeMount says.
	ReadOnly bool
	// Device says that the volume is a raw block device, for volumeDevices instead of volumeMounts.
	Device bool
	// Relabel wants the runtime to write the container's SELinux label to the volume's files.
	Relabel bool
}

// Kind sets up the volumes of one sort.
type Kind interface {
	// Name is the kind as it appears in directory names, e.g. "empty-dir".
	Name() string
	// Handles reports whether the source is of this kind.
	Handles(*v1.VolumeSource) bool
	// Setup makes the volume and returns its place, which is below req.Dir unless the kind has another. It is
	// idempotent; on failure it may leave parts behind, which a later Setup or Teardown deals with.
	Setup(ctx context.Context, req Request) (Place, error)
}

// Live is a Kind whose content may change while the pod lives; its Setup is repeated.
type Live interface {
	Kind
	Live()
}

// Slow is a Kind whose Setup waits for other programs. Such volumes of a pod are set up beside each other.
type Slow interface {
	Kind
	Slow()
}

// Forgetter is a Kind that remembers things of pods, such as their tokens.
type Forgetter interface {
	Kind
	Forget(pod string)
}

// Releaser is a Kind that takes things for a pod which lie outside the pod's directory or which others hold.
type Releaser interface {
	Kind
	// Release gives back all that Setup took for the pod, going by what it left in dir: the kind's directory of the
	// pod, which need not exist. It is called before anything there is unmounted, and again until it succeeds.
	Release(ctx context.Context, pod types.UID, dir string) error
}

// Persistent is a Kind that persistent volumes may be of.
type Persistent interface {
	Kind
	HandlesPersistent(*v1.PersistentVolumeSource) bool
}

// Claims finds what is behind a pod's persistentVolumeClaim or ephemeral volume; volume/claim implements it.
type Claims interface {
	// Migrates tells whether a volume of the pod, which has no claim, is the persistent volume of a driver all the same: Resolve
	// then takes it as well.
	Migrates(*v1.VolumeSource) bool
	// Resolve returns the bound claim and its persistent volume, or why the pod cannot use them.
	Resolve(ctx context.Context, pod *v1.Pod, vol *v1.Volume) (*Claimed, error)
}

// Claimed is the persistent volume behind a volume of a pod.
type Claimed struct {
	// Claim is nil for a volume that the pod names without one.
	Claim  *v1.PersistentVolumeClaim
	Volume *v1.PersistentVolume
	// ReadOnly is the pod's wish (persistentVolumeClaim.readOnly).
	ReadOnly bool
}

// Block reports whether the volume is a raw device (volumeMode Block).
func (c *Claimed) Block() bool {
	return c != nil && c.Volume.Spec.VolumeMode != nil && *c.Volume.Spec.VolumeMode == v1.PersistentVolumeBlock
}

// Request is one volume of one pod.
type Request struct {
	Pod    *v1.Pod
	Volume *v1.Volume
	// Claimed is set when the volume is a claim.
	Claimed *Claimed
	// Dir is where the volume belongs. It need not exist yet.
	Dir string
}

// Name is the volume as events name it: a claim goes by its persistent volume.
func (r Request) Name() string {
	if r.Claimed != nil {
		return r.Claimed.Volume.Name
	}
	return r.Volume.Name
}

// FSGroup is the group that must own the volume's files, or nil (securityContext.fsGroup).
func (r Request) FSGroup() *int64 {
	if sc := r.Pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// SetupError is a failure to set up one volume, in the words operators know from upstream's events.
type SetupError struct {
	// Volume is the name that events use: the persistent volume's, if there is one.
	Volume string
	// Step that failed; empty means "MountVolume.SetUp".
	Step string
	Err  error
}

func (e *SetupError) Error() string {
	return fmt.Sprintf("%s failed for volume %q : %v", cmp.Or(e.Step, "MountVolume.SetUp"), e.Volume, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }

// StepAttach is what fails for a volume that cannot be attached to the node.
const StepAttach = "AttachVolume.Attach"

// Reason is the reason of the event that tells of the failure: FailedMount, FailedMapVolume for a block device, or
// FailedAttachVolume.
func (e *SetupError) Reason() string {
	if e.Step == StepAttach {
		return "FailedAttachVolume"
	}
	if strings.HasPrefix(e.Step, "MapVolume.") {
		return "FailedMapVolume"
	}
	return "FailedMount"
}

// Failure is one event's worth of an error of Setup.
type Failure struct{ Reason, Message string }

// Failures lists what the error of Manager.Setup consists of, one entry for each volume.
func Failures(err error) []Failure {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []Failure
		for _, e := range joined.Unwrap() {
			all = append(all, Failures(e)...)
		}
		return all
	}
	var one *SetupError
	if errors.As(err, &one) {
		return []Failure{{one.Reason(), one.Error()}}
	}
	return []Failure{{"FailedMount", err.Error()}}
}

// SourceName is the API's name of the source's type, e.g. "persistentVolumeClaim", or "" when none is set.
func SourceName[S v1.VolumeSource | v1.PersistentVolumeSource](src *S) string {
	v := reflect.ValueOf(src).Elem()
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Pointer && !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return ""
}
