package apply

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/proxy/rules"
)

// mark is the packet mark of what postrouting must masquerade: kube-proxy's bit, so that tools that know it stay right.
const mark = 0x4000

// Registers are 4 bytes wide from 8 on (NFT_REG32_00). Keys start at the first, results at the fifth.
const (
	key0   = 8
	result = 12
)

// kinds describes the maps and sets of the layout.
var kinds = map[rules.Map]struct {
	key  []nftables.SetDatatype
	data nftables.SetDatatype // zero: a set
}{
	rules.Services:   {key: fields(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService), data: nftables.TypeVerdict},
	rules.NodePorts:  {key: fields(nftables.TypeInetProto, nftables.TypeInetService), data: nftables.TypeVerdict},
	rules.Endpoints:  {key: fields(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark), data: target},
	rules.NodeSlots:  {key: fields(nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark), data: target},
	rules.ClusterIPs: {key: fields(nftables.TypeIPAddr)},
	rules.Dropped:    {key: fields(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)},
	rules.Hairpins:   {key: fields(nftables.TypeIPAddr, nftables.TypeIPAddr)},
	nodePortIPs:      {key: fields(nftables.TypeIPAddr)},
}

// nodePortIPs is the set of addresses on which node ports answer. It belongs to the node, not to a Service.
const nodePortIPs rules.Map = "nodeport-ips"

var target = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)

func fields(t ...nftables.SetDatatype) []nftables.SetDatatype { return t }

// layout builds the fixed part of the table in a batch.
type layout struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[rules.Map]*nftables.Set
	cfg   Config
}

func (l *layout) addSets() error {
	for name, k := range kinds {
		key := k.key[0]
		if len(k.key) > 1 {
			key = nftables.MustConcatSetType(k.key...)
		}
		s := &nftables.Set{Table: l.table, Name: string(name), KeyType: key, Concatenation: len(k.key) > 1, IsMap: k.data.Name != "", DataType: k.data}
		if err := l.conn.AddSet(s, nil); err != nil {
			return fmt.Errorf("add set %s: %w", name, err)
		}
		l.sets[name] = s
	}
	return nil
}

// base adds the chains that the kernel calls, and the rules in them. Priorities are those of kube-proxy.
func (l *layout) base() {
	services := l.chain("services")
	check := l.chain("cluster-ips-check")
	l.rule(services, load(key0, daddr), load(key0+1, l4proto), load(key0+2, dport), l.verdict(rules.Services))
	l.rule(services, load(key0, daddr), l.in(nodePortIPs, key0), load(key0, l4proto), load(key0+1, dport), l.verdict(rules.NodePorts))

	pre := l.hook("nat-prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100)
	if l.cfg.ClusterCIDR.IsValid() {
		l.rule(pre, outside(l.cfg.ClusterCIDR), load(key0, daddr), l.in(rules.ClusterIPs, key0), setMark)
	}
	l.rule(pre, jump("services"))
	l.rule(l.hook("nat-output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100), jump("services"))

	l.postrouting(l.hook("nat-postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100))

	l.rule(check, local, verdict(expr.VerdictReturn))
	l.rule(check, load(key0, daddr), load(key0+1, l4proto), load(key0+2, dport), l.in(rules.Dropped, key0), verdict(expr.VerdictDrop))
	l.reject(check, load(key0, daddr), l.in(rules.ClusterIPs, key0))
	for _, c := range l.cfg.ServiceCIDRs {
		l.reject(check, inside(c))
	}
	l.rule(l.hook("filter-forward", nftables.ChainTypeFilter, nftables.ChainHookForward, -110), jump("cluster-ips-check"))
	l.rule(l.hook("filter-output-post-dnat", nftables.ChainTypeFilter, nftables.ChainHookOutput, -90), jump("cluster-ips-check"))
}

func (l *layout) postrouting(c *nftables.Chain) {
	l.rule(c, marked, clearMark, masquerade)
	const dnat = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	status := exprs{&expr.Ct{Key: expr.CtKeySTATUS, Register: key0},
		&expr.Bitwise{SourceRegister: key0, DestRegister: key0, Len: 4, Mask: u32(dnat), Xor: u32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: key0, Data: u32(0)}}
	l.rule(c, status, load(key0, saddr), load(key0+1, daddr), l.in(rules.Hairpins, key0), masquerade)
}

// reject answers TCP with a reset and everything else with port unreachable, as a closed port does.
func (l *layout) reject(c *nftables.Chain, match ...exprs) {
	tcp := exprs{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: key0}, &expr.Cmp{Op: expr.CmpOpEq, Register: key0, Data: []byte{unix.IPPROTO_TCP}}}
	l.rule(c, append(append([]exprs{}, match...), tcp, exprs{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})...)
	const portUnreachable = 3 // ICMP code
	l.rule(c, append(append([]exprs{}, match...), exprs{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable}})...)
}

// door adds the chain that spreads packets over n endpoints, named lb-n, xlb-n, np-n or npl-n.
func (l *layout) door(name string) error {
	kind, count, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(count, 10, 32)
	if err != nil || n == 0 {
		return fmt.Errorf("chain %q: no endpoint count", name)
	}
	var parts []exprs
	if kind == "xlb" || kind == "np" {
		parts = append(parts, setMark)
	}
	next, from := uint32(key0), rules.NodeSlots
	if kind == "lb" || kind == "xlb" {
		parts = append(parts, load(next, daddr))
		next, from = next+1, rules.Endpoints
	}
	parts = append(parts, load(next, l4proto), load(next+1, dport), exprs{
		&expr.Numgen{Register: next + 2, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: key0, DestRegister: result, IsDestRegSet: true, SetName: l.sets[from].Name, SetID: l.sets[from].ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: result, RegProtoMin: result + 1},
	})
	l.rule(l.chain(name), parts...)
	return nil
}

func (l *layout) chain(name string) *nftables.Chain {
	return l.conn.AddChain(&nftables.Chain{Name: name, Table: l.table})
}

func (l *layout) hook(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio int32) *nftables.Chain {
	return l.conn.AddChain(&nftables.Chain{Name: name, Table: l.table, Type: typ, Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(prio))})
}

func (l *layout) rule(c *nftables.Chain, parts ...exprs) {
	r := &nftables.Rule{Table: l.table, Chain: c}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	l.conn.AddRule(r)
}

func (l *layout) in(m rules.Map, reg uint32) exprs {
	return exprs{&expr.Lookup{SourceRegister: reg, SetName: l.sets[m].Name, SetID: l.sets[m].ID}}
}

func (l *layout) verdict(m rules.Map) exprs {
	return exprs{&expr.Lookup{SourceRegister: key0, DestRegister: 0, IsDestRegSet: true, SetName: l.sets[m].Name, SetID: l.sets[m].ID}}
}

// exprs is a piece of a rule.
type exprs []expr.Any

// source is a field of a packet.
type source int

const (
	saddr source = iota
	daddr
	l4proto
	dport
)

// load puts a field into a register.
func load(reg uint32, s source) exprs {
	switch s {
	case saddr:
		return exprs{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}}
	case daddr:
		return exprs{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}}
	case l4proto:
		return exprs{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}}
	}
	return exprs{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

var (
	setMark = exprs{&expr.Meta{Key: expr.MetaKeyMARK, Register: key0},
		&expr.Bitwise{SourceRegister: key0, DestRegister: key0, Len: 4, Mask: u32(^uint32(mark)), Xor: u32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: key0, SourceRegister: true}}
	clearMark = exprs{&expr.Meta{Key: expr.MetaKeyMARK, Register: key0},
		&expr.Bitwise{SourceRegister: key0, DestRegister: key0, Len: 4, Mask: u32(^uint32(mark)), Xor: u32(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: key0, SourceRegister: true}}
	marked = exprs{&expr.Meta{Key: expr.MetaKeyMARK, Register: key0},
		&expr.Bitwise{SourceRegister: key0, DestRegister: key0, Len: 4, Mask: u32(mark), Xor: u32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: key0, Data: u32(0)}}
	masquerade = exprs{&expr.Masq{FullyRandom: true}}
	local      = exprs{&expr.Fib{Register: key0, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: key0, Data: u32(unix.RTN_LOCAL)}}
)

func jump(chain string) exprs {
	return exprs{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func verdict(k expr.VerdictKind) exprs { return exprs{&expr.Verdict{Kind: k}} }

// inside matches a destination in a range, outside a source beyond it.
func inside(p netip.Prefix) exprs  { return prefix(16, p, expr.CmpOpEq) }
func outside(p netip.Prefix) exprs { return prefix(12, p, expr.CmpOpNeq) }

func prefix(offset uint32, p netip.Prefix, op expr.CmpOp) exprs {
	m := make([]byte, 4)
	binary.BigEndian.PutUint32(m, ^uint32(0)<<(32-p.Bits()))
	return exprs{&expr.Payload{DestRegister: key0, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: key0, DestRegister: key0, Len: 4, Mask: m, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: key0, Data: p.Masked().Addr().AsSlice()}}
}

func u32(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }
