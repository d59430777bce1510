package networktest

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/skiff-node/skiff/network"
)

func TestFakeKeepsTheContract(t *testing.T) {
	Suite(t, func(_ *testing.T, cidrs []netip.Prefix) network.Service { return NewFake(cidrs...) })
}

func TestFakeRefusesWrongUse(t *testing.T) {
	f := NewFake()
	path, _ := f.NewNamespace(t.Context(), "a")
	s := network.Sandbox{ID: "a", NetNS: path}
	f.SetNotReady("testing")
	if _, err := f.Attach(t.Context(), s); !errors.Is(err, network.ErrNotReady) {
		t.Errorf("attach while not ready: %v", err)
	}
	f.SetNotReady("")
	if _, err := f.Attach(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Attach(t.Context(), s); err == nil {
		t.Error("attached twice")
	}
	f.FailNext(errors.New("boom"))
	if err := f.Detach(t.Context(), s); err == nil || len(f.Attached()) != 1 {
		t.Errorf("detach: %v, attached %v", err, f.Attached())
	}
}
