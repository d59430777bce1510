package ipam

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"net/netip"

	"github.com/skiff-node/skiff/network"
)

// maxSize bounds how many addresses of one range are used: what is beyond, in a large IPv6 subnet, is never given.
const maxSize = 1 << 20

// Range is a run of addresses of one subnet. Start and End, both inclusive, default to the first and last
// address that a host may have; Gateway defaults to the first such address and is never given to a sandbox.
type Range struct {
	Subnet  netip.Prefix
	Start   netip.Addr
	End     netip.Addr
	Gateway netip.Addr
}

// Normalize checks the range and fills in the defaults.
func (r Range) Normalize() (Range, error) {
	if !r.Subnet.IsValid() {
		return r, fmt.Errorf("range: subnet is missing or malformed")
	}
	r.Subnet = r.Subnet.Masked()
	if r.Subnet.Addr().BitLen()-r.Subnet.Bits() < 2 {
		return r, fmt.Errorf("range: subnet %s is too small: it needs at least four addresses", r.Subnet)
	}
	first := r.Subnet.Addr().Next()
	if !r.Gateway.IsValid() {
		r.Gateway = first
	}
	if !r.Start.IsValid() {
		r.Start = first
	}
	if !r.End.IsValid() {
		r.End = last(r.Subnet)
	}
	for name, a := range map[string]netip.Addr{"rangeStart": r.Start, "rangeEnd": r.End} {
		if !r.Subnet.Contains(a) {
			return r, fmt.Errorf("range: %s %s is outside of subnet %s", name, a, r.Subnet)
		}
	}
	if r.End.Less(r.Start) {
		return r, fmt.Errorf("range: rangeEnd %s is before rangeStart %s", r.End, r.Start)
	}
	return r, nil
}

// last is the last address of the subnet that a host may have.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	if a.Is4() {
		return a.Prev() // the subnet's broadcast address
	}
	return a
}

// span is a normalized range with its place in the pool's numbering.
type span struct {
	Range
	base, size uint32
}

// distance counts the addresses from one to the other, at most maxSize-1.
func distance(from, to netip.Addr) uint32 {
	if from.Is4() && to.Is4() {
		a, b := from.As4(), to.As4()
		return min(binary.BigEndian.Uint32(b[:])-binary.BigEndian.Uint32(a[:]), maxSize-1)
	}
	a, b := new(big.Int).SetBytes(from.AsSlice()), new(big.Int).SetBytes(to.AsSlice())
	d := b.Sub(b, a)
	if !d.IsUint64() || d.Uint64() >= maxSize {
		return maxSize - 1
	}
	return uint32(d.Uint64())
}

// number returns the number of the address in the pool.
func (s span) number(a netip.Addr) (uint32, bool) {
	if a.BitLen() != s.Start.BitLen() || a.Less(s.Start) || s.End.Less(a) {
		return 0, false
	}
	d := distance(s.Start, a)
	return s.base + d, d < s.size
}

func (s span) address(n uint32) netip.Addr {
	b := s.Start.AsSlice()
	carry := uint64(n - s.base)
	for i := len(b) - 1; i >= 0 && carry > 0; i-- {
		carry += uint64(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Pool is a list of ranges from which each key gets one address. It is pure memory and knows no clock: an
// address that is given back goes to the end of a queue, and the queue is only touched when no address is left
// that was never given. So every address rests as long as the size of the ranges allows.
type Pool struct {
	spans []span
	total uint32
	held  []uint64          // bitmap by number
	fresh uint32            // numbers from here on were never given
	freed []uint32          // numbers given back, the longest ago first
	keys  map[string]uint32 // holder → number
}

// NewPool makes an empty pool of the ranges.
func NewPool(ranges []Range) (*Pool, error) {
	p := &Pool{keys: map[string]uint32{}}
	for _, r := range ranges {
		r, err := r.Normalize()
		if err != nil {
			return nil, err
		}
		s := span{Range: r, base: p.total, size: distance(r.Start, r.End) + 1}
		p.spans = append(p.spans, s)
		p.total += s.size
	}
	p.held = make([]uint64, (p.total+63)/64)
	return p, nil
}

// Get returns the address that the key holds.
func (p *Pool) Get(key string) (netip.Addr, bool) {
	n, ok := p.keys[key]
	if !ok {
		return netip.Addr{}, false
	}
	return p.address(n), true
}

// Range returns the range that holds the address.
func (p *Pool) Range(a netip.Addr) (Range, bool) {
	for _, s := range p.spans {
		if _, ok := s.number(a); ok {
			return s.Range, true
		}
	}
	return Range{}, false
}

// Pick chooses the address that the key would get next, without giving it. A key that holds one gets that.
func (p *Pool) Pick(key string) (netip.Addr, error) {
	if a, ok := p.Get(key); ok {
		return a, nil
	}
	for p.fresh < p.total {
		if n := p.fresh; p.usable(n) {
			return p.address(n), nil
		}
		p.fresh++
	}
	for len(p.freed) > 0 {
		if n := p.freed[0]; p.usable(n) {
			return p.address(n), nil
		}
		p.freed = p.freed[1:]
	}
	return netip.Addr{}, fmt.Errorf("%w: %s", network.ErrExhausted, p.describe())
}

func (p *Pool) describe() string {
	text := fmt.Sprintf("%d held", len(p.keys))
	for _, s := range p.spans {
		text += ", range " + s.Subnet.String()
	}
	if len(p.spans) == 0 {
		return "the node has no address range yet"
	}
	return text
}

func (p *Pool) usable(n uint32) bool { return !p.isHeld(n) && !p.isGateway(n) }

// Put records that the key holds the address, which must be free.
func (p *Pool) Put(key string, a netip.Addr) error {
	if old, ok := p.Get(key); ok {
		if old == a {
			return nil
		}
		return fmt.Errorf("%s already holds %s", key, old)
	}
	n, ok := p.number(a)
	if !ok {
		return fmt.Errorf("address %s is outside of the ranges", a)
	}
	if p.isHeld(n) {
		return fmt.Errorf("address %s is held by another", a)
	}
	p.unqueue(n)
	p.held[n/64] |= 1 << (n % 64)
	p.keys[key] = n
	return nil
}

// unqueue takes the number out of those that are free to give.
func (p *Pool) unqueue(n uint32) {
	if n >= p.fresh {
		for m := p.fresh; m < n; m++ {
			if p.usable(m) {
				p.freed = append(p.freed, m)
			}
		}
		p.fresh = n + 1
		return
	}
	if len(p.freed) > 0 && p.freed[0] == n {
		p.freed = p.freed[1:]
		return
	}
	for i, m := range p.freed {
		if m == n {
			p.freed = append(p.freed[:i:i], p.freed[i+1:]...)
			return
		}
	}
}

// Drop gives the key's address back, and says whether it held one.
func (p *Pool) Drop(key string) bool {
	n, ok := p.keys[key]
	if !ok {
		return false
	}
	delete(p.keys, key)
	p.held[n/64] &^= 1 << (n % 64)
	p.freed = append(p.freed, n)
	return true
}

// Rest queues an address that was given and given back, as Drop does, while a journal is replayed.
func (p *Pool) Rest(a netip.Addr) {
	if n, ok := p.number(a); ok && p.usable(n) {
		p.unqueue(n)
		p.freed = append(p.freed, n)
	}
}

func (p *Pool) restAll(addrs []netip.Addr) {
	for _, a := range addrs {
		p.Rest(a)
	}
}

// Holders returns who holds which address.
func (p *Pool) Holders() map[string]netip.Addr {
	all := make(map[string]netip.Addr, len(p.keys))
	for k, n := range p.keys {
		all[k] = p.address(n)
	}
	return all
}

// Resting returns the addresses that were given back, the longest ago first.
func (p *Pool) Resting() []netip.Addr {
	var all []netip.Addr
	for _, n := range p.freed {
		all = append(all, p.address(n))
	}
	return all
}

func (p *Pool) isHeld(n uint32) bool { return p.held[n/64]&(1<<(n%64)) != 0 }

func (p *Pool) isGateway(n uint32) bool {
	for _, s := range p.spans {
		if g, ok := s.number(s.Gateway); ok && g == n {
			return true
		}
	}
	return false
}

func (p *Pool) number(a netip.Addr) (uint32, bool) {
	for _, s := range p.spans {
		if n, ok := s.number(a); ok {
			return n, true
		}
	}
	return 0, false
}

func (p *Pool) address(n uint32) netip.Addr {
	for _, s := range p.spans {
		if n >= s.base && n-s.base < s.size {
			return s.address(n)
		}
	}
	return netip.Addr{}
}
