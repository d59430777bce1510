//go:build e2e

package histories

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/skiff-node/skiff/test/images"
)

// The commands of hooks and of exec probes: they ask the container's program.
var (
	preStopHook   = []string{"/probe", "ask", "prestop"}
	postStartHook = []string{"/probe", "ask", "poststart"}
	hookNames     = []string{strings.Join(preStopHook, " "), strings.Join(postStartHook, " ")}
)

// cause is what makes a container fail, and its cure.
type cause struct {
	image string
	cure  func()
}

// begin makes the script's pod, with a program that obeys in each of its containers.
func (h *history) begin() {
	h.Helper()
	p := h.script.Pod.DeepCopy()
	p.Namespace, p.UID, p.Generation = h.ns, "", 0
	p.Spec.AutomountServiceAccountToken = new(bool)
	for i := range p.Spec.InitContainers {
		h.complete(&p.Spec.InitContainers[i], 9100+i)
	}
	for i := range p.Spec.Containers {
		h.complete(&p.Spec.Containers[i], 9000+i)
	}
	for _, l := range h.script.Lines {
		h.foresee(p, l.Command)
	}
	if h.static {
		p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		p.Annotations = nil
		text, err := yaml.Marshal(p)
		if err != nil {
			h.Fatal(err)
		}
		h.n.write(h.file(), string(text))
		return
	}
	ephemeral := p.Spec.EphemeralContainers
	p.Spec.EphemeralContainers, p.Spec.NodeName = nil, h.n.h.Name
	if _, err := h.n.client.CoreV1().Pods(h.ns).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		h.Fatal(err)
	}
	for _, e := range ephemeral {
		h.addEphemeral(e.Name, e.TargetContainerName)
	}
}

// file of a static pod.
func (h *history) file() string { return filepath.Join(staticDir, h.ns+".yaml") }

// complete puts the program into a container, and makes its probes and hooks ask it.
func (h *history) complete(c *corev1.Container, port int) {
	c.Image = probeImage
	c.Args = []string{"obey", fmt.Sprintf("http=%d", port)}
	for name, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if p == nil {
			continue
		}
		p.PeriodSeconds, p.FailureThreshold, p.TimeoutSeconds = 1, 1, 600
		p.Exec = &corev1.ExecAction{Command: []string{"/probe", "ask", name}}
		if name == "readiness" {
			p.ProbeHandler = corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/" + name}}
			p.HTTPGet.Port.IntVal = int32(port)
		}
	}
	if l := c.Lifecycle; l != nil && l.PreStop != nil {
		l.PreStop.Exec.Command = preStopHook
	}
	if l := c.Lifecycle; l != nil && l.PostStart != nil {
		l.PostStart.Exec.Command = postStartHook
	}
}

// find a container of a pod.
func find(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// foresee prepares what a command of the script will need: what fails later must be wrong from the beginning.
func (h *history) foresee(p *corev1.Pod, command []string) {
	h.Helper()
	switch {
	case len(command) == 4 && command[0] == "exit" && command[3] == "reason=OOMKilled":
		find(p, command[1]).Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	case len(command) == 2 && command[0] == "reject" && command[1] == "OutOfcpu":
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000")}
	case len(command) == 3 && command[0] == "evict" && h.static:
		seconds, _ := strconv.ParseInt(command[1], 10, 64)
		p.Spec.TerminationGracePeriodSeconds = &seconds
	case len(command) == 3 && command[0] == "evict":
		limit := resource.MustParse("1Mi")
		p.Spec.Volumes = []corev1.Volume{{Name: "deck", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "deck", MountPath: "/deck"}}
	case len(command) == 4 && command[0] == "fault" && command[1] == "pod":
		h.causes["pod"] = h.noVolume(p)
	case len(command) == 4 && command[0] == "fault" && h.causes[command[1]] == nil:
		h.causes[command[1]] = h.spoil(find(p, command[1]), command[2])
	}
}

// spoil makes the container fail to start with that reason.
func (h *history) spoil(c *corev1.Container, reason string) *cause {
	h.Helper()
	switch {
	case c == nil:
	case reason == "ErrImagePull":
		return h.noRegistry(c)
	case reason == "ErrImageNeverPull":
		c.Image, c.ImagePullPolicy = "localhost/skiff/nowhere:v1", corev1.PullNever
		return &cause{image: c.Image}
	case reason == "InvalidImageName":
		c.Image = "Not An Image"
		return &cause{image: c.Image}
	case reason == "CreateContainerConfigError":
		ref := corev1.ConfigMapKeySelector{LocalObjectReference: missing, Key: "key"}
		c.Env = []corev1.EnvVar{{Name: "FROM", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &ref}}}
		return &cause{cure: h.supply}
	case reason == "RunContainerError":
		c.Command = []string{"/nowhere"}
		return &cause{}
	}
	h.Fatalf("fault %s cannot be made to happen", reason)
	return nil
}

// missing is a ConfigMap that is not there before supply has made it.
var missing = corev1.LocalObjectReference{Name: "missing"}

func (h *history) supply() {
	h.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: missing.Name}, Data: map[string]string{"key": "value"}}
	if _, err := h.n.client.CoreV1().ConfigMaps(h.ns).Create(context.Background(), m, metav1.CreateOptions{}); err != nil {
		h.Fatal(err)
	}
}

// noVolume gives the pod a volume that cannot be made.
func (h *history) noVolume(p *corev1.Pod) *cause {
	p.Spec.Volumes = []corev1.Volume{{Name: "hold", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: missing}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "hold", MountPath: "/hold"}}
	return &cause{cure: h.supply}
}

// noRegistry gives the container an image of a registry that does not run. The cure is to start it.
func (h *history) noRegistry(c *corev1.Container) *cause {
	h.Helper()
	catalog, err := images.Catalog(filepath.Join(h.n.h.BinDir, "images"))
	if err != nil {
		h.Fatal(err)
	}
	registry, err := images.Serve("127.0.0.1:0")
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { registry.Close() })
	ref, err := registry.Push("skiff/probe", "v1", catalog[images.Probe])
	if err != nil {
		h.Fatal(err)
	}
	c.Image = ref
	return &cause{image: ref, cure: func() {
		h.Helper()
		err := h.n.h.InNetwork(func() error { // the same address, on the host's loopback
			l, err := net.Listen("tcp", registry.Addr)
			if err == nil {
				registry.Also(l)
			}
			return err
		})
		if err != nil {
			h.Fatal(err)
		}
	}}
}

// cure lets the container start that could not.
func (h *history) cure(name string) {
	h.Helper()
	if c := h.causes[name]; c != nil && c.cure != nil {
		c.cure()
		c.cure = nil
	}
}

// pulling tells which container an image is pulled for.
func (h *history) pulling(image string) string {
	for name, c := range h.causes {
		if c.image == image {
			return name
		}
	}
	return "?"
}
