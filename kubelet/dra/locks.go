package dra

import (
	"context"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// locks are one lock per claim, made when somebody wants it.
type locks struct {
	mu   sync.Mutex
	held map[types.UID]*lock
}

type lock struct {
	token chan struct{} // capacity 1; whoever has put something in holds the lock
	users int           // who holds it or waits for it
}

// take locks the claims, in one order for everybody, and returns what unlocks them. It gives up when ctx ends.
func (l *locks) take(ctx context.Context, claims []types.UID) (unlock func(), err error) {
	order := slices.Compact(slices.Sorted(slices.Values(claims)))
	var taken []types.UID
	unlock = func() {
		for _, uid := range taken {
			l.leave(uid, true)
		}
	}
	for _, uid := range order {
		select {
		case l.enter(uid) <- struct{}{}:
			taken = append(taken, uid)
		case <-ctx.Done():
			l.leave(uid, false)
			unlock()
			return nil, ctx.Err()
		}
	}
	return unlock, nil
}

func (l *locks) enter(uid types.UID) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[uid]
	if k == nil {
		k = &lock{token: make(chan struct{}, 1)}
		l.held[uid] = k
	}
	k.users++
	return k.token
}

func (l *locks) leave(uid types.UID, locked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[uid]
	if locked {
		<-k.token
	}
	if k.users--; k.users == 0 {
		delete(l.held, uid)
	}
}
