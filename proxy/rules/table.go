package rules

import (
	"maps"
	"slices"
)

// Table is what the kernel should hold: every Service's elements. Elements may be wanted by several Services (an
// address of a node-wide set, a hairpin); where two disagree on a value the Service first by name wins, always the same.
type Table struct {
	owners map[Key]map[string]Value
}

// NewTable makes an empty table.
func NewTable() *Table { return &Table{owners: map[Key]map[string]Value{}} }

// Delta is a change of the kernel's elements. An element whose value changes is in both: the kernel refuses to add a
// key that is there with another value.
type Delta struct {
	Delete map[Key]Value // with the value that goes
	Add    map[Key]Value
}

// Empty says that nothing changes.
func (d Delta) Empty() bool { return len(d.Delete) == 0 && len(d.Add) == 0 }

// Merge adds a later delta to d.
func (d *Delta) Merge(later Delta) {
	for k, v := range later.Delete {
		if _, fresh := d.Add[k]; fresh {
			delete(d.Add, k)
			continue
		}
		d.Delete[k] = v
	}
	maps.Copy(d.Add, later.Add)
	for k, v := range d.Add {
		if old, ok := d.Delete[k]; ok && old == v {
			delete(d.Add, k)
			delete(d.Delete, k)
		}
	}
}

// NewDelta makes an empty one.
func NewDelta() Delta { return Delta{Delete: map[Key]Value{}, Add: map[Key]Value{}} }

// Replace makes objs all that owner wants and returns what changes.
func (t *Table) Replace(owner string, old, objs Objects) Delta {
	d := NewDelta()
	for k := range old {
		if _, stays := objs[k]; !stays {
			t.change(&d, k, func(m map[string]Value) { delete(m, owner) })
		}
	}
	for k, v := range objs {
		t.change(&d, k, func(m map[string]Value) { m[owner] = v })
	}
	return d
}

func (t *Table) change(d *Delta, k Key, edit func(map[string]Value)) {
	m := t.owners[k]
	before, had := winner(m)
	if m == nil {
		m = map[string]Value{}
		t.owners[k] = m
	}
	edit(m)
	after, has := winner(m)
	if len(m) == 0 {
		delete(t.owners, k)
	}
	if had && (!has || before != after) {
		d.Delete[k] = before
	}
	if has && (!had || before != after) {
		d.Add[k] = after
	}
}

func winner(m map[string]Value) (Value, bool) {
	if len(m) == 0 {
		return Value{}, false
	}
	if len(m) == 1 {
		for _, v := range m {
			return v, true
		}
	}
	return m[slices.Min(slices.Collect(maps.Keys(m)))], true
}

// All is every element that should be there.
func (t *Table) All() map[Key]Value {
	out := make(map[Key]Value, len(t.owners))
	for k, m := range t.owners {
		out[k], _ = winner(m)
	}
	return out
}
