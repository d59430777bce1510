// Package event records what happens to pods as Events of the API. Reasons and messages are those of the upstream
// kubelet, because kubectl describe shows them and people search for them.
package event

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// Recorder sends events. The zero value, and nil, discard them: a kubelet without an API server has nobody to tell.
type Recorder struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	rush        rush
	closed      chan struct{}
}

// New makes a recorder that writes through client; nil discards. The rate of writes is the client's.
func New(client kubernetes.Interface, node string) *Recorder {
	if client == nil {
		return &Recorder{}
	}
	r := &Recorder{broadcaster: record.NewBroadcaster(), closed: make(chan struct{})}
	r.broadcaster.StartRecordingToSink(sink{&corev1.EventSinkImpl{Interface: client.CoreV1().Events("")}, &r.rush, r.closed})
	r.recorder = r.broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: node})
	return r
}

// Starting tells that a sandbox or a container is being started: until done is called, events may wait (see sink).
func (r *Recorder) Starting() (done func()) { return r.rush.begin() }

// Close ends the sending.
func (r *Recorder) Close() {
	if r != nil && r.broadcaster != nil {
		close(r.closed)
		r.broadcaster.Shutdown()
	}
}

// Raw is the client-go recorder for parts that take one; nil when events are discarded.
func (r *Recorder) Raw() record.EventRecorder {
	if r == nil {
		return nil
	}
	return r.recorder
}

// Normal records an event of a pod, or of one of its containers when container is not empty.
func (r *Recorder) Normal(p *v1.Pod, container, reason, format string, args ...any) {
	r.record(p, container, v1.EventTypeNormal, reason, fmt.Sprintf(format, args...))
}

// Warning is Normal for what went wrong.
func (r *Recorder) Warning(p *v1.Pod, container, reason, format string, args ...any) {
	r.record(p, container, v1.EventTypeWarning, reason, fmt.Sprintf(format, args...))
}

func (r *Recorder) record(p *v1.Pod, container, kind, reason, message string) {
	if r == nil || r.recorder == nil {
		return
	}
	var about runtime.Object = Reference(p, container)
	r.recorder.Event(about, kind, reason, message)
}

// Node records an event of the node itself.
func (r *Recorder) Node(name, kind, reason, message string) {
	if r == nil || r.recorder == nil {
		return
	}
	r.recorder.Event(&v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: name, UID: types.UID(name)}, kind, reason, message)
}

// Reference names a pod or, by fieldPath, one of its containers.
func Reference(p *v1.Pod, container string) *v1.ObjectReference {
	ref := &v1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
	if container != "" {
		ref.FieldPath = fieldPath(p, container)
	}
	return ref
}

func fieldPath(p *v1.Pod, container string) string {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == container {
			return "spec.initContainers{" + container + "}"
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == container {
			return "spec.ephemeralContainers{" + container + "}"
		}
	}
	return "spec.containers{" + container + "}"
}
