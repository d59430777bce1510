package hostport

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/google/nftables"
	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/network"
)

// patience is how long the kernel may take to answer. One without nftables leaves the last question of a transaction
// unanswered, and the library would wait for ever.
const patience = 20 * time.Second

// dial opens nftables; what is asked through it fails when it is not answered in time.
func dial() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *mdnetlink.Conn) error {
		return c.SetDeadline(time.Now().Add(patience))
	}))
}

// sync makes the whole table anew, in one transaction.
func (t *Table) sync() error {
	c, err := dial()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := t.table()
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	s := t.sets()
	if err := t.fill(c, s); err != nil {
		return fmt.Errorf("nftables table %s: %w", t.cfg.Name, err)
	}
	for _, ch := range t.chains(s) {
		c.AddChain(ch.Chain)
		for _, exprs := range ch.rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: ch.Chain, Exprs: exprs})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: %w", t.cfg.Name, err)
	}
	return nil
}

// fill queues the sets with their elements.
func (t *Table) fill(c *nftables.Conn, s sets) error {
	var all elements
	for _, e := range t.entries {
		one := elementsOf(e)
		all.hostPorts = append(all.hostPorts, one.hostPorts...)
		all.wildPorts = append(all.wildPorts, one.wildPorts...)
		all.hairpin = append(all.hairpin, one.hairpin...)
	}
	own := t.masquerades()
	var exempt []nftables.SetElement
	for _, a := range t.cfg.Exempt {
		if a.Is4() {
			exempt = append(exempt, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	for _, x := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{
		{s.hostPorts, all.hostPorts}, {s.wildPorts, all.wildPorts}, {s.hairpin, all.hairpin}, {s.exempt, exempt},
		{s.sources, intervals(concat(t.cfg.Ranges.Sources, own))},
		{s.direct, intervals(concat(t.cfg.Ranges.Direct, t.cfg.Ranges.Sources, own, []netip.Prefix{multicast}))},
	} {
		if err := c.AddSet(x.set, x.elements); err != nil {
			return fmt.Errorf("set %s: %w", x.set.Name, err)
		}
	}
	return nil
}

func concat(lists ...[]netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// elementwise adds or deletes an entry's elements in one transaction.
func (t *Table) elementwise(e Entry, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	c, err := dial()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	s, all := t.sets(), elementsOf(e)
	queued := 0
	for set, list := range map[*nftables.Set][]nftables.SetElement{
		s.hostPorts: all.hostPorts, s.wildPorts: all.wildPorts, s.hairpin: all.hairpin,
	} {
		if len(list) == 0 {
			continue
		}
		if err := do(c, set, list); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
		queued++
	}
	if queued == 0 {
		return nil
	}
	return c.Flush()
}

// forgetFlows makes the kernel forget UDP flows that the entry's change concerns: those to its ports on the host,
// which were not rewritten before it was published, and those to the sandbox, which must not be after. (A TCP
// connection begins with a packet that is looked up anew.) A failure is logged only: a flow ends by itself.
func forgetFlows(log *slog.Logger, e Entry) {
	var filters []netlink.CustomConntrackFilter
	for _, m := range e.Ports {
		if m.Protocol != network.UDP || m.HostPort == 0 {
			continue
		}
		toHost := &netlink.ConntrackFilter{}
		err := toHost.AddProtocol(unix.IPPROTO_UDP)
		if err == nil {
			err = toHost.AddPort(netlink.ConntrackOrigDstPort, m.HostPort)
		}
		if err == nil && m.HostIP.Is4() && !m.HostIP.IsUnspecified() {
			err = toHost.AddIP(netlink.ConntrackOrigDstIP, m.HostIP.AsSlice())
		}
		if err != nil {
			log.Warn("UDP flows of a published port not looked for", "port", m.HostPort, "error", err)
			continue
		}
		filters = append(filters, toHost)
	}
	if len(filters) == 0 {
		return
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...); err != nil {
		log.Warn("UDP flows of published ports not forgotten", "sandbox", e.Key, "error", err)
	}
}
