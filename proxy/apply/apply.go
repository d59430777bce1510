// Package apply brings the kernel's nftables table of the proxy to what package rules says, by netlink. Reset replaces
// the whole table, Update changes elements; both are one transaction of the kernel, except that a very large Reset is
// filled in chunks before its hooks are added. Cleanup removes the table; removing what is gone succeeds.
package apply

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/proxy/rules"
)

// TableName is the proxy's own table, in the ip family.
const TableName = "skiff-proxy"

// chunk bounds the elements of one netlink message (an attribute holds 64 KiB) and of one transaction.
const (
	perMessage = 400
	perBatch   = 4000
)

// Config is what the fixed rules depend on.
type Config struct {
	ClusterCIDR  netip.Prefix   // optional: sources outside of it are masqueraded on their way to a cluster IP
	ServiceCIDRs []netip.Prefix // optional: addresses in it that no Service has are rejected
	NodePortIPs  []netip.Addr   // addresses on which node ports answer
}

// Applier holds one netlink connection. It is for one goroutine.
type Applier struct {
	cfg   Config
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[rules.Map]*nftables.Set
	doors map[string]bool // chains by endpoint count that exist
}

// New opens the connection in the network namespace of the calling thread.
func New(cfg Config) (*Applier, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open netlink for nftables: %w", err)
	}
	return &Applier{cfg: cfg, conn: conn}, nil
}

// Close ends the connection; the table stays.
func (a *Applier) Close() error { return a.conn.CloseLasting() }

// Reset replaces the table by one that holds exactly these elements. Established connections go on: conntrack knows them.
func (a *Applier) Reset(all map[rules.Key]rules.Value) error {
	a.table = &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}
	a.sets, a.doors = map[rules.Map]*nftables.Set{}, map[string]bool{}
	l := a.layout()
	a.conn.AddTable(a.table) // so that the deletion finds one
	a.conn.DelTable(a.table)
	a.conn.AddTable(a.table)
	if err := l.addSets(); err != nil {
		return err
	}
	nodes := map[rules.Key]rules.Value{}
	for _, ip := range a.cfg.NodePortIPs {
		nodes[rules.Key{Map: nodePortIPs, Bytes: string(ip.AsSlice())}] = rules.Value{}
	}
	if err := a.add(nodes); err != nil {
		return err
	}
	if len(all) <= perBatch {
		if err := a.add(all); err != nil {
			return err
		}
		l.base()
		return a.commit("replace the table")
	}
	return a.fill(all, l)
}

// fill commits the elements in chunks and the hooks last.
func (a *Applier) fill(all map[rules.Key]rules.Value, l *layout) error {
	part := map[rules.Key]rules.Value{}
	for k, v := range all {
		part[k] = v
		if len(part) < perBatch {
			continue
		}
		if err := a.add(part); err != nil {
			return err
		}
		if err := a.commit("fill the table"); err != nil {
			return err
		}
		clear(part)
	}
	if err := a.add(part); err != nil {
		return err
	}
	l.base()
	return a.commit("finish the table")
}

// Update changes elements. After an error the kernel's state is as before, and unknown to the Applier where someone else
// changed the table: Reset then.
func (a *Applier) Update(d rules.Delta) error {
	if a.table == nil {
		return errors.New("update before the first reset")
	}
	for m, elems := range group(d.Delete) {
		for part := range parts(elems) {
			if err := a.conn.SetDeleteElements(a.sets[m], part); err != nil {
				return fmt.Errorf("delete from %s: %w", m, err)
			}
		}
	}
	if err := a.add(d.Add); err != nil {
		return err
	}
	return a.commit("update elements")
}

// Cleanup removes the table.
func (a *Applier) Cleanup() error {
	t := &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}
	a.conn.AddTable(t)
	a.conn.DelTable(t)
	a.table = nil
	return a.commit("remove the table")
}

func (a *Applier) layout() *layout {
	return &layout{conn: a.conn, table: a.table, sets: a.sets, cfg: a.cfg}
}

func (a *Applier) commit(what string) error {
	if err := a.conn.Flush(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// add queues elements, and before them the chains that they go to.
func (a *Applier) add(elements map[rules.Key]rules.Value) error {
	l := a.layout()
	for _, v := range elements {
		if v.Chain == "" || a.doors[v.Chain] {
			continue
		}
		if err := l.door(v.Chain); err != nil {
			return err
		}
		a.doors[v.Chain] = true
	}
	for m, elems := range group(elements) {
		for part := range parts(elems) {
			if err := a.conn.SetAddElements(a.sets[m], part); err != nil {
				return fmt.Errorf("add to %s: %w", m, err)
			}
		}
	}
	return nil
}

func group(elements map[rules.Key]rules.Value) map[rules.Map][]nftables.SetElement {
	out := map[rules.Map][]nftables.SetElement{}
	for k, v := range elements {
		e := nftables.SetElement{Key: []byte(k.Bytes)}
		if v.Chain != "" {
			e.VerdictData = &expr.Verdict{Kind: expr.VerdictKind(unix.NFT_GOTO), Chain: v.Chain}
		}
		if v.Data != "" {
			e.Val = []byte(v.Data)
		}
		out[k.Map] = append(out[k.Map], e)
	}
	return out
}

func parts(elems []nftables.SetElement) func(func([]nftables.SetElement) bool) {
	return func(yield func([]nftables.SetElement) bool) {
		for len(elems) > 0 {
			n := min(perMessage, len(elems))
			if !yield(elems[:n]) {
				return
			}
			elems = elems[n:]
		}
	}
}
