package networktest

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/skiff-node/skiff/network"
)

// small is a range with five addresses for sandboxes: .0 and .7 are the subnet's, .1 is the gateway.
var small = netip.MustParsePrefix("10.99.0.0/29")

const smallSize = 5

// Suite checks that a network.Service keeps its contract. newService returns a fresh one, set up, that gives addresses
// of the ranges; what it needs to clean up it registers with t.
func Suite(t *testing.T, newService func(t *testing.T, cidrs []netip.Prefix) network.Service) {
	fresh := func(t *testing.T) *subject {
		return &subject{T: t, s: newService(t, []netip.Prefix{small})}
	}
	for name, test := range map[string]func(*subject){
		"attach gives an address":                 attachGives,
		"a namespace can be made again":           namespaceAgain,
		"detach and remove succeed when gone":     idempotent,
		"an address comes back":                   exhaustion,
		"an address rests before it is given":     rest,
		"retain gives back the rest":              retain,
		"a failed attach leaves nothing":          failedAttach,
		"changed ranges leave sandboxes be":       changedRanges,
		"detach works without the namespace":      detachWithout,
		"many sandboxes at once, one address per": concurrent,
	} {
		t.Run(name, func(t *testing.T) { test(fresh(t)) })
	}
}

type subject struct {
	*testing.T
	s network.Service
}

func (t *subject) attach(id string) (network.Sandbox, network.Result, error) {
	t.Helper()
	path, err := t.s.NewNamespace(t.Context(), id)
	if err != nil {
		t.Fatalf("NewNamespace(%s): %v", id, err)
	}
	sandbox := network.Sandbox{ID: id, Name: id, Namespace: "default", UID: id, NetNS: path}
	r, err := t.s.Attach(t.Context(), sandbox)
	return sandbox, r, err
}

func (t *subject) mustAttach(id string) (network.Sandbox, netip.Addr) {
	t.Helper()
	sandbox, r, err := t.attach(id)
	if err != nil {
		t.Fatalf("Attach(%s): %v", id, err)
	}
	if len(r.IPs) == 0 {
		t.Fatalf("Attach(%s): no address", id)
	}
	return sandbox, r.IPs[0]
}

func (t *subject) mustDetach(s network.Sandbox) {
	t.Helper()
	if err := t.s.Detach(t.Context(), s); err != nil {
		t.Fatalf("Detach(%s): %v", s.ID, err)
	}
	if err := t.s.RemoveNamespace(t.Context(), s.NetNS); err != nil {
		t.Fatalf("RemoveNamespace(%s): %v", s.NetNS, err)
	}
}

func attachGives(t *subject) {
	if err := t.s.Status(t.Context()); err != nil {
		t.Fatalf("Status: %v", err)
	}
	_, r, err := t.attach("a")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.IPs) != 1 || !small.Contains(r.IPs[0]) || r.Interface != "eth0" || r.MAC == "" {
		t.Errorf("result %+v", r)
	}
	if _, ip := t.mustAttach("b"); ip == r.IPs[0] {
		t.Errorf("two sandboxes have %s", ip)
	}
}

func namespaceAgain(t *subject) {
	first, err := t.s.NewNamespace(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	second, err := t.s.NewNamespace(t.Context(), "a")
	if err != nil || second != first {
		t.Errorf("%q, then %q, %v", first, second, err)
	}
}

func idempotent(t *subject) {
	s, _ := t.mustAttach("a")
	for range 2 {
		t.mustDetach(s)
	}
	t.mustDetach(network.Sandbox{ID: "never-seen", NetNS: s.NetNS})
	if err := t.s.RemoveNamespace(t.Context(), ""); err != nil {
		t.Errorf("RemoveNamespace of no path: %v", err)
	}
}

func exhaustion(t *subject) {
	var last network.Sandbox
	for i := range smallSize {
		last, _ = t.mustAttach(fmt.Sprint("s", i))
	}
	if _, _, err := t.attach("more"); !errors.Is(err, network.ErrExhausted) {
		t.Fatalf("a full range gave %v", err)
	}
	t.mustDetach(last)
	t.mustAttach("again")
}

func rest(t *subject) {
	s, first := t.mustAttach("a")
	t.mustDetach(s)
	for i := range smallSize - 1 {
		if _, ip := t.mustAttach(fmt.Sprint("s", i)); ip == first {
			t.Fatalf("%s was given again though others were never given", ip)
		}
	}
}

func retain(t *subject) {
	kept, keptIP := t.mustAttach("kept")
	for i := range smallSize - 1 {
		t.mustAttach(fmt.Sprint("s", i))
	}
	if err := t.s.Retain(t.Context(), []string{kept.ID, "unknown"}); err != nil {
		t.Fatal(err)
	}
	for i := range smallSize - 1 {
		if _, ip := t.mustAttach(fmt.Sprint("t", i)); ip == keptIP {
			t.Fatalf("%s of a live sandbox was given again", ip)
		}
	}
}

func failedAttach(t *subject) {
	for i := range smallSize + 1 {
		s := network.Sandbox{ID: fmt.Sprint("s", i), NetNS: "/nowhere"}
		if _, err := t.s.Attach(t.Context(), s); err == nil || errors.Is(err, network.ErrExhausted) {
			t.Fatalf("attaching in no namespace: %v", err)
		}
	}
	t.mustAttach("good")
}

func changedRanges(t *subject) {
	old, oldIP := t.mustAttach("old")
	next := netip.MustParsePrefix("10.98.0.0/29")
	for range 2 {
		if err := t.s.SetPodCIDRs(t.Context(), []netip.Prefix{next}); err != nil {
			t.Fatal(err)
		}
	}
	if _, ip := t.mustAttach("new"); !next.Contains(ip) {
		t.Errorf("got %s of the range before", ip)
	}
	t.mustDetach(old)
	if err := t.s.SetPodCIDRs(t.Context(), []netip.Prefix{small}); err != nil {
		t.Fatal(err)
	}
	if _, ip := t.mustAttach("back"); !small.Contains(ip) || !oldIP.IsValid() {
		t.Errorf("got %s of the range before", ip)
	}
}

func detachWithout(t *subject) {
	s, _ := t.mustAttach("a")
	if err := t.s.RemoveNamespace(t.Context(), s.NetNS); err != nil {
		t.Fatal(err)
	}
	s.NetNS = ""
	t.mustDetach(s)
	for i := range smallSize {
		t.mustAttach(fmt.Sprint("s", i))
	}
}

func concurrent(t *subject) {
	type got struct {
		ip  netip.Addr
		err error
	}
	results := make(chan got)
	for i := range smallSize {
		go func() {
			id := fmt.Sprint("s", i)
			path, err := t.s.NewNamespace(t.Context(), id)
			if err != nil {
				results <- got{err: err}
				return
			}
			r, err := t.s.Attach(t.Context(), network.Sandbox{ID: id, NetNS: path})
			if err == nil && len(r.IPs) == 1 {
				results <- got{ip: r.IPs[0]}
				return
			}
			results <- got{err: fmt.Errorf("%+v, %w", r, err)}
		}()
	}
	seen := map[netip.Addr]bool{}
	for range smallSize {
		g := <-results
		if g.err != nil || seen[g.ip] {
			t.Errorf("address %s, error %v, seen %v", g.ip, g.err, seen)
		}
		seen[g.ip] = true
	}
}
