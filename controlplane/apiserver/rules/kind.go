package rules

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
)

// strategy is what every kind of upstream has: the rules of creation, update and deletion.
type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
	rest.RESTDeleteStrategy
}

// kind is one row of the table.
type kind struct {
	group    string
	versions []string // nil means v1 alone
	resource string   // plural, as in the path
	singular string   // "" means resource without its final s
	objects  objects
	short    []string
	category []string

	strategy strategy
	// sub maps the name of each plain subresource ("status", "approval") to the rules of its update.
	sub map[string]rest.RESTUpdateStrategy
	// scale is set for kinds with a scale subresource.
	scale *scaler

	attrs    storage.AttrFunc
	match    func(labels.Selector, fields.Selector) storage.SelectionPredicate
	triggers storage.IndexerFuncs
	indexers *cache.Indexers

	// returnDeleted answers a deletion with the object, not with a Status.
	returnDeleted bool
	// ttl is the life of an object in seconds; 0 means for ever.
	ttl uint64
	// decorate completes objects that are read.
	decorate func(runtime.Object)
}

// objects makes empty objects of a kind.
type objects struct {
	one, list func() runtime.Object
}

// of names the Go types of a kind and of its list.
func of[T, L any, PT interface {
	*T
	runtime.Object
}, PL interface {
	*L
	runtime.Object
}]() objects {
	return objects{
		one:  func() runtime.Object { return PT(new(T)) },
		list: func() runtime.Object { return PL(new(L)) },
	}
}

func (k kind) qualified() (plural, singular schema.GroupResource) {
	name := k.singular
	if name == "" {
		name = strings.TrimSuffix(k.resource, "s")
	}
	return schema.GroupResource{Group: k.group, Resource: k.resource}, schema.GroupResource{Group: k.group, Resource: name}
}

// store builds the kind's registry.Store.
func (k kind) store(getter generic.RESTOptionsGetter, table rest.TableConvertor) (*registry.Store, error) {
	plural, singular := k.qualified()
	s := &registry.Store{
		NewFunc:                   k.objects.one,
		NewListFunc:               k.objects.list,
		DefaultQualifiedResource:  plural,
		SingularQualifiedResource: singular,
		PredicateFunc:             k.match,
		CreateStrategy:            k.strategy,
		UpdateStrategy:            k.strategy,
		DeleteStrategy:            k.strategy,
		ReturnDeletedObject:       k.returnDeleted,
		TableConvertor:            table,
		Decorator:                 k.decorate,
	}
	if reset, ok := k.strategy.(rest.ResetFieldsStrategy); ok {
		s.ResetFieldsStrategy = reset
	}
	if k.ttl > 0 {
		s.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return k.ttl, nil }
	}
	err := s.CompleteWithOptions(&generic.StoreOptions{
		RESTOptions: getter, AttrFunc: k.attrs, TriggerFunc: k.triggers, Indexers: k.indexers,
	})
	if err != nil {
		return nil, fmt.Errorf("storage of %s: %w", plural, err)
	}
	return s, nil
}

// storages builds what serves the kind and its subresources, keyed as in paths: "pods", "pods/status".
func (k kind) storages(getter generic.RESTOptionsGetter, table rest.TableConvertor) (map[string]rest.Storage, error) {
	s, err := k.store(getter, table)
	if err != nil {
		return nil, err
	}
	out := map[string]rest.Storage{k.resource: &kindREST{Store: s, short: k.short, category: k.category}}
	for name, rules := range k.sub {
		out[k.resource+"/"+name] = newSubresource(s, rules)
	}
	if k.scale != nil {
		out[k.resource+"/scale"] = &scaleREST{store: s, scaler: *k.scale}
	}
	return out, nil
}
