package runtime

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// settled are statuses of one pod's that stay as they are while the lists say the same state: of a sandbox that is ready, of
// containers that run or have exited.
type settled struct {
	sandboxes  map[string]pod.Sandbox
	containers map[string]pod.Container
}

// Observe lists what the runtime has of one pod: sandboxes and containers, newest first.
func (r *Runtime) Observe(ctx context.Context, uid types.UID) ([]pod.Sandbox, []pod.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	selector := map[string]string{spec.LabelPodUID: string(uid)}
	boxes, err := r.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, nil, fmt.Errorf("list sandboxes: %w", err)
	}
	conts, err := r.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	r.mu.Lock()
	look := observer{r, r.known[uid], settled{map[string]pod.Sandbox{}, map[string]pod.Container{}}}
	r.mu.Unlock()
	sandboxes, err := look.sandboxes(ctx, boxes.Items)
	if err != nil {
		return nil, nil, err
	}
	containers, err := look.containers(ctx, conts.Containers)
	if err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[uid] = look.now; len(boxes.Items)+len(conts.Containers) == 0 {
		delete(r.known, uid)
	}
	return sandboxes, containers, nil
}

// observer looks at one pod: known is what has been settled before, now what is.
type observer struct {
	*Runtime
	known, now settled
}

func (r observer) sandboxes(ctx context.Context, items []*cri.PodSandbox) ([]pod.Sandbox, error) {
	sort.Slice(items, func(i, j int) bool {
		if items[i].CreatedAt != items[j].CreatedAt {
			return items[i].CreatedAt > items[j].CreatedAt
		}
		return items[i].Metadata.GetAttempt() > items[j].Metadata.GetAttempt()
	})
	list := make([]pod.Sandbox, 0, len(items))
	for i, item := range items {
		s := pod.Sandbox{ID: item.Id, Ready: item.State == cri.PodSandboxState_SANDBOX_READY,
			Attempt: item.Metadata.GetAttempt(), CreatedAt: time.Unix(0, item.CreatedAt)}
		if i > 0 {
			list = append(list, s)
			continue
		}
		s, err := r.sandbox(ctx, s)
		if notFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("status of sandbox %s: %w", item.Id, err)
		}
		list = append(list, s)
	}
	return list, nil
}

// sandbox completes what the list says, from memory when the sandbox is still ready.
func (r observer) sandbox(ctx context.Context, s pod.Sandbox) (pod.Sandbox, error) {
	if old, ok := r.known.sandboxes[s.ID]; ok && s.Ready {
		r.now.sandboxes[s.ID] = old
		return old, nil
	}
	resp, err := r.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.ID})
	if err != nil {
		return s, err
	}
	st := resp.Status
	s.Ready = st.State == cri.PodSandboxState_SANDBOX_READY
	s.HostNetwork = st.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE
	s.IPs = ips(st.Network)
	if s.Ready && (s.HostNetwork || len(s.IPs) > 0) {
		r.now.sandboxes[s.ID] = s
	}
	return s, nil
}

func ips(n *cri.PodSandboxNetworkStatus) []string {
	if n.GetIp() == "" {
		return nil
	}
	list := []string{n.Ip}
	for _, ip := range n.AdditionalIps {
		list = append(list, ip.Ip)
	}
	return list
}

func (r observer) containers(ctx context.Context, items []*cri.Container) ([]pod.Container, error) {
	sort.Slice(items, func(i, j int) bool { return items[i].CreatedAt > items[j].CreatedAt })
	list := make([]pod.Container, 0, len(items))
	for _, item := range items {
		c, err := r.container(ctx, item)
		if notFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("status of container %s: %w", item.Id, err)
		}
		list = append(list, c)
	}
	return list, nil
}

// container reads one status, from memory when the container still runs, or had exited.
func (r observer) container(ctx context.Context, item *cri.Container) (pod.Container, error) {
	if old, ok := r.known.containers[item.Id]; ok && (old.State == pod.Exited || old.State == state(item.State)) {
		r.now.containers[item.Id] = old
		return old, nil
	}
	resp, err := r.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: item.Id})
	if err != nil {
		return pod.Container{}, err
	}
	c := convert(resp.Status)
	c.SandboxID = item.PodSandboxId
	if c.State == pod.Exited {
		c.Message = lastWords(ctx, resp.Status, c.Message)
	}
	if c.State == pod.Exited || c.State == pod.Running {
		r.now.containers[c.ID] = c
	}
	return c, nil
}

func convert(st *cri.ContainerStatus) pod.Container {
	c := pod.Container{
		ID: st.Id, Name: st.Labels[spec.LabelContainer], Image: st.GetImage().GetImage(), ImageID: st.ImageRef,
		CreatedAt: time.Unix(0, st.CreatedAt), State: state(st.State), User: user(st.User),
	}
	if c.Name == "" {
		c.Name = st.GetMetadata().GetName()
	}
	if h, err := strconv.ParseUint(st.Annotations[spec.AnnotationHash], 16, 64); err == nil {
		c.Hash = h
	}
	c.Restarts = int(st.GetMetadata().GetAttempt())
	if n, err := strconv.Atoi(st.Annotations[spec.AnnotationRestarts]); err == nil {
		c.Restarts = n
	}
	if st.StartedAt > 0 {
		c.StartedAt = time.Unix(0, st.StartedAt)
	}
	if c.State == pod.Exited {
		c.FinishedAt, c.ExitCode = time.Unix(0, st.FinishedAt), st.ExitCode
		c.Reason, c.Message = st.Reason, st.Message
	}
	return c
}

func state(s cri.ContainerState) pod.State {
	switch s {
	case cri.ContainerState_CONTAINER_CREATED:
		return pod.Created
	case cri.ContainerState_CONTAINER_RUNNING:
		return pod.Running
	case cri.ContainerState_CONTAINER_EXITED:
		return pod.Exited
	}
	return pod.Unknown
}

func user(u *cri.ContainerUser) *v1.ContainerUser {
	if u.GetLinux() == nil {
		return nil
	}
	return &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: u.Linux.Uid, GID: u.Linux.Gid, SupplementalGroups: u.Linux.SupplementalGroups}}
}

// Limits of a termination message: of the file, and of the log when that is taken instead.
const (
	maxWords     = 4096
	maxLogWords  = 2048
	maxLogLines  = 80
	maxLogTail   = 256 << 10
	notRunReason = "ContainerCannotRun"
)

// lastWords is the termination message of a container that has exited, behind what the runtime says.
func lastWords(ctx context.Context, st *cri.ContainerStatus, said string) string {
	path, fallback := spec.TerminationMessage(st.Annotations)
	words := ""
	for _, m := range st.Mounts {
		if path == "" || m.ContainerPath != path {
			continue
		}
		raw, err := readTail(m.HostPath, maxWords)
		if err != nil && !os.IsNotExist(err) {
			words = fmt.Sprintf("Error on reading termination log %s: %v", m.HostPath, err)
		}
		if err == nil {
			words = string(raw)
		}
	}
	if words == "" && fallback && st.ExitCode != 0 && st.Reason != notRunReason {
		words = logTail(ctx, st.LogPath)
	}
	if words != "" && said != "" {
		return said + ": " + words
	}
	return said + words
}

// Pod is a pod the runtime has something of.
type Pod struct {
	UID             types.UID
	Name, Namespace string
	// Fingerprint changes whenever a sandbox or container of the pod changes its state.
	Fingerprint string
	// Running tells whether a sandbox is ready or a container runs.
	Running bool
	// Rebuilt is what stopping the pod takes, from the labels of one of its containers.
	Rebuilt *v1.Pod
}

// Rebuilt lists all pods that the runtime has something of, as far as it takes to stop them.
func Rebuilt(ctx context.Context, r *Runtime) ([]*v1.Pod, error) {
	found, err := r.Pods(ctx)
	list := make([]*v1.Pod, 0, len(found))
	for _, p := range found {
		list = append(list, p.Rebuilt)
	}
	return list, err
}

// Pods lists all pods that the runtime has something of.
func (r *Runtime) Pods(ctx context.Context) (map[types.UID]*Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	boxes, err := r.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	conts, err := r.runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	pods := map[types.UID]*Pod{}
	var marks []mark
	for _, b := range boxes.Items {
		p := podOf(pods, b.Labels, nil)
		if p == nil {
			continue
		}
		p.Running = p.Running || b.State == cri.PodSandboxState_SANDBOX_READY
		marks = append(marks, mark{p, b.Id + ":" + strconv.Itoa(int(b.State))})
	}
	for _, c := range conts.Containers {
		p := podOf(pods, c.Labels, c.Annotations)
		if p == nil {
			continue
		}
		p.Running = p.Running || c.State == cri.ContainerState_CONTAINER_RUNNING
		marks = append(marks, mark{p, c.Id + ":" + strconv.Itoa(int(c.State))})
	}
	sort.Slice(marks, func(i, j int) bool { return marks[i].text < marks[j].text })
	for _, m := range marks {
		m.pod.Fingerprint += m.text + " "
	}
	return pods, nil
}

// Fingerprints gives, by pod, a string that changes whenever one of its sandboxes or containers changes its state.
func (r *Runtime) Fingerprints(ctx context.Context) (map[types.UID]string, error) {
	pods, err := r.Pods(ctx)
	marks := map[types.UID]string{}
	for uid, p := range pods {
		marks[uid] = p.Fingerprint
	}
	return marks, err
}

type mark struct {
	pod  *Pod
	text string
}

// podOf finds or adds the pod that the labels tell of; nil when they tell of none.
func podOf(pods map[types.UID]*Pod, labels, annotations map[string]string) *Pod {
	uid := types.UID(labels[spec.LabelPodUID])
	if uid == "" {
		return nil
	}
	p := pods[uid]
	if p == nil {
		p = &Pod{UID: uid, Name: labels[spec.LabelPodName], Namespace: labels[spec.LabelNamespace]}
		p.Rebuilt = &v1.Pod{}
		p.Rebuilt.Name, p.Rebuilt.Namespace, p.Rebuilt.UID = p.Name, p.Namespace, uid
		pods[uid] = p
	}
	if annotations == nil {
		return p
	}
	if restored, err := spec.Restored(labels, annotations); err == nil {
		restored.Spec.Containers = append(p.Rebuilt.Spec.Containers, restored.Spec.Containers...)
		p.Rebuilt = restored
	}
	return p
}
