package scheduler

import (
	"log/slog"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// stores reads what decisions need beside nodes and pods. A store that is not in sync yet looks empty; the change
// that fills it wakes whom it may help.
type stores struct {
	cluster  *snapshot.Cluster
	claims   corelisters.PersistentVolumeClaimLister
	volumes  corelisters.PersistentVolumeLister
	classes  storagelisters.StorageClassLister
	services corelisters.ServiceLister
	replicas appslisters.ReplicaSetLister
	stateful appslisters.StatefulSetLister
	pdbs     policylisters.PodDisruptionBudgetLister
}

func newStores(f informers.SharedInformerFactory, cluster *snapshot.Cluster) stores {
	return stores{
		cluster:  cluster,
		claims:   f.Core().V1().PersistentVolumeClaims().Lister(),
		volumes:  f.Core().V1().PersistentVolumes().Lister(),
		classes:  f.Storage().V1().StorageClasses().Lister(),
		services: f.Core().V1().Services().Lister(),
		replicas: f.Apps().V1().ReplicaSets().Lister(),
		stateful: f.Apps().V1().StatefulSets().Lister(),
		pdbs:     f.Policy().V1().PodDisruptionBudgets().Lister(),
	}
}

// Listers of caches fail only with "not found", for which nil stands here.

func (s stores) Claim(namespace, name string) *v1.PersistentVolumeClaim {
	claim, err := s.claims.PersistentVolumeClaims(namespace).Get(name)
	if err != nil {
		return nil
	}
	return claim
}

func (s stores) Volume(name string) *v1.PersistentVolume {
	pv, err := s.volumes.Get(name)
	if err != nil {
		return nil
	}
	return pv
}

func (s stores) Class(name string) *storagev1.StorageClass {
	class, err := s.classes.Get(name)
	if err != nil {
		return nil
	}
	return class
}

// ClaimUsers walks over all pods; only claims that one pod alone may use need it.
func (s stores) ClaimUsers(namespace, name string) int {
	users := 0
	for _, n := range s.cluster.Nodes() {
		for _, p := range n.Pods() {
			if p.Object.Namespace == namespace && uses(p.Object, name) {
				users++
			}
		}
	}
	return users
}

func uses(p *v1.Pod, claim string) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim ||
			v.Ephemeral != nil && ephemeral.VolumeClaimName(p, v) == claim {
			return true
		}
	}
	return false
}

func (s stores) budgets() []*policyv1.PodDisruptionBudget {
	budgets, err := s.pdbs.List(labels.Everything())
	if err != nil {
		slog.Error("scheduler: list disruption budgets", "err", err)
	}
	return budgets
}

// siblings selects the pods that serve with the pod: those of the Services that it belongs to, narrowed by the
// selector of its owner.
func (s stores) siblings(p *v1.Pod) labels.Selector {
	wanted := labels.Set{}
	services, err := s.services.Services(p.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, svc := range services {
		of := labels.Set(svc.Spec.Selector)
		if len(of) > 0 && of.AsSelectorPreValidated().Matches(labels.Set(p.Labels)) {
			wanted = labels.Merge(wanted, of)
		}
	}
	selector := wanted.AsSelector()
	if own := s.ownerSelector(p); own != nil {
		if requirements, ok := own.Requirements(); ok {
			selector = selector.Add(requirements...)
		}
	}
	return selector
}

func (s stores) ownerSelector(p *v1.Pod) labels.Selector {
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil || owner.APIVersion != "apps/v1" {
		return nil
	}
	var of *metav1.LabelSelector
	switch owner.Kind {
	case "ReplicaSet":
		if rs, err := s.replicas.ReplicaSets(p.Namespace).Get(owner.Name); err == nil {
			of = rs.Spec.Selector
		}
	case "StatefulSet":
		if ss, err := s.stateful.StatefulSets(p.Namespace).Get(owner.Name); err == nil {
			of = ss.Spec.Selector
		}
	}
	if of == nil {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(of)
	if err != nil {
		return nil
	}
	return selector
}
