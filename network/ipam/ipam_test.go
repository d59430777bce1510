package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/network"
)

func subnet(text string) Range { return Range{Subnet: netip.MustParsePrefix(text)} }

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestRangeNormalize(t *testing.T) {
	for _, tc := range []struct {
		in                  Range
		start, end, gateway string
		err                 string
	}{
		{in: subnet("10.42.0.0/24"), start: "10.42.0.1", end: "10.42.0.254", gateway: "10.42.0.1"},
		{in: subnet("10.42.0.0/30"), start: "10.42.0.1", end: "10.42.0.2", gateway: "10.42.0.1"},
		{in: subnet("fd00::/64"), start: "fd00::1", end: "fd00::ffff:ffff:ffff:ffff", gateway: "fd00::1"},
		{in: Range{Subnet: netip.MustParsePrefix("10.0.0.0/16"), Start: addr("10.0.3.5"), Gateway: addr("10.0.0.9")},
			start: "10.0.3.5", end: "10.0.255.254", gateway: "10.0.0.9"},
		{in: Range{}, err: "subnet is missing"},
		{in: subnet("10.42.0.0/31"), err: "too small"},
		{in: Range{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Start: addr("10.0.1.1")}, err: "rangeStart 10.0.1.1 is outside"},
		{in: Range{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Start: addr("10.0.0.9"), End: addr("10.0.0.8")}, err: "before rangeStart"},
	} {
		got, err := tc.in.Normalize()
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%+v: %v, want %q", tc.in, err, tc.err)
			}
			continue
		}
		if err != nil || got.Start != addr(tc.start) || got.End != addr(tc.end) || got.Gateway != addr(tc.gateway) {
			t.Errorf("%+v: %+v, %v", tc.in, got, err)
		}
	}
}

func open(t *testing.T, path string, sets ...[]Range) *Store {
	t.Helper()
	s, err := Open(Config{Path: path, Sets: sets})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func allocate(t *testing.T, s *Store, key string, want ...string) {
	t.Helper()
	got, err := s.Allocate(key)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	for i, w := range want {
		if got[i] != addr(w) {
			t.Fatalf("%s got %v, want %v", key, got, want)
		}
	}
}

func TestOrderOfAddresses(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "j"), []Range{subnet("10.0.0.0/29")})
	for i := range 5 {
		allocate(t, s, fmt.Sprint("k", i), fmt.Sprintf("10.0.0.%d", i+2))
	}
	if _, err := s.Allocate("more"); !errors.Is(err, network.ErrExhausted) {
		t.Fatalf("full: %v", err)
	}
	allocate(t, s, "k1", "10.0.0.3") // the same again
	for _, k := range []string{"k3", "k0", "unknown", "k3"} {
		if err := s.Release(k); err != nil {
			t.Fatal(err)
		}
	}
	allocate(t, s, "a", "10.0.0.5") // given back the longest ago
	allocate(t, s, "b", "10.0.0.2")
}

func TestSetsAndWantedAddresses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	s := open(t, path, []Range{subnet("10.0.0.0/29"), subnet("10.1.0.0/29")}, []Range{subnet("fd00::/64")})
	got, err := s.Allocate("w", addr("10.1.0.4"), addr("fd00::9"))
	if err != nil || !reflect.DeepEqual(got, []netip.Addr{addr("10.1.0.4"), addr("fd00::9")}) {
		t.Fatalf("wanted: %v, %v", got, err)
	}
	if _, err := s.Allocate("x", addr("10.1.0.4")); err == nil {
		t.Error("a held address was given again")
	}
	allocate(t, s, "x", "10.1.0.5", "fd00::a") // those before them count as given and rest
	if r, ok := s.Range(addr("10.1.0.4")); !ok || r.Gateway != addr("10.1.0.1") {
		t.Errorf("range of 10.1.0.4: %+v, %v", r, ok)
	}
}

func TestJournalOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	ranges := []Range{subnet("10.0.0.0/29")}
	s := open(t, path, ranges)
	for _, k := range []string{"a", "b", "c", "d"} {
		allocate(t, s, k)
	}
	s.Release("b")
	s.Release("a")
	if _, err := Open(Config{Path: path, Sets: [][]Range{ranges}}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	want := s.Holders()
	s.Close()

	s = open(t, path, ranges)
	if got := s.Holders(); !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart %v, want %v", got, want)
	}
	allocate(t, s, "e", "10.0.0.6") // never given
	allocate(t, s, "f", "10.0.0.3") // b's
	allocate(t, s, "g", "10.0.0.2")
	s.Close()

	// Opened without ranges, and given them later, nobody's address is given twice.
	s = open(t, path)
	if err := s.SetSets([][]Range{ranges}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Allocate("h"); !errors.Is(err, network.ErrExhausted) {
		t.Errorf("all are held: %v", err)
	}
	released, err := s.Retain(func(key string) bool { return key == "c" })
	if err != nil || !reflect.DeepEqual(released, []string{"d", "e", "f", "g"}) {
		t.Errorf("released %v, %v", released, err)
	}
}

func TestRangesChangeWhileAddressesAreHeld(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "j"), []Range{subnet("10.0.0.0/29")})
	allocate(t, s, "old", "10.0.0.2")
	if err := s.SetSets([][]Range{{subnet("10.1.0.0/29")}}); err != nil {
		t.Fatal(err)
	}
	allocate(t, s, "old", "10.0.0.2")
	allocate(t, s, "new", "10.1.0.2")
	if err := s.SetSets([][]Range{{subnet("10.0.0.0/29")}}); err != nil {
		t.Fatal(err)
	}
	allocate(t, s, "next", "10.0.0.3")
	if err := s.SetSets(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Allocate("none"); err == nil {
		t.Error("an address of no range")
	}
}

func TestTornAndDamagedJournals(t *testing.T) {
	whole := header + string(record{op: opHold, key: "a", addrs: []netip.Addr{addr("10.0.0.2")}}.encode()) +
		string(record{op: opHold, key: "b", addrs: []netip.Addr{addr("10.0.0.3")}}.encode())
	for name, tc := range map[string]struct {
		data string
		held int
		err  string
	}{
		"empty":           {data: ""},
		"torn header":     {data: header[:5]},
		"torn record":     {data: whole[:len(whole)-3], held: 1},
		"damaged record":  {data: strings.Replace(whole, "10.0.0.2", "10.0.0.4", 1), held: 1},
		"zeros at end":    {data: whole + strings.Repeat("\x00", 100), held: 2},
		"another version": {data: "skiff-ipam 2\n", err: `begins with "skiff-ipam 2"`},
		"another file":    {data: "{}", err: "can be deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "j")
			if err := os.WriteFile(path, []byte(tc.data), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(Config{Path: path, Sets: [][]Range{{subnet("10.0.0.0/29")}}})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || len(s.Holders()) != tc.held {
				t.Fatalf("%v, %v", s, err)
			}
			allocate(t, s, "later")
			s.Close()
			if s = open(t, path, []Range{subnet("10.0.0.0/29")}); len(s.Holders()) != tc.held+1 {
				t.Errorf("what was written after the repair is lost: %v", s.Holders())
			}
		})
	}
}

func TestRewriteKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	ranges := []Range{subnet("10.0.0.0/24")}
	s := open(t, path, ranges)
	rnd := rand.New(rand.NewSource(1))
	for range 5000 {
		key := fmt.Sprint("sandbox-", rnd.Intn(300))
		if rnd.Intn(2) == 0 {
			s.Release(key)
		} else if _, err := s.Allocate(key); err != nil && !errors.Is(err, network.ErrExhausted) {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 2*compactAt {
		t.Errorf("journal has %d bytes, %v", info.Size(), err)
	}
	seen := map[netip.Addr]string{}
	for k, addrs := range s.Holders() {
		if other, ok := seen[addrs[0]]; ok {
			t.Errorf("%s is held by %s and %s", addrs[0], k, other)
		}
		seen[addrs[0]] = k
	}
	want, resting := s.Holders(), s.pools[0].Resting()
	s.Close()
	s = open(t, path, ranges)
	if !reflect.DeepEqual(s.Holders(), want) || !reflect.DeepEqual(s.pools[0].Resting(), resting) {
		t.Error("the journal says otherwise than the memory")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(header + string(record{op: opHold, key: "a", addrs: []netip.Addr{addr("10.0.0.2"), addr("fd00::1")}}.encode())))
	f.Add([]byte(header + string(record{op: opDrop, key: "a"}.encode()) + "torn"))
	f.Add([]byte(header[:4]))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, _, err := parse(data)
		if err != nil {
			return
		}
		// What was read, written again, reads the same.
		again := bytes.NewBufferString(header)
		for _, r := range records {
			again.Write(r.encode())
		}
		second, bad, err := parse(again.Bytes())
		if err != nil || bad != 0 || !reflect.DeepEqual(records, second) {
			t.Errorf("%v, then %v (%d bad, %v)", records, second, bad, err)
		}
	})
}

func BenchmarkAllocateRelease(b *testing.B) {
	s, err := Open(Config{Path: filepath.Join(b.TempDir(), "j"), Sets: [][]Range{{subnet("10.0.0.0/16")}}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := range b.N {
		key := fmt.Sprint(i)
		if _, err := s.Allocate(key); err != nil {
			b.Fatal(err)
		}
		if err := s.Release(key); err != nil {
			b.Fatal(err)
		}
	}
}
