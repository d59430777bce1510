package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/component-helpers/apimachinery/lease"
	nodeutil "k8s.io/component-helpers/node/util"
	"k8s.io/utils/clock"
)

// What passes between a kubelet and the cloud controller manager (k8s.io/cloud-provider/api).
const (
	taintUninitialized   = "node.cloudprovider.kubernetes.io/uninitialized"
	annotationProvidedIP = "alpha.kubernetes.io/provided-node-ip"
)

// annotationAttach lets the controller of the cluster attach volumes to the node.
const annotationAttach = "volumes.kubernetes.io/controller-managed-attach-detach"

// register creates the Node or takes over the one that exists. It tries until it succeeds or ctx ends, and reports which.
func (m *Manager) register(ctx context.Context) bool {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 7*time.Second) {
		err := m.tryRegister(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		m.cfg.Log.Warn("the node could not be registered; trying again", "node", m.cfg.Identity.Name, "err", err, "after", pause)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (m *Manager) tryRegister(ctx context.Context) error {
	m.cfg.Metrics.Registering()
	want := m.initial(ctx)
	api := m.cfg.Client.CoreV1().Nodes()
	got, err := api.Create(ctx, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return m.adopt(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("create Node %q: %w", want.Name, err)
	}
	m.cfg.Metrics.Registered()
	m.node.Store(got)
	if !changed(got.Status, want.Status) { // else the server keeps status apart, and the first sync sends it
		m.reported = time.Now()
	}
	m.announce(&v1.Node{}, want)
	m.cfg.Log.Info("registered the node", "node", want.Name)
	return nil
}

// adopt makes the labels and annotations of the Node that exists what they should be; its status follows with the first sync. Only what a
// former machine of that name offered by device plugins is taken back before anything else is scheduled for it.
func (m *Manager) adopt(ctx context.Context, want *v1.Node) error {
	api := m.cfg.Client.CoreV1()
	got, err := api.Nodes().Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get Node %q: %w", want.Name, err)
	}
	if metadata := corrections(want, got); len(metadata) > 0 {
		patch, err := json.Marshal(map[string]any{"metadata": metadata})
		if err != nil {
			return err
		}
		if got, err = api.Nodes().Patch(ctx, want.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("set the labels of Node %q: %w", want.Name, err)
		}
	}
	if next := withoutDevices(got); m.cfg.Capacity.Anew() && !equality.Semantic.DeepEqual(got.Status, next.Status) {
		m.cfg.Log.Info("the devices of the machine that had this name before are taken back", "node", got.Name)
		if got, _, err = nodeutil.PatchNodeStatus(api, types.NodeName(got.Name), got, next); err != nil {
			return fmt.Errorf("take back the devices of Node %q: %w", want.Name, err)
		}
	}
	m.node.Store(got)
	m.cfg.Log.Info("the node was registered before", "node", want.Name)
	return nil
}

// withoutDevices is the Node with none of its extended resources left.
func withoutDevices(n *v1.Node) *v1.Node {
	n = n.DeepCopy()
	for _, list := range []v1.ResourceList{n.Status.Capacity, n.Status.Allocatable} {
		for name := range list {
			if isExtended(name) {
				list[name] = *resource.NewQuantity(0, resource.DecimalSI)
			}
		}
	}
	return n
}

// corrections are what to change of the metadata that a former kubelet left.
func corrections(want, got *v1.Node) map[string]any {
	metadata := map[string]any{}
	if d := missing(want.Labels, got.Labels); len(d) > 0 {
		metadata["labels"] = d
	}
	d := missing(want.Annotations, got.Annotations)
	_, wanted := want.Annotations[annotationAttach]
	if _, has := got.Annotations[annotationAttach]; has && !wanted {
		d[annotationAttach] = nil // away with it
	}
	if len(d) > 0 {
		metadata["annotations"] = d
	}
	return metadata
}

// missing is what of want is not in have.
func missing(want, have map[string]string) map[string]any {
	d := map[string]any{}
	for k, v := range want {
		if old, ok := have[k]; !ok || old != v {
			d[k] = v
		}
	}
	return d
}

// initial is the Node as it registers.
func (m *Manager) initial(ctx context.Context) *v1.Node {
	n := introduced(m.cfg.Identity)
	n.Status = Compute(n.Status, m.cfg.Identity, m.facts, m.observe(ctx), time.Now())
	return n
}

// introduced is the part of it that says who the node is.
func introduced(id Identity) *v1.Node {
	labels := map[string]string{
		v1.LabelHostname:          id.Hostname,
		v1.LabelOSStable:          goruntime.GOOS,
		v1.LabelArchStable:        goruntime.GOARCH,
		"beta.kubernetes.io/os":   goruntime.GOOS,
		"beta.kubernetes.io/arch": goruntime.GOARCH,
	}
	maps.Copy(labels, id.Labels)
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: id.Name, Labels: labels, Annotations: map[string]string{}},
		Spec:       v1.NodeSpec{Taints: slices.Clone(id.Taints), ProviderID: id.ProviderID, Unschedulable: id.Unschedulable},
	}
	if !id.Unattached {
		n.Annotations[annotationAttach] = "true"
	}
	if id.ExternalCloud {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: taintUninitialized, Value: "true", Effect: v1.TaintEffectNoSchedule})
		if len(id.GivenIPs) > 0 {
			n.Annotations[annotationProvidedIP] = strings.Join(id.GivenIPs, ",")
		}
	}
	return n
}

// renewLease keeps the node's lease in kube-node-lease until ctx ends. The Node owns the lease, so that it goes with it.
func (m *Manager) renewLease(ctx context.Context) {
	own := func(l *coordv1.Lease) error {
		n := m.node.Load()
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
		return nil
	}
	period := time.Duration(m.cfg.LeaseSeconds) * time.Second / 4
	lease.NewController(clock.RealClock{}, m.cfg.Client, m.cfg.Identity.Name, m.cfg.LeaseSeconds, m.Wake, period,
		m.cfg.Identity.Name, v1.NamespaceNodeLease, own).Run(ctx)
}

// watch follows the own Node until ctx ends.
func (m *Manager) watch(ctx context.Context) {
	for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 10*time.Second) {
		began := time.Now()
		err := m.watchOnce(ctx)
		if time.Since(began) > time.Second {
			pause = 50 * time.Millisecond
		}
		if err != nil && ctx.Err() == nil {
			m.cfg.Log.Debug("the watch of the own Node broke; watching again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (m *Manager) watchOnce(ctx context.Context) error {
	api := m.cfg.Client.CoreV1().Nodes()
	only := fields.OneTermEqualSelector("metadata.name", m.cfg.Identity.Name).String()
	list, err := api.List(ctx, metav1.ListOptions{FieldSelector: only})
	if err != nil {
		return err
	}
	for i := range list.Items {
		m.saw(&list.Items[i])
	}
	stream, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: only, ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	defer stream.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, open := <-stream.ResultChan():
			if !open {
				return nil
			}
			if ev.Type == watch.Error {
				return apierrors.FromObject(ev.Object)
			}
			n, ok := ev.Object.(*v1.Node)
			if ok && (ev.Type == watch.Added || ev.Type == watch.Modified) {
				m.saw(n)
			}
		}
	}
}

// saw stores a version of the own Node and wakes Run when its pod ranges are news.
func (m *Manager) saw(n *v1.Node) {
	if n.Name != m.cfg.Identity.Name {
		return
	}
	old := m.node.Swap(n)
	if old == nil || !slices.Equal(old.Spec.PodCIDRs, n.Spec.PodCIDRs) {
		m.Wake()
	}
}

// handOn tells the pod ranges to whoever needs them, once per change.
func (m *Manager) handOn(ctx context.Context) error {
	cidrs := m.node.Load().Spec.PodCIDRs
	if m.cfg.PodCIDRs == nil || len(cidrs) == 0 || slices.Equal(cidrs, m.applied) {
		return nil
	}
	if err := m.cfg.PodCIDRs(ctx, cidrs); err != nil {
		return err
	}
	m.applied = slices.Clone(cidrs)
	return nil
}
