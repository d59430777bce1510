package ipam

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
)

// header is the first line of a journal: what it is, and the version of its format.
const header = "skiff-ipam 1\n"

// op is what a record says.
type op byte

const (
	opHold op = '+' // the key holds the addresses
	opDrop op = '-' // the key gave its addresses back
	opRest op = 'f' // the addresses are free, and were given back after those of the records before
)

// record is one line of the journal:
//
//	<crc32 of the rest, 8 hex digits> <op> <key> <address>[,<address>…]\n
//
// The key of opRest is "-"; opDrop has no addresses.
type record struct {
	op    op
	key   string
	addrs []netip.Addr
}

func (r record) encode() []byte {
	var b strings.Builder
	b.WriteByte(byte(r.op))
	b.WriteByte(' ')
	b.WriteString(r.key)
	for i, a := range r.addrs {
		b.WriteByte(" ,"[min(i, 1)])
		b.WriteString(a.String())
	}
	body := b.String()
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE([]byte(body)), body)
}

// decode reads one line without its line feed.
func decode(line []byte) (record, bool) {
	sum, body, ok := bytes.Cut(line, []byte(" "))
	if !ok || string(sum) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(body)) {
		return record{}, false
	}
	words := strings.Split(string(body), " ")
	if len(words) < 2 || len(words) > 3 || len(words[0]) != 1 || words[1] == "" {
		return record{}, false
	}
	r := record{op: op(words[0][0]), key: words[1]}
	if len(words) == 3 {
		for _, text := range strings.Split(words[2], ",") {
			a, err := netip.ParseAddr(text)
			if err != nil || a.Zone() != "" {
				return record{}, false
			}
			r.addrs = append(r.addrs, a)
		}
	}
	switch r.op {
	case opHold, opRest:
		return r, len(r.addrs) > 0
	case opDrop:
		return r, len(r.addrs) == 0
	}
	return record{}, false
}

// parse reads a journal. What cannot be read is left out and counted in bad: a last line without its end (the
// process was killed while it wrote) or a damaged one (the machine lost power; no sandbox outlived that). Only a
// journal of another kind or version is an error.
func parse(data []byte) (records []record, bad int, err error) {
	if len(data) < len(header) && strings.HasPrefix(header, string(data)) {
		return nil, min(len(data), 1), nil
	}
	rest, ok := bytes.CutPrefix(data, []byte(header))
	if !ok {
		first, _, _ := bytes.Cut(data[:min(len(data), 64)], []byte("\n"))
		return nil, 0, fmt.Errorf("not an address journal of version 1: it begins with %q", first)
	}
	for len(rest) > 0 {
		line, next, whole := bytes.Cut(rest, []byte("\n"))
		rest = next
		r, ok := decode(line)
		if !whole || !ok {
			bad++
			continue
		}
		records = append(records, r)
	}
	return records, bad, nil
}
