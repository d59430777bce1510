package networktest

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sort"
	"sync"

	"github.com/skiff-node/skiff/network"
)

var _ network.Service = (*Fake)(nil)

// Fake is a network.Service in memory. It keeps state, gives addresses of the ranges it was told, and refuses
// wrong use: attaching in a namespace that does not exist, or a sandbox that is attached already.
type Fake struct {
	mu         sync.Mutex
	cidrs      []netip.Prefix
	next       netip.Addr
	namespaces map[string]bool           // by path
	attached   map[string]network.Result // by sandbox id
	sandboxes  map[string]network.Sandbox
	notReady   error
	failures   []error
}

// NewFake makes a fake that gives addresses of the ranges; 10.88.0.0/16 when there are none.
func NewFake(cidrs ...netip.Prefix) *Fake {
	if len(cidrs) == 0 {
		cidrs = []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16")}
	}
	return &Fake{
		cidrs: cidrs, namespaces: map[string]bool{},
		attached: map[string]network.Result{}, sandboxes: map[string]network.Sandbox{},
	}
}

// SetNotReady makes Status and Attach fail with an error that wraps network.ErrNotReady and names the reason;
// an empty reason makes the network ready again.
func (f *Fake) SetNotReady(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notReady = nil
	if reason != "" {
		f.notReady = fmt.Errorf("%w: %s", network.ErrNotReady, reason)
	}
}

// FailNext makes the next call that changes something fail with err, once.
func (f *Fake) FailNext(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = append(f.failures, err)
}

// Attached returns the ids of the attached sandboxes in order.
func (f *Fake) Attached() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sortedKeys(f.attached)
}

// Namespaces returns the paths of the pinned namespaces in order.
func (f *Fake) Namespaces() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sortedKeys(f.namespaces)
}

// Sandbox returns what the attached sandbox was attached with.
func (f *Fake) Sandbox(id string) (network.Sandbox, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.sandboxes[id]
	return s, ok
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// fail returns the error that was ordered, or the context's.
func (f *Fake) fail(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(f.failures) == 0 {
		return nil
	}
	err := f.failures[0]
	f.failures = f.failures[1:]
	return err
}

// NewNamespace implements network.Service. The path exists in the fake only.
func (f *Fake) NewNamespace(ctx context.Context, sandboxID string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(ctx); err != nil {
		return "", err
	}
	if sandboxID == "" {
		return "", fmt.Errorf("network namespace: sandbox id is empty")
	}
	path := filepath.Join("/run/fake/ns", sandboxID+"-net")
	f.namespaces[path] = true
	return path, nil
}

// AdoptNamespace implements network.Service.
func (f *Fake) AdoptNamespace(ctx context.Context, sandboxID, file string) (string, error) {
	if file == "" {
		return "", fmt.Errorf("network namespace: there is no file to adopt")
	}
	return f.NewNamespace(ctx, sandboxID)
}

// RemoveNamespace implements network.Service.
func (f *Fake) RemoveNamespace(ctx context.Context, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(ctx); err != nil {
		return err
	}
	delete(f.namespaces, path)
	return nil
}

// Attach implements network.Service.
func (f *Fake) Attach(ctx context.Context, s network.Sandbox) (network.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(ctx); err != nil {
		return network.Result{}, err
	}
	if f.notReady != nil {
		return network.Result{}, f.notReady
	}
	if !f.namespaces[s.NetNS] {
		return network.Result{}, fmt.Errorf("attach sandbox %s: there is no network namespace %q", s.ID, s.NetNS)
	}
	if _, ok := f.attached[s.ID]; ok {
		return network.Result{}, fmt.Errorf("attach sandbox %s: it is attached already", s.ID)
	}
	ip, err := f.pick()
	if err != nil {
		return network.Result{}, fmt.Errorf("attach sandbox %s: %w", s.ID, err)
	}
	b := ip.As4()
	r := network.Result{
		IPs: []netip.Addr{ip}, Interface: "eth0", MAC: fmt.Sprintf("0a:58:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3]),
	}
	f.attached[s.ID], f.sandboxes[s.ID] = r, s
	return r, nil
}

// pick goes through the first range from where it stopped, around its end once.
func (f *Fake) pick() (netip.Addr, error) {
	if len(f.cidrs) == 0 {
		return netip.Addr{}, fmt.Errorf("%w: no pod range", network.ErrNotReady)
	}
	p := f.cidrs[0]
	used := map[netip.Addr]bool{p.Addr(): true, p.Addr().Next(): true}
	for _, r := range f.attached {
		used[r.IPs[0]] = true
	}
	if !p.Contains(f.next) {
		f.next = p.Addr()
	}
	for a, wrapped := f.next, false; !wrapped || a != f.next; a = a.Next() {
		if !p.Contains(a.Next()) { // a is the broadcast address
			a, wrapped = p.Addr(), true
			continue
		}
		if !used[a] {
			f.next = a.Next()
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: %s", network.ErrExhausted, p)
}

// Detach implements network.Service.
func (f *Fake) Detach(ctx context.Context, s network.Sandbox) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(ctx); err != nil {
		return err
	}
	delete(f.attached, s.ID)
	delete(f.sandboxes, s.ID)
	return nil
}

// Retain implements network.Service.
func (f *Fake) Retain(ctx context.Context, live []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(ctx); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, id := range live {
		keep[id] = true
	}
	for id, s := range f.sandboxes {
		if !keep[id] {
			delete(f.attached, id)
			delete(f.sandboxes, id)
			delete(f.namespaces, s.NetNS)
		}
	}
	for path := range f.namespaces {
		id := filepath.Base(path)
		if !keep[id[:len(id)-len("-net")]] {
			delete(f.namespaces, path)
		}
	}
	return nil
}

// Status implements network.Service.
func (f *Fake) Status(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.notReady == nil && len(f.cidrs) == 0 {
		return fmt.Errorf("%w: no pod range", network.ErrNotReady)
	}
	return f.notReady
}

// SetPodCIDRs implements network.Service.
func (f *Fake) SetPodCIDRs(ctx context.Context, cidrs []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(ctx); err != nil {
		return err
	}
	f.cidrs = cidrs
	return nil
}
