package numa

// Policies of the topology manager.
const (
	PolicyNone       = "none"
	PolicyBestEffort = "best-effort"
	PolicyRestricted = "restricted"
	PolicySingle     = "single-numa-node"
)

// Hint is a set of nodes that something could be had on. The empty set stands for: anywhere.
type Hint struct {
	Nodes Mask
	// Preferred sets are as small as the machine allows for so much.
	Preferred bool
}

// Hints are those of one provider, by resource. Nil hints of a resource mean that it does not matter where; hints that are
// empty, but not nil, that it cannot be had at all.
type Hints map[string][]Hint

// Collect makes the lists that Merge takes, one a resource.
func Collect(providers ...Hints) [][]Hint {
	var all [][]Hint
	for _, hints := range providers {
		if len(hints) == 0 {
			all = append(all, []Hint{{Preferred: true}})
		}
		for _, list := range hints {
			switch {
			case list == nil:
				list = []Hint{{Preferred: true}}
			case len(list) == 0:
				list = []Hint{{Preferred: false}}
			}
			all = append(all, list)
		}
	}
	return all
}

// Merger knows the machine and the policy.
type Merger struct {
	Machine Machine
	// Policy is one of the constants, but not none.
	Policy string
	// Closest prefers, among sets of one size, nodes that are near to each other (prefer-closest-numa-nodes).
	Closest bool
}

// Merge takes one hint of each list, in all combinations, and returns the best intersection. ok is false when the policy does
// not let a container in on that.
func (m Merger) Merge(lists [][]Hint) (best Hint, ok bool) {
	if m.Policy == PolicySingle {
		lists = single(lists)
	}
	all := m.Machine.All()
	ideal := widest(lists)
	best, found := Hint{Nodes: all}, false
	for c := range combine(lists, all) {
		if c.nodes == 0 {
			continue
		}
		if h := (Hint{c.nodes, c.preferred}); !found || m.better(h, best, ideal) {
			best, found = h, true
		}
	}
	if m.Policy == PolicySingle && best.Nodes == all {
		best.Nodes = 0
	}
	return best, best.Preferred || m.Policy == PolicyBestEffort
}

// single leaves only what can be had on one node, or anywhere.
func single(lists [][]Hint) [][]Hint {
	var out [][]Hint
	for _, list := range lists {
		var kept []Hint
		for _, h := range list {
			if h.Preferred && h.Nodes.Count() <= 1 {
				kept = append(kept, h)
			}
		}
		out = append(out, kept)
	}
	return out
}

// widest is the size of the set that the most demanding resource needs at least.
func widest(lists [][]Hint) int {
	most := 0
	for _, list := range lists {
		least := 0
		for _, h := range list {
			if n := h.Nodes.Count(); n > 0 && (least == 0 || n < least) {
				least = n
			}
		}
		most = max(most, least)
	}
	return most
}

// combination is one hint of each list, intersected. It is preferred when all its hints are, and are the same set: then that
// set is nodes, so that equal combinations need to be looked at only once.
type combination struct {
	nodes     Mask
	preferred bool
	anywhere  bool // no hint has named nodes yet
}

func combine(lists [][]Hint, all Mask) map[combination]bool {
	found := map[combination]bool{{all, true, true}: true}
	for _, list := range lists {
		next := map[combination]bool{}
		for c := range found {
			for _, h := range list {
				next[c.and(h)] = true
			}
		}
		found = next
	}
	return found
}

func (c combination) and(h Hint) combination {
	if h.Nodes == 0 {
		return combination{c.nodes, c.preferred && h.Preferred, c.anywhere}
	}
	same := c.anywhere || c.nodes == h.Nodes
	return combination{c.nodes & h.Nodes, c.preferred && h.Preferred && same, false}
}

// better tells whether a replaces b. Preferred hints come first. Among the others the size closest to, but not above, ideal is
// best: what the most demanding resource needs cannot be had on less.
func (m Merger) better(a, b Hint, ideal int) bool {
	if a.Preferred != b.Preferred {
		return a.Preferred
	}
	na, nb := a.Nodes.Count(), b.Nodes.Count()
	if a.Preferred || na == nb || (na > ideal && nb > ideal) {
		return m.fitter(a.Nodes, b.Nodes)
	}
	if (na > ideal) != (nb > ideal) {
		return nb > ideal
	}
	return na > nb
}

// fitter tells whether a suits better than b when both would do.
func (m Merger) fitter(a, b Mask) bool {
	if !m.Closest || m.Policy == PolicySingle || a.Count() != b.Count() {
		return a.Narrower(b)
	}
	da, db := m.Machine.distance(a), m.Machine.distance(b)
	if da == db {
		return a < b
	}
	return da < db
}
