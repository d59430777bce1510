// Package hostport owns the nftables table of the pod network: published ports, and masquerading of what leaves
// the cluster.
//
// The table has fixed rules and a few sets and maps; a sandbox is elements in them, never a chain or a rule. So
// publishing a port is one small transaction whatever else is published.
//
//	prerouting, output (nat)  to a local address ──► maps hostports (with address), wildports (any) ──► dnat
//	postrouting (nat)         a sandbox to its own published port ─────────────────────────────────► masquerade
//	                          the host's loopback to a published port ─────────────────────────────► masquerade
//	                          @sources to anything but @direct ────────────────────────────────────► masquerade
//	guard (filter)            from elsewhere to 127.0.0.0/8 (route_localnet is on for sandboxes) ───► drop
//	forward, output (filter)  to a service that no proxy rewrote ──────────────────────────────────► reject
//
// What is published is kept in one record per sandbox below a directory. The table is made from the records
// when it is opened, in one transaction, so no packet ever meets half of it.
package hostport

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"

	"github.com/skiff-node/skiff/network"
)

// Config describes the table.
type Config struct {
	Name     string // required: of the nftables table
	Dir      string // required: records of what is published; must not outlive a boot
	Services string // the interface where packets to services go that no proxy rewrote; may be empty
	// Exempt are local addresses that published ports do not answer on: others serve there.
	Exempt []netip.Addr
	Ranges Ranges
	// Reuse takes a table over that was made with the same configuration, instead of making it anew.
	Reuse bool
	Log   *slog.Logger
}

// Ranges say what is masqueraded: packets from Sources, unless they go to Direct or are multicast.
type Ranges struct {
	Sources []netip.Prefix
	Direct  []netip.Prefix
}

// Entry is what one interface of a sandbox publishes, and what is masqueraded for it beyond the ranges.
type Entry struct {
	Key        string                `json:"key"`
	IP         netip.Addr            `json:"ip"`
	Ports      []network.PortMapping `json:"ports,omitempty"`
	Masquerade []netip.Prefix        `json:"masquerade,omitempty"` // packets from these, unless they go to these
}

// ErrPortTaken is returned by Add when a port is already published for another sandbox.
var ErrPortTaken = errors.New("host port is taken")

// Table is the table of one node. It is safe for concurrent use.
type Table struct {
	cfg     Config
	mu      sync.Mutex
	entries map[string]Entry
	taken   map[hostPort]string // → key of the entry
}

// hostPort is a port on the host. A zero address is every local address.
type hostPort struct {
	proto network.Protocol
	ip    netip.Addr
	port  uint16
}

func (h hostPort) String() string {
	if !h.ip.IsValid() {
		return fmt.Sprintf("%d/%s", h.port, h.proto)
	}
	return fmt.Sprintf("%s:%d/%s", h.ip, h.port, h.proto)
}

// Open reads the records and makes the table.
func Open(cfg Config) (*Table, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := &Table{cfg: cfg, entries: map[string]Entry{}, taken: map[hostPort]string{}}
	records, err := readRecords(cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range records {
		if err := t.claim(e); err != nil {
			cfg.Log.Warn("record of published ports left out", "sandbox", e.Key, "error", err)
		}
	}
	if cfg.Reuse && t.current() {
		return t, nil
	}
	return t, t.sync()
}

// claim takes the entry's ports, all or none.
func (t *Table) claim(e Entry) error {
	ports, err := publishedPorts(e)
	if err != nil {
		return err
	}
	for h := range ports {
		if owner, ok := t.taken[h]; ok && owner != e.Key {
			return fmt.Errorf("%w: %s by %s", ErrPortTaken, h, owner)
		}
	}
	t.unclaim(e.Key)
	for h := range ports {
		t.taken[h] = e.Key
	}
	t.entries[e.Key] = e
	return nil
}

func (t *Table) unclaim(key string) {
	ports, _ := publishedPorts(t.entries[key]) // claim checked them
	for h := range ports {
		delete(t.taken, h)
	}
	delete(t.entries, key)
}

// publishedPorts checks the entry and lists its ports on the host with where they lead.
func publishedPorts(e Entry) (map[hostPort]netip.AddrPort, error) {
	ports := map[hostPort]netip.AddrPort{}
	for _, m := range e.Ports {
		if m.HostPort == 0 {
			continue
		}
		h := hostPort{proto: m.Protocol, ip: m.HostIP.Unmap(), port: m.HostPort}
		if _, ok := protocolNumber[m.Protocol]; !ok {
			return nil, fmt.Errorf("port mapping %d: protocol %q is none of tcp, udp and sctp", m.HostPort, m.Protocol)
		}
		if h.ip.IsValid() && h.ip.IsUnspecified() {
			h.ip = netip.Addr{}
		}
		if h.ip.Is6() {
			return nil, fmt.Errorf("port mapping %d: hostIP %s: the pod network has no IPv6 yet", m.HostPort, h.ip)
		}
		if m.ContainerPort == 0 {
			return nil, fmt.Errorf("port mapping %d: containerPort is missing", m.HostPort)
		}
		if _, ok := ports[h]; ok {
			return nil, fmt.Errorf("%w: %s twice by the same sandbox", ErrPortTaken, h)
		}
		ports[h] = netip.AddrPortFrom(e.IP, m.ContainerPort)
	}
	return ports, nil
}

// Add publishes the entry's ports; an earlier entry of the same key is replaced. On error nothing is published.
func (t *Table) Add(e Entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, replaced := t.entries[e.Key]
	if err := t.claim(e); err != nil {
		return fmt.Errorf("publish ports: %w", err)
	}
	err := writeRecord(t.cfg.Dir, e)
	if err == nil {
		err = t.change(before, e, replaced)
	}
	if err != nil {
		t.unclaim(e.Key)
		return errors.Join(fmt.Errorf("publish ports: %w", err), removeRecord(t.cfg.Dir, e.Key))
	}
	forgetFlows(t.cfg.Log, before)
	forgetFlows(t.cfg.Log, e)
	return nil
}

// change brings the kernel from one entry to another: by elements where that is enough, else by the whole table.
func (t *Table) change(before, after Entry, replaced bool) error {
	if replaced || len(after.Masquerade) > 0 || len(before.Masquerade) > 0 {
		return t.sync()
	}
	if err := t.elementwise(after, (*nftables.Conn).SetAddElements); err != nil {
		return t.sync() // the table is not what we thought: make it anew
	}
	return nil
}

// Delete takes back what the key published. Deleting what is gone succeeds.
func (t *Table) Delete(key string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.delete(key)
}

func (t *Table) delete(key string) error {
	e, ok := t.entries[key]
	if !ok {
		return nil
	}
	t.unclaim(key)
	err := t.elementwise(e, (*nftables.Conn).SetDeleteElements)
	if err != nil || len(e.Masquerade) > 0 {
		err = t.sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("take back published ports: %w", err), t.claim(e))
	}
	forgetFlows(t.cfg.Log, e)
	return removeRecord(t.cfg.Dir, key)
}

// Retain takes back what every key published that keep does not want.
func (t *Table) Retain(keep func(key string) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.entries {
		if keep(key) {
			continue
		}
		if err := t.delete(key); err != nil {
			return err
		}
	}
	return t.repair()
}

// Repair makes the table anew when somebody removed it, as a reload of the host's firewall does.
func (t *Table) Repair() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.repair()
}

func (t *Table) repair() error {
	if t.current() {
		return nil
	}
	t.cfg.Log.Warn("the nftables table of the pod network was removed by another program; making it anew", "table", t.cfg.Name)
	return t.sync()
}

// SetRanges changes what is masqueraded.
func (t *Table) SetRanges(r Ranges) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Equal(r.Sources, t.cfg.Ranges.Sources) && slices.Equal(r.Direct, t.cfg.Ranges.Direct) {
		return nil
	}
	t.cfg.Ranges = r
	return t.sync()
}

// Get returns what the key published.
func (t *Table) Get(key string) (Entry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[key]
	return e, ok
}

// stamp names the chain without rules that tells from which configuration the table was made.
func (t *Table) stamp() string {
	h := fnv.New64a()
	fmt.Fprint(h, layout, t.cfg.Services, t.cfg.Exempt, t.cfg.Ranges, t.masquerades())
	return fmt.Sprintf("made-from-%016x", h.Sum64())
}

// masquerades are the entries' own ranges, in a stable order and each once.
func (t *Table) masquerades() []netip.Prefix {
	var all []netip.Prefix
	for _, e := range t.entries {
		all = append(all, e.Masquerade...)
	}
	slices.SortFunc(all, comparePrefix)
	return slices.Compact(all)
}

// current says whether the table is there and was made from this configuration.
func (t *Table) current() bool {
	c, err := dial()
	if err != nil {
		return false
	}
	_, err = c.ListChain(t.table(), t.stamp())
	return err == nil
}

// Remove deletes the table of that name. Removing what is gone succeeds.
func Remove(name string) error {
	c, err := dial()
	if err != nil {
		return fmt.Errorf("remove nftables table %s: %w", name, err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", name, err)
	}
	return nil
}
