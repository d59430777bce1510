package rules

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// kindREST serves one kind.
type kindREST struct {
	*registry.Store
	short, category []string
}

// ShortNames implements rest.ShortNamesProvider.
func (r *kindREST) ShortNames() []string { return r.short }

// Categories implements rest.CategoriesProvider.
func (r *kindREST) Categories() []string { return r.category }

// subresource serves reading and updating one part of a kind, such as its status.
type subresource struct {
	store *registry.Store
}

// newSubresource shares everything with the store but the rules of an update.
func newSubresource(s *registry.Store, rules rest.RESTUpdateStrategy) *subresource {
	c := *s
	c.UpdateStrategy = rules
	c.ResetFieldsStrategy = nil
	if reset, ok := rules.(rest.ResetFieldsStrategy); ok {
		c.ResetFieldsStrategy = reset
	}
	return &subresource{store: &c}
}

// New implements rest.Storage.
func (r *subresource) New() runtime.Object { return r.store.New() }

// Destroy implements rest.Storage; the store is the kind's.
func (r *subresource) Destroy() {}

// Get implements rest.Getter.
func (r *subresource) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, o)
}

// Update implements rest.Updater. A subresource never creates its object.
func (r *subresource) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, create, update, false, o)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (r *subresource) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// ConvertToTable implements rest.TableConvertor.
func (r *subresource) ConvertToTable(ctx context.Context, o, opts runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, o, opts)
}
