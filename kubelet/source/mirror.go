package source

import (
	"context"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// mirror makes the mirrors in the API be those of the static pods. It returns false when it has to be tried again soon.
func (s *Source) mirror(ctx context.Context) bool {
	s.mu.Lock()
	mirrors := s.mirrors
	s.mu.Unlock()
	wanted := map[string]*v1.Pod{}
	for _, p := range s.statics {
		wanted[p.Namespace+"/"+p.Name] = p
	}
	done := true
	for name, m := range mirrors {
		p := wanted[name]
		fits := p != nil && m.Annotations[pod.AnnotationMirror] == p.Annotations[AnnotationHash] && m.DeletionTimestamp == nil
		if !fits && !s.ending(m, p) {
			done = s.deleteMirror(ctx, m) && done
		}
	}
	for name, p := range wanted {
		if mirrors[name] == nil && !s.ending(p, p) {
			done = s.createMirror(ctx, p) && done
		}
	}
	return done
}

// ending tells whether a former pod of that name is still here, and p, if any, has to wait for its end.
func (s *Source) ending(named, p *v1.Pod) bool {
	holder := s.cfg.Sink.Static(named.Namespace, named.Name)
	return holder != "" && (p == nil || p.UID != holder)
}

func (s *Source) createMirror(ctx context.Context, p *v1.Pod) bool {
	node := s.cfg.NodeUID()
	if node == "" {
		return false // the node is not registered yet
	}
	m := p.DeepCopy()
	m.UID, m.ResourceVersion = "", ""
	m.Annotations[pod.AnnotationMirror] = p.Annotations[AnnotationHash]
	controller := true
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: s.cfg.NodeName, UID: node, Controller: &controller}}
	_, err := s.cfg.Client.CoreV1().Pods(m.Namespace).Create(ctx, m, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
		s.cfg.Log.Warn("cannot create mirror pod, will be tried again", "pod", m.Namespace+"/"+m.Name, "err", err)
	}
	return err == nil
}

func (s *Source) deleteMirror(ctx context.Context, m *v1.Pod) bool {
	err := s.cfg.Client.CoreV1().Pods(m.Namespace).Delete(ctx, m.Name, deleteNow(m.UID))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		if ctx.Err() == nil {
			s.cfg.Log.Warn("cannot delete mirror pod, will be tried again", "pod", m.Namespace+"/"+m.Name, "err", err)
		}
		return false
	}
	return true
}

func deleteNow(uid types.UID) metav1.DeleteOptions {
	var grace int64
	return metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid}}
}

// Delete removes a pod from the API for good: everything of it on this node is gone. One that is gone counts as removed.
func (s *Source) Delete(ctx context.Context, p *v1.Pod) error {
	if s.cfg.Client == nil {
		return nil
	}
	err := s.cfg.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, deleteNow(p.UID))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
