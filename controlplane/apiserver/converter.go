package apiserver

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/skiff-node/skiff/controlplane/apiserver/rules"
)

// lazyConverter reads the schema of server-side apply on the first write that needs it: that takes 90 ms.
//
// To tell who manages which field, each update compares the object with what it was. Upstream's converter first holds both to the
// schema, which takes as long as the comparison. Objects of Go types cannot break it but in one way, which the comparison
// finds as well: an element of a list that is a map has no key. So only what clients apply is held to the schema.
type lazyConverter struct {
	once   sync.Once
	real   managedfields.TypeConverter
	shapes sync.Map // of shape, by schema.GroupVersionKind
}

// shape is the type of a kind in the schema.
type shape struct {
	schema *smdschema.Schema
	ref    smdschema.TypeRef
}

func (c *lazyConverter) get() managedfields.TypeConverter {
	c.once.Do(func() { c.real = applyconfigurations.NewTypeConverter(rules.Scheme()) })
	return c.real
}

// ObjectToTyped implements managedfields.TypeConverter. What is only ever posted (a Binding, a review) has no schema for
// server-side apply; its type is deduced, or each such request would log an error.
func (c *lazyConverter) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	kind := o.GetObjectKind().GroupVersionKind()
	if s, ok := c.shapes.Load(kind); ok && compared(o, opts) {
		return s.(shape).of(o)
	}
	v, err := c.get().ObjectToTyped(o, opts...)
	if err != nil && strings.Contains(err.Error(), "no type found matching") {
		return managedfields.NewDeducedTypeConverter().ObjectToTyped(o, opts...)
	}
	if err == nil && kind != (schema.GroupVersionKind{}) {
		c.shapes.LoadOrStore(kind, shape{v.Schema(), v.TypeRef()})
	}
	return v, err
}

// compared tells whether an object of a Go type is to be compared with another: those may have duplicates, others not.
func compared(o runtime.Object, opts []typed.ValidationOptions) bool {
	_, loose := o.(runtime.Unstructured)
	return !loose && len(opts) == 1 && opts[0] == typed.AllowDuplicates
}

// of is the object as one of this type.
func (s shape) of(o runtime.Object) (*typed.TypedValue, error) {
	v, err := value.NewValueReflect(o)
	if err != nil {
		return nil, fmt.Errorf("look into %T: %w", o, err)
	}
	//lint:ignore SA1019 deprecated because holding objects to a schema was thought to have become cheap
	return typed.AsTypedUnvalidated(v, s.schema, s.ref), nil
}

// TypedToObject implements managedfields.TypeConverter.
func (c *lazyConverter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	return c.get().TypedToObject(v)
}
