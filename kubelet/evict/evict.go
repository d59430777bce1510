// Package evict decides when a node is short of a resource that cannot be throttled (memory, disk, process ids), what it
// says about itself then, and which pod has to go.
//
// The decision is pure: Decide takes the former state, what was measured and the pods, and returns the new state and at most
// one victim per look. Rules, signals, ranking and words are upstream's (Node-pressure Eviction in the Kubernetes
// documentation; pkg/kubelet/eviction):
//
//   - a hard threshold acts at once, a soft one after its grace period; the node says that it is short as soon as either is met;
//   - before a pod goes for want of disk, dead containers that nobody needs do and images that nobody uses, if they lie on the
//     file system that is full;
//   - pods that use more than they requested go first, then those of lower priority, then those furthest above their
//     requests, of disk by what they have on the file system that is full; static, mirror and system-critical pods never go;
//   - the node's condition stays for a transition period after the last shortage, so that it does not flap.
package evict

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that runs short.
type Signal string

// The signals.
const (
	Memory       Signal = "memory.available"
	NodeFs       Signal = "nodefs.available"
	NodeFsInodes Signal = "nodefs.inodesFree"
	ImageFs      Signal = "imagefs.available"
	ImageInodes  Signal = "imagefs.inodesFree"
	PIDs         Signal = "pid.available"
)

// signals in the order in which shortages are dealt with: memory first.
func signals() []Signal { return []Signal{Memory, NodeFs, NodeFsInodes, ImageFs, ImageInodes, PIDs} }

// followed are signals of the file system of containers' layers, which is that of the node or that of the images: upstream knows them,
// and lets the thresholds of those count, whatever is set.
const followed = "containerfs."

// Value is a measured signal.
type Value struct{ Available, Capacity int64 }

// Threshold is when a signal counts as short.
type Threshold struct {
	Signal Signal
	// Quantity in the signal's unit, or Percent of the capacity when Quantity is 0.
	Quantity int64
	Percent  float64
	// Grace is how long a soft threshold must be met before it acts; 0 for a hard one.
	Grace time.Duration
	// Reclaim is how far above the threshold the signal must rise before the shortage is over.
	Reclaim int64
}

// Of is the threshold's value for that capacity.
func (t Threshold) Of(capacity int64) int64 {
	if t.Quantity != 0 {
		return t.Quantity
	}
	return int64(float64(capacity) * t.Percent / 100)
}

// Defaults are upstream's hard thresholds.
func Defaults() map[string]string {
	return map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%",
		"imagefs.available": "15%", "imagefs.inodesFree": "5%"}
}

// Settings are the fields of a KubeletConfiguration about eviction.
type Settings struct {
	Hard, Soft, SoftGrace, MinimumReclaim map[string]string
}

// Parse reads thresholds: hard ones, then soft ones. Quantities are like "100Mi" or "10%"; "0%" and "100%" are no thresholds.
func Parse(s Settings) ([]Threshold, error) {
	var out []Threshold
	for _, group := range []struct {
		field string
		list  map[string]string
		soft  bool
	}{{"evictionHard", s.Hard, false}, {"evictionSoft", s.Soft, true}} {
		for _, name := range slices.Sorted(maps.Keys(group.list)) {
			if text := group.list[name]; strings.HasPrefix(name, followed) || text == "0%" || text == "100%" {
				continue // upstream's way to have no threshold for a signal
			}
			t, err := parse(name, group.list[name])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", group.field, err)
			}
			if group.soft {
				t.Grace, err = time.ParseDuration(s.SoftGrace[name])
			}
			if err != nil || group.soft && t.Grace <= 0 {
				return nil, fmt.Errorf("evictionSoft: %s needs a grace period: set evictionSoftGracePeriod for it", name)
			}
			if t.Reclaim, err = reclaim(s.MinimumReclaim[name]); err != nil {
				return nil, fmt.Errorf("evictionMinimumReclaim: %s: %w", name, err)
			}
			out = append(out, t)
		}
	}
	return out, nil
}

func reclaim(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	q, err := resource.ParseQuantity(text)
	return q.Value(), err
}

func parse(name, text string) (Threshold, error) {
	t := Threshold{Signal: Signal(name)}
	if !slices.Contains(signals(), t.Signal) {
		return t, fmt.Errorf("signal %q is not known", name)
	}
	if number, ok := strings.CutSuffix(text, "%"); ok {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || p < 0 || p > 100 {
			return t, fmt.Errorf("%s: %q is not a percentage between 0 and 100", name, text)
		}
		t.Percent = p
		return t, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() <= 0 {
		return t, fmt.Errorf("%s: %q is not a quantity above zero", name, text)
	}
	t.Quantity = q.Value()
	return t, nil
}

// State is what is remembered between looks.
type State struct {
	// Since is when a threshold was first met, by its place in the list of thresholds.
	Since map[int]time.Time
	// Seen is when a shortage of a condition was seen last.
	Seen map[Condition]time.Time
}

// Condition is what the node says of itself.
type Condition string

// The conditions.
const (
	MemoryPressure Condition = "MemoryPressure"
	DiskPressure   Condition = "DiskPressure"
	PIDPressure    Condition = "PIDPressure"
)

func conditionOf(s Signal) Condition {
	switch s {
	case Memory:
		return MemoryPressure
	case PIDs:
		return PIDPressure
	}
	return DiskPressure
}

// Verdict is the outcome of a look.
type Verdict struct {
	State State
	// Pressure lists the node's conditions that are true.
	Pressure map[Condition]bool
	// Act is the shortage to act on now, nil for none.
	Act *Shortage
}

// Shortage is a threshold that is met and whose time has come.
type Shortage struct {
	Threshold Threshold
	Value     Value
}

// Assess compares what was measured with the thresholds. transition is how long a condition outlives its shortage.
func Assess(old State, thresholds []Threshold, measured map[Signal]Value, transition time.Duration, now time.Time) Verdict {
	v := Verdict{State: State{Since: map[int]time.Time{}, Seen: maps.Clone(old.Seen)}, Pressure: map[Condition]bool{}}
	if v.State.Seen == nil {
		v.State.Seen = map[Condition]time.Time{}
	}
	for i, t := range thresholds {
		value, ok := measured[t.Signal]
		if !ok {
			continue
		}
		since, before := old.Since[i]
		limit := t.Of(value.Capacity)
		if before {
			limit += t.Reclaim
		} else {
			since = now
		}
		if value.Available >= limit {
			continue
		}
		v.State.Since[i] = since
		v.State.Seen[conditionOf(t.Signal)] = now // at once, so that no more pods come
		if now.Sub(since) < t.Grace {
			continue
		}
		if v.Act == nil || sooner(t.Signal, v.Act.Threshold.Signal) {
			v.Act = &Shortage{t, value}
		}
	}
	for c, seen := range v.State.Seen {
		if now.Sub(seen) < transition || seen.Equal(now) {
			v.Pressure[c] = true
		} else {
			delete(v.State.Seen, c)
		}
	}
	return v
}

// short tells whether any threshold is met, or not yet left behind by what is to be reclaimed.
func short(thresholds []Threshold, measured map[Signal]Value) bool {
	return slices.ContainsFunc(thresholds, func(t Threshold) bool {
		value, ok := measured[t.Signal]
		return ok && value.Available < t.Of(value.Capacity)+t.Reclaim
	})
}

// sooner orders signals by which is dealt with first.
func sooner(a, b Signal) bool { return slices.Index(signals(), a) < slices.Index(signals(), b) }
