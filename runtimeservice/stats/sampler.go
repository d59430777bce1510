package stats

import (
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
)

// Sampler measures cgroups and keeps the last sample of each, because a rate needs two.
type Sampler struct {
	Root cgroup.Root

	mu   sync.Mutex
	last map[string]runtimeservice.Usage
}

// minSample is the shortest time between two samples that make a rate; within it the last rate is repeated.
const minSample = 500 * time.Millisecond

// Measure reads a cgroup. One without files, because nothing has run in it, has used nothing.
func (s *Sampler) Measure(path string) (runtimeservice.Usage, error) {
	now := time.Now()
	usage, err := Read(s.Root, path, now)
	if errors.Is(err, fs.ErrNotExist) {
		return runtimeservice.Usage{At: now}, nil
	}
	if err != nil {
		return usage, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]runtimeservice.Usage{}
	}
	before, ok := s.last[path]
	switch {
	case !ok:
		s.last[path] = usage
	case now.Sub(before.At) < minSample:
		usage.CPU.NanoCores = before.CPU.NanoCores
	default:
		usage.CPU.NanoCores = NanoCores(before, usage)
		s.last[path] = usage
	}
	return usage, nil
}

// Retain forgets the samples of all other cgroups.
func (s *Sampler) Retain(live map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path := range s.last {
		if !live[path] {
			delete(s.last, path)
		}
	}
}
