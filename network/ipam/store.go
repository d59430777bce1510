// Package ipam gives each sandbox its addresses, and remembers whose they are.
//
// The decisions are Pool's, in memory. Store adds the journal: an address is written down before Allocate
// returns it, so before any interface has it. The journal is only ever appended to, without fsync: a killed
// process loses nothing that it wrote, and after a loss of power no sandbox is left whose address mattered. When
// most of it is history it is rewritten by rename.
package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// compactAt is the size in bytes from which on a journal is rewritten when it has doubled.
const compactAt = 64 << 10

// Config says where a Store keeps its journal and what it gives out.
type Config struct {
	Path string    // required: the journal; beside it lies a lock file
	Sets [][]Range // each holder gets one address of each set
	Wait bool      // wait for another process that has the journal open, instead of failing
}

// Store is a journaled set of pools. It is safe for concurrent use; one process at a time has it open.
type Store struct {
	mu    sync.Mutex
	path  string
	lock  *os.File
	file  *os.File
	size  int64 // bytes in the journal
	base  int64 // size after the last rewrite
	pools []*Pool
	alien map[string][]netip.Addr // held addresses of no set there is now
}

// ErrInUse is returned by Open when another process has the journal open.
var ErrInUse = errors.New("address journal is in use by another process")

// Open reads the journal, or starts it.
func Open(cfg Config) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o755); err != nil {
		return nil, fmt.Errorf("create the directory of the address journal: %w", err)
	}
	s := &Store{path: cfg.Path, alien: map[string][]netip.Addr{}}
	if err := s.acquire(cfg.Wait); err != nil {
		return nil, err
	}
	if err := s.load(cfg.Sets); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) acquire(wait bool) error {
	lock, err := os.OpenFile(s.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the address journal: %w", err)
	}
	if err := flock(lock, wait); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%w: %s", ErrInUse, s.path)
		}
		return fmt.Errorf("lock the address journal: %w", err)
	}
	s.lock = lock
	return nil
}

// patience is how long Open waits for the lock of a process that was killed a moment ago: the kernel closes its
// files one after the other.
const patience = 500 * time.Millisecond

func flock(f *os.File, wait bool) error {
	if wait {
		return unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
	}
}

// load replays the journal into pools of the sets.
func (s *Store) load(sets [][]Range) error {
	for _, ranges := range sets {
		p, err := NewPool(ranges)
		if err != nil {
			return err
		}
		s.pools = append(s.pools, p)
	}
	data, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the address journal: %w", err)
	}
	records, bad, err := parse(data)
	if err != nil {
		return fmt.Errorf("address journal %s: %w; with no sandbox on this node it can be deleted", s.path, err)
	}
	for _, r := range records {
		s.replay(r)
	}
	if len(data) == 0 || bad > 0 {
		return s.rewrite()
	}
	return s.open(int64(len(data)))
}

// open opens the journal, whose size is known, for appending.
func (s *Store) open(size int64) error {
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the address journal: %w", err)
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.size, s.base = f, size, size
	return nil
}

// replay brings one record into memory. A record that contradicts an earlier one (two holders of one address,
// possible only in a damaged journal) is left out: Retain gives back what no sandbox has.
func (s *Store) replay(r record) {
	switch r.op {
	case opHold:
		s.hold(r.key, r.addrs)
	case opDrop:
		s.drop(r.key)
	case opRest:
		for _, p := range s.pools {
			p.restAll(r.addrs)
		}
	}
}

// hold puts each address into the pool it belongs to. What belongs to none is kept aside: the sets may change
// while sandboxes live.
func (s *Store) hold(key string, addrs []netip.Addr) {
	for _, a := range addrs {
		if !s.put(key, a) {
			s.alien[key] = append(s.alien[key], a)
		}
	}
}

func (s *Store) put(key string, a netip.Addr) bool {
	for _, p := range s.pools {
		if _, ok := p.Range(a); ok {
			_ = p.Put(key, a) // refused only as described at replay
			return true
		}
	}
	return false
}

func (s *Store) drop(key string) bool {
	_, dropped := s.alien[key]
	delete(s.alien, key)
	for _, p := range s.pools {
		dropped = p.Drop(key) || dropped
	}
	return dropped
}

// Get returns the addresses that the key holds.
func (s *Store) Get(key string) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(key)
}

func (s *Store) get(key string) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range s.pools {
		if a, ok := p.Get(key); ok {
			addrs = append(addrs, a)
		}
	}
	return append(addrs, s.alien[key]...)
}

// Allocate gives the key one address of each set, and the same ones each time until Release. A wanted address
// that lies in a set and is free is given instead of the next one. The error wraps network.ErrExhausted when a
// set has none left.
func (s *Store) Allocate(key string, want ...netip.Addr) ([]netip.Addr, error) {
	if key == "" || strings.ContainsAny(key, " \n") {
		return nil, fmt.Errorf("allocate an address: %q cannot be a holder's key", key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if held := s.get(key); len(held) > 0 {
		return held, nil
	}
	var addrs []netip.Addr
	for _, p := range s.pools {
		a, err := pick(p, key, want)
		if err != nil {
			s.drop(key)
			return nil, fmt.Errorf("allocate an address: %w", err)
		}
		addrs = append(addrs, a)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("allocate an address: the node has no address range yet")
	}
	if err := s.append(record{op: opHold, key: key, addrs: addrs}); err != nil {
		s.drop(key)
		return nil, err
	}
	return addrs, nil
}

// pick takes a wanted address of the pool, or else the next.
func pick(p *Pool, key string, want []netip.Addr) (netip.Addr, error) {
	for _, a := range want {
		if _, ok := p.Range(a); ok {
			return a, p.Put(key, a)
		}
	}
	a, err := p.Pick(key)
	if err != nil {
		return a, err
	}
	return a, p.Put(key, a)
}

// Release gives the key's addresses back. Releasing what is not held succeeds.
func (s *Store) Release(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.release(key)
}

func (s *Store) release(key string) error {
	if !s.drop(key) {
		return nil
	}
	return s.append(record{op: opDrop, key: key})
}

// Retain gives back the addresses of every key that keep does not want, and returns those keys.
func (s *Store) Retain(keep func(key string) bool) (released []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.holders() {
		if keep(key) {
			continue
		}
		if err := s.release(key); err != nil {
			return released, err
		}
		released = append(released, key)
	}
	sort.Strings(released)
	return released, nil
}

// Holders returns who holds which addresses.
func (s *Store) Holders() map[string][]netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holders()
}

func (s *Store) holders() map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for _, p := range s.pools {
		for k, a := range p.Holders() {
			all[k] = append(all[k], a)
		}
	}
	for k, addrs := range s.alien {
		all[k] = append(all[k], addrs...)
	}
	return all
}

// Range returns the range that the address belongs to.
func (s *Store) Range(a netip.Addr) (Range, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pools {
		if r, ok := p.Range(a); ok {
			return r, true
		}
	}
	return Range{}, false
}

// SetSets changes what is given out. Who holds an address keeps it.
func (s *Store) SetSets(sets [][]Range) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var pools []*Pool
	for i, ranges := range sets {
		p, err := NewPool(ranges)
		if err != nil {
			return err
		}
		if i < len(s.pools) {
			p.restAll(s.pools[i].Resting())
		}
		pools = append(pools, p)
	}
	held := s.holders()
	s.pools, s.alien = pools, map[string][]netip.Addr{}
	for key, addrs := range held {
		s.hold(key, addrs)
	}
	return nil
}

// append writes one record. A write that fails part way is cut off again, so that no later record is glued to it.
func (s *Store) append(r record) error {
	line := r.encode()
	if _, err := s.file.Write(line); err != nil {
		return errors.Join(fmt.Errorf("write the address journal: %w", err), s.file.Truncate(s.size))
	}
	s.size += int64(len(line))
	if s.size > compactAt && s.size > 2*s.base {
		return s.rewrite()
	}
	return nil
}

// rewrite replaces the journal by the shortest one that says the same.
func (s *Store) rewrite() error {
	var b bytes.Buffer
	b.WriteString(header)
	for _, p := range s.pools {
		for _, a := range p.Resting() {
			b.Write(record{op: opRest, key: "-", addrs: []netip.Addr{a}}.encode())
		}
	}
	for key, addrs := range s.holders() {
		b.Write(record{op: opHold, key: key, addrs: addrs}.encode())
	}
	tmp := s.path + ".new"
	if err := os.WriteFile(tmp, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("rewrite the address journal: %w", err)
	}
	if err := os.Rename(tmp, s.path); err != nil {
		return fmt.Errorf("rewrite the address journal: %w", err)
	}
	return s.open(int64(b.Len()))
}

// Close ends the use of the journal, and lets another process open it.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, f := range []*os.File{s.file, s.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	s.file, s.lock = nil, nil
	return errors.Join(errs...)
}
