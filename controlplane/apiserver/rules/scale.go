package rules

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	autoscalingvalidation "k8s.io/kubernetes/pkg/apis/autoscaling/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// scaler reads and writes the replicas of one kind.
type scaler struct {
	gv schema.GroupVersion
	// view returns the number wanted, the number there is, and the selector of the pods.
	view func(runtime.Object) (want, have int32, selector string, err error)
	set  func(o runtime.Object, want int32)
}

// scaleREST serves the scale subresource of a kind.
type scaleREST struct {
	store  *registry.Store
	scaler scaler
}

// New implements rest.Storage.
func (r *scaleREST) New() runtime.Object { return &autoscaling.Scale{} }

// Destroy implements rest.Storage; the store is the kind's.
func (r *scaleREST) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider: a scale is autoscaling/v1 whatever it scales.
func (r *scaleREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
}

// ConvertToTable implements rest.TableConvertor.
func (r *scaleREST) ConvertToTable(ctx context.Context, o, opts runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, o, opts)
}

// Get implements rest.Getter.
func (r *scaleREST) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.store.Get(ctx, name, o)
	if err != nil {
		return nil, err
	}
	return r.scale(obj)
}

// Update implements rest.Updater.
func (r *scaleREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	validate := func(ctx context.Context, obj, old runtime.Object) error {
		scale, err := r.scale(obj)
		if err != nil {
			return err
		}
		oldScale, err := r.scale(old)
		if err != nil {
			return err
		}
		return update(ctx, scale, oldScale)
	}
	obj, _, err := r.store.Update(ctx, name, &scaleInfo{info, r}, create, validate, false, o)
	if err != nil {
		return nil, false, err
	}
	scale, err := r.scale(obj)
	return scale, false, err
}

// scale is the view of an object as a Scale.
func (r *scaleREST) scale(o runtime.Object) (*autoscaling.Scale, error) {
	want, have, selector, err := r.scaler.view(o)
	if err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	m := o.(metav1.Object)
	return &autoscaling.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUID(),
			ResourceVersion: m.GetResourceVersion(), CreationTimestamp: m.GetCreationTimestamp(),
		},
		Spec:   autoscaling.ScaleSpec{Replicas: want},
		Status: autoscaling.ScaleStatus{Replicas: have, Selector: selector},
	}, nil
}

// scaleInfo turns the update of a Scale into the update of what it scales.
type scaleInfo struct {
	rest.UpdatedObjectInfo
	rest *scaleREST
}

// UpdatedObject implements rest.UpdatedObjectInfo.
func (i *scaleInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	s := i.rest.scaler
	obj := old.DeepCopyObject()
	m := obj.(metav1.Object)
	plural := i.rest.store.DefaultQualifiedResource
	if m.GetResourceVersion() == "" {
		return nil, errors.NewNotFound(schema.GroupResource{Group: plural.Group, Resource: plural.Resource + "/scale"}, m.GetName())
	}
	fields := managedfields.NewScaleHandler(m.GetManagedFields(), s.gv, managedfields.ResourcePathMappings{
		s.gv.String(): fieldpath.MakePathOrDie("spec", "replicas"),
	})
	oldScale, err := i.rest.scale(obj)
	if err != nil {
		return nil, err
	}
	if oldScale.ManagedFields, err = fields.ToSubresource(); err != nil {
		return nil, err
	}
	updated, err := i.UpdatedObjectInfo.UpdatedObject(ctx, oldScale)
	if err != nil {
		return nil, err
	}
	scale, ok := updated.(*autoscaling.Scale)
	if !ok {
		return nil, errors.NewBadRequest(fmt.Sprintf("expected a Scale, got %T", updated))
	}
	if errs := autoscalingvalidation.ValidateScaleUpdate(ctx, scale, oldScale, Scheme(), i.rest); len(errs) > 0 {
		return nil, errors.NewInvalid(autoscaling.Kind("Scale"), m.GetName(), errs)
	}
	if scale.UID != "" && scale.UID != m.GetUID() {
		return nil, errors.NewConflict(plural, m.GetName(), fmt.Errorf("the UID is %s, not %s as the request expects", m.GetUID(), scale.UID))
	}
	s.set(obj, scale.Spec.Replicas)
	m.SetResourceVersion(scale.ResourceVersion)
	parent, err := fields.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, err
	}
	m.SetManagedFields(parent)
	return obj, nil
}
