package apiserver

import (
	"cmp"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/skiff-node/skiff/controlplane/apiserver/rules"
)

// TestConverterComparesAsUpstream: of random objects of every kind, with duplicates and without keys, what has changed is the same as by
// upstream's converter, and what upstream refuses to compare is refused.
func TestConverterComparesAsUpstream(t *testing.T) {
	upstream := applyconfigurations.NewTypeConverter(rules.Scheme())
	ours := &lazyConverter{real: upstream}
	ours.once.Do(func() {})
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), rules.Codecs()).NumElements(0, 2).NilChance(0.3)
	kinds, compared, refused := 0, 0, 0
	for _, kind := range slices.SortedFunc(maps.Keys(rules.Scheme().AllKnownTypes()), byName) { // the same objects each time
		random := func() runtime.Object {
			o, err := rules.Scheme().New(kind)
			if err != nil {
				t.Fatal(err)
			}
			fill.Fill(o)
			o.GetObjectKind().SetGroupVersionKind(kind)
			return o
		}
		if kind.Version == runtime.APIVersionInternal || !known(t, upstream, kind) {
			continue
		}
		kinds++
		for range 6 {
			before, after := random(), random()
			want, wantErr := compare(upstream, before, after)
			got, err := compare(ours, before, after)
			switch {
			case (wantErr == nil) != (err == nil):
				t.Fatalf("%s: %v, upstream: %v", kind, err, wantErr)
			case err != nil:
				refused++
			case got.String() != want.String():
				t.Fatalf("%s: %s\nupstream: %s", kind, got, want)
			default:
				compared++
			}
		}
	}
	if t.Logf("%d kinds, %d comparisons, %d refused", kinds, compared, refused); kinds < 50 || compared == 0 || refused == 0 {
		t.Error("too little was compared")
	}
}

func byName(a, b schema.GroupVersionKind) int { return cmp.Compare(a.String(), b.String()) }

// known tells whether a kind is in upstream's schema.
func known(t *testing.T, c managedfields.TypeConverter, kind schema.GroupVersionKind) bool {
	t.Helper()
	o, err := rules.Scheme().New(kind)
	if err != nil {
		t.Fatal(err)
	}
	o.GetObjectKind().SetGroupVersionKind(kind)
	_, err = c.ObjectToTyped(o)
	return err == nil || !strings.Contains(err.Error(), "no type found matching")
}

// compare does what the library does at each update.
func compare(c managedfields.TypeConverter, before, after runtime.Object) (*typed.Comparison, error) {
	b, err := c.ObjectToTyped(before, typed.AllowDuplicates)
	if err != nil {
		return nil, err
	}
	a, err := c.ObjectToTyped(after, typed.AllowDuplicates)
	if err != nil {
		return nil, err
	}
	return b.Compare(a)
}
