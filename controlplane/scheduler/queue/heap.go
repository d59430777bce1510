package queue

// byPriority is a heap of entries: the most important first, then the longest waiting.
type byPriority []*entry

func (h byPriority) Len() int { return len(h) }

func (h byPriority) Less(i, j int) bool {
	if h[i].pod.Priority != h[j].pod.Priority {
		return h[i].pod.Priority > h[j].pod.Priority
	}
	return h[i].order < h[j].order
}

func (h byPriority) Swap(i, j int) { swap(h, i, j) }
func (h *byPriority) Push(x any)   { push((*[]*entry)(h), x.(*entry)) }
func (h *byPriority) Pop() any     { return pop((*[]*entry)(h)) }

// byTime is a heap of entries: the one whose time is over first comes first.
type byTime []*entry

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h byTime) Swap(i, j int)      { swap(h, i, j) }
func (h *byTime) Push(x any)        { push((*[]*entry)(h), x.(*entry)) }
func (h *byTime) Pop() any          { return pop((*[]*entry)(h)) }

func swap(h []*entry, i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func push(h *[]*entry, e *entry) {
	e.index = len(*h)
	*h = append(*h, e)
}

func pop(h *[]*entry) *entry {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
