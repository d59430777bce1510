// Package table holds the objects of one kind: in memory for reading, each with its record on disk, which is written
// before memory changes. An object's phase moves by its state machine only.
package table

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/store"
)

// Record is what a table holds. It is a value: WithPhase returns a copy.
type Record[R any] interface {
	Key() string
	At() lifecycle.Phase
	WithPhase(lifecycle.Phase) R
}

// Table is all objects of one kind.
type Table[R Record[R]] struct {
	kind    string
	machine lifecycle.Machine
	records *store.Dir[R]

	mu      sync.RWMutex // guards the map, not the objects
	objects map[string]*Object[R]
}

// Object is one object. The gate lets one operation change it at a time; the record may be read at any time.
type Object[R any] struct {
	Ended chan struct{} // for those that have a process: closed when it has ended
	gate  chan struct{}

	mu  sync.Mutex
	rec R
}

// Open makes the directory of records; Load reads them.
func Open[R Record[R]](dir, kind string, machine lifecycle.Machine) (*Table[R], error) {
	records, err := store.Open[R](dir)
	if err != nil {
		return nil, err
	}
	return &Table[R]{kind: kind, machine: machine, records: records, objects: map[string]*Object[R]{}}, nil
}

// Load reads all records. Torn ones are deleted and returned by id.
func (t *Table[R]) Load() (torn map[string]error, err error) {
	records, torn, err := t.records.Load()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, rec := range records {
		t.objects[id] = newObject(rec)
	}
	return torn, nil
}

func newObject[R any](rec R) *Object[R] {
	return &Object[R]{gate: make(chan struct{}, 1), Ended: make(chan struct{}), rec: rec}
}

// Record is a copy. What it points to is never changed in place.
func (o *Object[R]) Record() R {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.rec
}

// Set changes memory only: the next change that is saved carries it.
func (o *Object[R]) Set(edit func(*R)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	edit(&o.rec)
}

// Enter waits until no other operation is under way on the object; Leave ends one's own.
func (o *Object[R]) Enter(ctx context.Context) error {
	select {
	case o.gate <- struct{}{}:
		return nil
	default:
	}
	_, done := runtimeservice.Step(ctx, "wait for another call on the same object")
	defer done(nil)
	select {
	case o.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another operation on the same object: %w", ctx.Err())
	}
}

// TryEnter enters unless another operation is under way.
func (o *Object[R]) TryEnter() bool {
	select {
	case o.gate <- struct{}{}:
		return true
	default:
		return false
	}
}

// Leave is described with Enter.
func (o *Object[R]) Leave() { <-o.gate }

// Add enters a new object, its gate taken, unless rival finds one that stands in its way: that one is returned
// instead, or rival's error.
func (t *Table[R]) Add(rec R, rival func(other R) (bool, error)) (o *Object[R], found bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.objects {
		if same, err := rival(o.Record()); same || err != nil {
			return o, same, err
		}
	}
	o = newObject(rec)
	o.gate <- struct{}{}
	t.objects[rec.Key()] = o
	return o, false, nil
}

// Find looks an object up by id or unique prefix.
func (t *Table[R]) Find(id string) (*Object[R], error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if o, ok := t.objects[id]; ok {
		return o, nil
	}
	var found []*Object[R]
	for full, o := range t.objects {
		if id != "" && strings.HasPrefix(full, id) {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("%s %q: %w", t.kind, id, runtimeservice.ErrNotFound)
	}
	return nil, fmt.Errorf("%w: %s %q: %d ids begin so", runtimeservice.ErrInvalid, t.kind, id, len(found))
}

// All is a copy of the list, in no order.
func (t *Table[R]) All() []*Object[R] {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*Object[R], 0, len(t.objects))
	for _, o := range t.objects {
		out = append(out, o)
	}
	return out
}

// Save writes the record as it is.
func (t *Table[R]) Save(o *Object[R]) error {
	rec := o.Record()
	return t.records.Save(rec.Key(), rec)
}

// Change edits the record, on disk first.
func (t *Table[R]) Change(o *Object[R], edit func(*R) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	rec := o.rec
	if err := edit(&rec); err != nil {
		return err
	}
	if err := t.records.Save(rec.Key(), rec); err != nil {
		return err
	}
	o.rec = rec
	return nil
}

// Move takes the object to its next phase. The edit, which may be nil, is told the phase before.
func (t *Table[R]) Move(o *Object[R], e lifecycle.Event, edit func(r *R, before lifecycle.Phase)) error {
	return t.Change(o, func(r *R) error {
		before := (*r).At()
		next, err := t.machine.Next(before, e)
		if err != nil {
			return fmt.Errorf("%s %s: %w: %w", t.kind, (*r).Key(), runtimeservice.ErrState, err)
		}
		*r = (*r).WithPhase(next)
		if edit != nil {
			edit(r, before)
		}
		return nil
	})
}

// Drop forgets the object and deletes its record.
func (t *Table[R]) Drop(o *Object[R]) error {
	id := o.Record().Key()
	if err := t.records.Delete(id); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.objects, id)
	return nil
}
