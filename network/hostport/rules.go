package hostport

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/network"
)

// layout is the version of the table's rules: a process that knows another one makes the table anew.
const layout = 1

var protocolNumber = map[network.Protocol]byte{network.TCP: unix.IPPROTO_TCP, network.UDP: unix.IPPROTO_UDP, network.SCTP: unix.IPPROTO_SCTP}

// Registers of four bytes each that lie one after the other, as the fields of a concatenated key do.
const (
	reg0 = unix.NFT_REG32_00 + iota
	reg1
	reg2
)

var (
	multicast = netip.MustParsePrefix("224.0.0.0/4")
	loopback  = netip.MustParsePrefix("127.0.0.0/8")
	target    = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
)

func (t *Table) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: t.cfg.Name}
}

// sets are the table's sets and maps.
type sets struct {
	hostPorts, wildPorts, hairpin, sources, direct, exempt *nftables.Set
}

func (t *Table) sets() sets {
	table := t.table()
	key := func(types ...nftables.SetDatatype) nftables.SetDatatype { return nftables.MustConcatSetType(types...) }
	return sets{
		hostPorts: &nftables.Set{Table: table, Name: "hostports", IsMap: true, Concatenation: true, DataType: target,
			KeyType: key(nftables.TypeInetProto, nftables.TypeIPAddr, nftables.TypeInetService)},
		wildPorts: &nftables.Set{Table: table, Name: "wildports", IsMap: true, Concatenation: true, DataType: target,
			KeyType: key(nftables.TypeInetProto, nftables.TypeInetService)},
		hairpin: &nftables.Set{Table: table, Name: "hairpin", Concatenation: true, KeyType: key(nftables.TypeIPAddr, nftables.TypeIPAddr)},
		sources: &nftables.Set{Table: table, Name: "sources", Interval: true, KeyType: nftables.TypeIPAddr},
		direct:  &nftables.Set{Table: table, Name: "direct", Interval: true, KeyType: nftables.TypeIPAddr},
		exempt:  &nftables.Set{Table: table, Name: "exempt", KeyType: nftables.TypeIPAddr},
	}
}

// elements are what one entry adds to the sets.
type elements struct {
	hostPorts, wildPorts, hairpin []nftables.SetElement
}

func elementsOf(e Entry) elements {
	var all elements
	ports, _ := publishedPorts(e) // claim checked them
	for h, to := range ports {
		val := append(to.Addr().AsSlice(), port(to.Port())...)
		proto := []byte{protocolNumber[h.proto], 0, 0, 0}
		if h.ip.IsValid() {
			key := append(append(proto, h.ip.AsSlice()...), port(h.port)...)
			all.hostPorts = append(all.hostPorts, nftables.SetElement{Key: key, Val: val})
		} else {
			all.wildPorts = append(all.wildPorts, nftables.SetElement{Key: append(proto, port(h.port)...), Val: val})
		}
	}
	if len(ports) > 0 {
		ip := e.IP.AsSlice()
		all.hairpin = append(all.hairpin, nftables.SetElement{Key: append(ip, ip...)})
	}
	return all
}

// port is a port as a padded field of a concatenated key.
func port(p uint16) []byte { return append(binaryutil.BigEndian.PutUint16(p), 0, 0) }

// chain is a chain with its rules.
type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

func (t *Table) chains(s sets) []chain {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio nftables.ChainPriority, rules ...[]expr.Any) chain {
		return chain{&nftables.Chain{Table: t.table(), Name: name, Type: kind, Hooknum: hook, Priority: &prio}, rules}
	}
	publish := chain{&nftables.Chain{Table: t.table(), Name: "publish"}, [][]expr.Any{
		rule(load(daddr, reg0), in(s.exempt, reg0), verdict(expr.VerdictReturn)),
		rule(l4proto(reg0), load(daddr, reg1), load(dport, reg2), lookup(s.hostPorts), dnat()),
		rule(l4proto(reg0), load(dport, reg1), lookup(s.wildPorts), dnat()),
	}}
	toPublish := rule(localDestination(), verdict(expr.VerdictJump, publish.Name))
	all := []chain{
		publish,
		{&nftables.Chain{Table: t.table(), Name: t.stamp()}, nil},
		base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest, toPublish),
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest, toPublish),
		base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource,
			rule(load(saddr, reg0), load(daddr, reg1), in(s.hairpin, reg0), masquerade()),
			rule(notLoopback(expr.MetaKeyOIFNAME), within(saddr, loopback), masquerade()),
			rule(load(saddr, reg0), in(s.sources, reg0), load(daddr, reg0), notIn(s.direct, reg0), masquerade()),
		),
		base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw,
			rule(notLoopback(expr.MetaKeyIIFNAME), within(daddr, loopback), verdict(expr.VerdictDrop))),
	}
	if t.cfg.Services != "" {
		stray := rule(outInterface(t.cfg.Services), notRewritten(), reject())
		all = append(all,
			base("forward-strays", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter, stray),
			base("output-strays", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter, stray))
	}
	return all
}

// rule joins expressions.
func rule(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// field is a part of a packet: the header it is in, its offset and its length there.
type field struct {
	base        expr.PayloadBase
	offset, len uint32
}

var (
	saddr = field{expr.PayloadBaseNetworkHeader, 12, 4}
	daddr = field{expr.PayloadBaseNetworkHeader, 16, 4}
	dport = field{expr.PayloadBaseTransportHeader, 2, 2}
)

func load(f field, reg uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: f.base, Offset: f.offset, Len: f.len}}
}

func l4proto(reg uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}}
}

func within(f field, p netip.Prefix) []expr.Any {
	mask := make([]byte, 4)
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return append(load(f, reg0),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: p.Masked().Addr().AsSlice()})
}

func in(s *nftables.Set, reg uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID}}
}

func notIn(s *nftables.Set, reg uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID, Invert: true}}
}

func lookup(m *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: m.Name, SetID: m.ID}}
}

func dnat() []expr.Any {
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0, RegProtoMin: reg1}}
}

// notRewritten matches packets whose destination nobody has rewritten. In the output hook a rewritten packet still shows
// the interface that it was routed to before: the kernel routes it anew only after the hook.
func notRewritten() []expr.Any {
	const destinationNAT = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(destinationNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: make([]byte, 4)},
	}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }

func reject() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 1}} // host unreachable
}

func verdict(kind expr.VerdictKind, chain ...string) []expr.Any {
	v := &expr.Verdict{Kind: kind}
	if len(chain) > 0 {
		v.Chain = chain[0]
	}
	return []expr.Any{v}
}

func localDestination() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg0, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func outInterface(name string) []expr.Any {
	return interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpEq, name)
}

func notLoopback(key expr.MetaKey) []expr.Any { return interfaceName(key, expr.CmpOpNeq, "lo") }

func interfaceName(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: padded},
	}
}
