package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxNames is how many names of an image a status has at most, as upstream.
const maxNames = 5

// Observed is what changes between two looks.
type Observed struct {
	Capacity, Allocatable v1.ResourceList
	// Runtime is the answer to CRI Status, nil when there was none; RuntimeVersion is "name://version".
	Runtime        *runtimeapi.StatusResponse
	RuntimeVersion string
	Images         []*runtimeapi.Image
	Problems       []error
	Pressure       Pressure
	VolumesInUse   []v1.UniqueVolumeName
}

// observe asks the runtime and everybody else. A runtime that does not answer is an observation, not an error.
func (m *Manager) observe(ctx context.Context) Observed {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	o := Observed{Problems: m.cfg.Problems(), Pressure: m.cfg.Pressure()}
	o.Capacity, o.Allocatable = resources(m.cfg.Capacity, m.facts)
	if m.cfg.VolumesInUse != nil {
		o.VolumesInUse = m.cfg.VolumesInUse()
		slices.Sort(o.VolumesInUse)
	}
	status, err := m.cfg.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		m.cfg.Log.Debug("the container runtime gave no status", "err", err)
		return o
	}
	o.Runtime = status
	if v, err := m.cfg.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err == nil {
		o.RuntimeVersion = v.RuntimeName + "://" + v.RuntimeVersion
	}
	if l, err := m.cfg.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{}); err == nil {
		o.Images = largest(l.Images, m.cfg.MaxImages)
	}
	return o
}

// Compute is the status that follows from the former one and what was observed. Conditions and fields of other writers
// stay as they are.
func Compute(old v1.NodeStatus, id Identity, facts Facts, o Observed, now time.Time) v1.NodeStatus {
	s := *old.DeepCopy()
	s.Capacity, s.Allocatable = foreign(old.Capacity, o.Capacity), foreign(old.Allocatable, o.Allocatable)
	s.Addresses = addresses(id, old.Addresses)
	s.DaemonEndpoints.KubeletEndpoint.Port = id.Port
	runtime := s.NodeInfo.ContainerRuntimeVersion
	if o.RuntimeVersion != "" {
		runtime = o.RuntimeVersion
	}
	s.NodeInfo = facts.Info
	s.NodeInfo.ContainerRuntimeVersion = runtime
	s.NodeInfo.KubeletVersion = id.KubeletVersion
	s.VolumesInUse = o.VolumesInUse
	if o.Images != nil {
		s.Images = images(o.Images)
	}
	if o.Runtime != nil {
		s.RuntimeHandlers = handlers(o.Runtime.RuntimeHandlers)
		if f := o.Runtime.Features; f != nil {
			s.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: &f.SupplementalGroupsPolicy}
		}
	}
	for _, c := range conditions(o) {
		s.Conditions = setCondition(s.Conditions, c, metav1.NewTime(now))
	}
	return s
}

// foreign adds to ours the extended resources that others advertise in old; their names have a domain.
func foreign(old, ours v1.ResourceList) v1.ResourceList {
	all := ours.DeepCopy()
	for name, q := range old {
		if _, ok := all[name]; !ok && isExtended(name) {
			all[name] = q
		}
	}
	return all
}

// addresses are the node's own, until a cloud controller manager has set those it knows.
func addresses(id Identity, old []v1.NodeAddress) []v1.NodeAddress {
	ips := id.IPs
	if id.ExternalCloud {
		if len(old) > 0 {
			return old
		}
		if len(id.GivenIPs) == 0 {
			ips = nil
		}
	}
	var list []v1.NodeAddress
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil {
			list = append(list, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a.String()})
		}
	}
	return append(list, v1.NodeAddress{Type: v1.NodeHostName, Address: id.Hostname})
}

// largest gives the largest images, at most that many; all when most is negative.
func largest(list []*runtimeapi.Image, most int) []*runtimeapi.Image {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *runtimeapi.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Id, b.Id))
	})
	if most < 0 || most > len(list) {
		return list
	}
	return list[:most]
}

// images lists images, each with its digests and tags.
func images(list []*runtimeapi.Image) []v1.ContainerImage {
	var out []v1.ContainerImage
	for _, img := range list {
		names := slices.Concat(img.RepoDigests, img.RepoTags)
		if len(names) == 0 {
			continue // unnamed layers of nothing: the scheduler could not use them
		}
		out = append(out, v1.ContainerImage{Names: names[:min(len(names), maxNames)], SizeBytes: int64(img.Size)})
	}
	return out
}

func handlers(list []*runtimeapi.RuntimeHandler) []v1.NodeRuntimeHandler {
	var out []v1.NodeRuntimeHandler
	for _, h := range list {
		n := v1.NodeRuntimeHandler{Name: h.Name}
		if f := h.Features; f != nil {
			n.Features = &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &f.RecursiveReadOnlyMounts, UserNamespaces: &f.UserNamespaces}
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b v1.NodeRuntimeHandler) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// conditions are those of the kubelet, Ready last. Their reasons and messages are upstream's.
func conditions(o Observed) []v1.NodeCondition {
	pick := func(kind v1.NodeConditionType, pressed bool, yes, no [2]string) v1.NodeCondition {
		if pressed {
			return v1.NodeCondition{Type: kind, Status: v1.ConditionTrue, Reason: yes[0], Message: yes[1]}
		}
		return v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: no[0], Message: no[1]}
	}
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if errs := append(runtimeProblems(o.Runtime), o.Problems...); len(errs) > 0 {
		ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "KubeletNotReady", utilerrors.NewAggregate(errs).Error()
	}
	return []v1.NodeCondition{
		pick(v1.NodeMemoryPressure, o.Pressure.Memory,
			[2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
			[2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"}),
		pick(v1.NodeDiskPressure, o.Pressure.Disk,
			[2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"},
			[2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"}),
		pick(v1.NodePIDPressure, o.Pressure.PID,
			[2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
			[2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"}),
		ready,
	}
}

func runtimeProblems(r *runtimeapi.StatusResponse) []error {
	if r == nil || r.Status == nil {
		return []error{fmt.Errorf("container runtime is down")}
	}
	var errs []error
	for _, want := range []struct{ kind, text string }{
		{runtimeapi.RuntimeReady, "container runtime not ready"},
		{runtimeapi.NetworkReady, "container runtime network not ready"},
	} {
		i := slices.IndexFunc(r.Status.Conditions, func(c *runtimeapi.RuntimeCondition) bool { return c.Type == want.kind })
		if i < 0 {
			errs = append(errs, fmt.Errorf("%s: the runtime does not report %s", want.text, want.kind))
		} else if c := r.Status.Conditions[i]; !c.Status {
			errs = append(errs, fmt.Errorf("%s: %s=%t reason:%s message:%s", want.text, c.Type, c.Status, c.Reason, c.Message))
		}
	}
	return errs
}

// setCondition replaces the condition of the same type; its transition time moves only with its status.
func setCondition(list []v1.NodeCondition, c v1.NodeCondition, now metav1.Time) []v1.NodeCondition {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	if old := condition(list, c.Type); old != nil {
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return list
	}
	return append(list, c)
}

func condition(list []v1.NodeCondition, kind v1.NodeConditionType) *v1.NodeCondition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

// changed reports whether two statuses differ by more than heartbeat times.
func changed(a, b v1.NodeStatus) bool {
	strip := func(s v1.NodeStatus) v1.NodeStatus {
		s = *s.DeepCopy()
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
			s.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		return s
	}
	return !equality.Semantic.DeepEqual(strip(a), strip(b))
}

// announce records the events of conditions that changed and of a new boot, with upstream's reasons.
func (m *Manager) announce(old, next *v1.Node) {
	if was, is := old.Status.NodeInfo.BootID, next.Status.NodeInfo.BootID; was != "" && was != is {
		m.cfg.Event(v1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", next.Name, is))
	}
	for _, c := range next.Status.Conditions {
		before := condition(old.Status.Conditions, c.Type)
		if before != nil && before.Status == c.Status {
			continue
		}
		reason := "Node" + c.Reason[min(len("Kubelet"), len(c.Reason)):]
		if c.Type == v1.NodeReady && c.Status == v1.ConditionTrue {
			m.cfg.Metrics.Ready()
		}
		if c.Type == v1.NodeReady && c.Status == v1.ConditionFalse {
			m.cfg.Log.Warn("the node is not ready", "why", c.Message)
		}
		m.cfg.Event(v1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", next.Name, reason))
	}
}
