package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// table is what nftables holds under our name, as wanted or as read; nil where there is no such table.
type table struct {
	flags  uint32 // dormant, for example: we want none
	sets   map[string]set
	chains map[string]chain
}

// set is a set or a map.
type set struct {
	kind     setKind
	fields   []uint32 // bytes of each field of a key, which the kernel must know to search ranges; not read
	elements map[element]struct{}
}

type setKind struct {
	flags             uint32
	keyType, keyBytes uint32 // the type is for nft(8) to print keys by
	dataType          uint32
}

// element has the bytes that are sent. Last differs from first only in a set of ranges; data is a map's.
type element struct{ first, last, data string }

type chain struct {
	kind  chainKind
	rules []rule
}

type chainKind struct {
	name     string // filter, route or nat
	hook     uint32
	priority int32
	policy   uint32
}

// rule is a small program: expressions are run in order until one does not match.
type rule []expression

// expression is one by its name and attributes (include/uapi/linux/netfilter/nf_tables.h).
type expression struct {
	name  string
	attrs map[uint16]string
}

// same compares what was written with what was read: which zeros are mentioned may differ.
func (e expression) same(o expression) bool {
	return e.name == o.name && maps.Equal(withoutZeros(e.attrs), withoutZeros(o.attrs))
}

func withoutZeros(attrs map[uint16]string) map[uint16]string {
	attrs = maps.Clone(attrs)
	maps.DeleteFunc(attrs, func(_ uint16, v string) bool { return v == string(make([]byte, len(v))) })
	return attrs
}

// field is a part of a key: its data type in nft(8) (its include/datatype.h), its bytes, and how it gets from a packet
// into a register.
type field struct {
	kind, bytes uint32
	load        func(register uint32) expression
}

// The data types that keys are made of, and the mark's.
const (
	typeIPv4    = 7
	typeIPv6    = 8
	typeProto   = 12
	typeService = 13
	typeMark    = 19
)

var (
	protocol = field{typeProto, 1, meta(unix.NFT_META_L4PROTO)}
	port     = field{typeService, 2, payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)}
	portOnce = field{typeService, 2, original(unix.NFT_CT_PROTO_DST)}
	mark     = field{typeMark, 4, meta(unix.NFT_META_MARK)}
)

// family is what IPv4 and IPv6 differ in. A packet's address is where it goes now; addrOnce and portOnce are where its
// connection went when it came, before IPVS chose a server.
type family struct {
	name           string
	number         byte
	addr, addrOnce field
}

var families = []family{
	{
		"ipv4", unix.NFPROTO_IPV4,
		field{typeIPv4, 4, payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4)},
		field{typeIPv4, 4, original(unix.NFT_CT_DST_IP)},
	},
	{
		"ipv6", unix.NFPROTO_IPV6,
		field{typeIPv6, 16, payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16)},
		field{typeIPv6, 16, original(unix.NFT_CT_DST_IP6)},
	},
}

// has reports whether an address is one of the family.
func (f family) has(a netip.Addr) bool { return a.Is4() == (f.number == unix.NFPROTO_IPV4) }

const accept = 1 // NF_ACCEPT

// chainKinds are our chains, at the priorities that nft(8) calls mangle and srcnat. Output is for the director's own
// connections: they are routed again when they get a mark. Postrouting makes the kernel track all connections, which
// costs, so it is only there where it is needed.
var chainKinds = map[string]chainKind{
	"prerouting":  {"filter", unix.NF_INET_PRE_ROUTING, -150, accept},
	"output":      {"route", unix.NF_INET_LOCAL_OUT, -150, accept},
	"postrouting": {"nat", unix.NF_INET_POST_ROUTING, 100, accept},
}

// tableOf is the table that does what r wants, with nothing in it that has nothing to do.
func tableOf(r Rules) *table {
	t := &table{sets: make(map[string]set), chains: make(map[string]chain)}
	masquerades := r.masquerades()
	for _, f := range families {
		t.addMarks(f, r.Marks)
		t.addMasquerades(f, masquerades)
		t.addMarked(f, r.Masquerades)
	}
	if len(t.sets) == 0 {
		return nil
	}
	return t
}

func (t *table) addMarks(f family, marks map[Flow]uint32) {
	key := []field{f.addr, protocol, port}
	s := newSet(unix.NFT_SET_MAP|unix.NFT_SET_INTERVAL, key...)
	s.kind.dataType = typeMark
	for flow, mark := range marks {
		if f.has(flow.Addr) {
			first := words(flow.Addr.AsSlice(), []byte{flow.Protocol}, portBytes(flow.First))
			last := words(flow.Addr.AsSlice(), []byte{flow.Protocol}, portBytes(flow.Last))
			s.elements[element{first, last, string(markBytes(mark))}] = struct{}{}
		}
	}
	if len(s.elements) == 0 {
		return
	}
	name := "marks_" + f.name
	t.sets[name] = s
	r := append(f.only(), loadKey(key)...)
	r = append(r, lookupInto(name), setMark)
	t.addRule("prerouting", r)
	t.addRule("output", r)
}

// addMasquerades keeps pairs of single ports in a set of their own, which the kernel searches and fills by a hash. To fill
// a set of ranges takes Linux 6.1 time with the square of its size: more than a second for ten thousand.
func (t *table) addMasquerades(f family, masquerades []masquerade) {
	key := []field{protocol, f.addrOnce, portOnce, f.addr, port}
	single, ranges := newSet(0, key...), newSet(unix.NFT_SET_INTERVAL, key...)
	for _, m := range masquerades {
		if !f.has(m.server) {
			continue
		}
		at := func(once, now uint16) string {
			return words([]byte{m.flow.Protocol}, m.flow.Addr.AsSlice(), portBytes(once), m.server.AsSlice(), portBytes(now))
		}
		e := element{first: at(m.flow.First, m.first), last: at(m.flow.Last, m.last)}
		if e.first == e.last {
			single.elements[e] = struct{}{}
		} else {
			ranges.elements[e] = struct{}{}
		}
	}
	t.addMasqueradeRule(f, "masquerade_"+f.name, single, key)
	t.addMasqueradeRule(f, "masquerade_ranges_"+f.name, ranges, key)
}

func (t *table) addMasqueradeRule(f family, name string, s set, key []field) {
	if len(s.elements) == 0 {
		return
	}
	t.sets[name] = s
	r := append(t.havePorts(), f.only()...)
	r = append(r, loadKey(key)...)
	t.addRule("postrouting", append(r, lookup(name), expression{name: "masq"}))
}

// addMarked goes by marks. A packet in a tunnel has the mark of the packet inside and goes to the server; but it came
// into being on its way there, so that its connection was to the server from the beginning.
func (t *table) addMarked(f family, masquerades map[Masquerade]struct{}) {
	now, once := []field{mark, f.addr}, []field{mark, f.addrOnce}
	anyPort, onePort := newSet(0, now...), newSet(0, append(now, port)...)
	for m := range masquerades {
		if m.Mark == 0 || !f.has(m.Server.Addr()) {
			continue
		}
		s, values := anyPort, [][]byte{markBytes(m.Mark), m.Server.Addr().AsSlice()}
		if m.Server.Port() != 0 {
			s, values = onePort, append(values, portBytes(m.Server.Port()))
		}
		e := words(values...)
		s.elements[element{first: e, last: e}] = struct{}{}
	}
	t.addMarkedRule(f, "masquerade_marked_"+f.name, anyPort, now, once)
	t.addMarkedRule(f, "masquerade_marked_ports_"+f.name, onePort, append(now, port), append(once, port))
}

func (t *table) addMarkedRule(f family, name string, s set, now, once []field) {
	if len(s.elements) == 0 {
		return
	}
	t.sets[name] = s
	r := append(f.only(), loadKey(once)...)
	r = append(r, lookupNot(name))
	r = append(r, loadKey(now)...)
	t.addRule("postrouting", append(r, lookup(name), expression{name: "masq"}))
}

// havePorts matches the protocols with ports, once more than the key behind it: only from this nft(8) before 1.0.8 knows
// that conntrack's original port is one, and can load again what it lists.
func (t *table) havePorts() rule {
	s := newSet(unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT, protocol)
	for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP} {
		s.elements[element{first: words([]byte{p}), last: words([]byte{p})}] = struct{}{}
	}
	// An anonymous set belongs to one rule. The kernel would name them like this, too.
	name := ""
	for n, taken := 0, true; taken; n++ {
		name = fmt.Sprintf("__set%d", n)
		_, taken = t.sets[name]
	}
	t.sets[name] = s
	return rule{protocol.load(register(0)), lookup(name)}
}

func (t *table) addRule(chainName string, r rule) {
	c := t.chains[chainName]
	c.kind = chainKinds[chainName]
	c.rules = append(c.rules, r)
	t.chains[chainName] = c
}

func newSet(flags uint32, key ...field) set {
	s := set{kind: setKind{flags: flags}, elements: make(map[element]struct{})}
	if flags&unix.NFT_SET_INTERVAL != 0 {
		s.kind.flags |= setConcat
	}
	for _, f := range key {
		s.fields = append(s.fields, f.bytes)
		s.kind.keyType = s.kind.keyType<<6 | f.kind // as nft(8) packs the types of a concatenation
		s.kind.keyBytes += (f.bytes + 3) &^ 3
	}
	if len(key) == 1 {
		s.kind.keyBytes = key[0].bytes
	}
	return s
}

// setConcat says that the kernel is told the lengths of fields: it needs them to search ranges (NFT_SET_CONCAT).
const setConcat = 0x80

// loadKey puts the fields of a key beside each other into registers, each filled up to whole ones.
func loadKey(key []field) rule {
	var r rule
	word := uint32(0)
	for _, f := range key {
		r = append(r, f.load(register(word)))
		word += (f.bytes + 3) / 4
	}
	return r
}

// words are values of fields in the way loadKey puts them; a single one has its own length.
func words(values ...[]byte) string {
	var b []byte
	for _, v := range values {
		b = append(b, v...)
		for len(values) > 1 && len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return string(b)
}

// markBytes are in the host's order, as marks are in registers.
func markBytes(m uint32) []byte { return binary.NativeEndian.AppendUint32(nil, m) }

func portBytes(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// register is the number of the register for the n-th 32 bits. The first of each four has the number that it had when
// registers were of 128 bits: the kernel says it like that, too.
func register(n uint32) uint32 {
	if n%4 == 0 {
		return unix.NFT_REG_1 + n/4
	}
	return unix.NFT_REG32_00 + n
}

// only matches packets of the family.
func (f family) only() rule {
	return rule{meta(unix.NFT_META_NFPROTO)(register(0)), {"cmp", map[uint16]string{
		unix.NFTA_CMP_SREG: be32(register(0)),
		unix.NFTA_CMP_OP:   be32(unix.NFT_CMP_EQ),
		unix.NFTA_CMP_DATA: string(appendAttr(nil, unix.NFTA_DATA_VALUE, []byte{f.number})),
	}}}
}

func meta(key uint32) func(register uint32) expression {
	return func(register uint32) expression {
		return expression{"meta", map[uint16]string{unix.NFTA_META_KEY: be32(key), unix.NFTA_META_DREG: be32(register)}}
	}
}

// setMark gives the packet the mark that lookupInto found.
var setMark = expression{"meta", map[uint16]string{
	unix.NFTA_META_KEY:  be32(unix.NFT_META_MARK),
	unix.NFTA_META_SREG: be32(register(0)),
}}

func payload(header, offset, bytes uint32) func(register uint32) expression {
	return func(register uint32) expression {
		return expression{"payload", map[uint16]string{
			unix.NFTA_PAYLOAD_BASE:   be32(header),
			unix.NFTA_PAYLOAD_OFFSET: be32(offset),
			unix.NFTA_PAYLOAD_LEN:    be32(bytes),
			unix.NFTA_PAYLOAD_DREG:   be32(register),
		}}
	}
}

// original loads what conntrack knows of the direction in which the connection came.
func original(key uint32) func(register uint32) expression {
	return func(register uint32) expression {
		return expression{"ct", map[uint16]string{
			unix.NFTA_CT_KEY:       be32(key),
			unix.NFTA_CT_DIRECTION: "\x00", // IP_CT_DIR_ORIGINAL
			unix.NFTA_CT_DREG:      be32(register),
		}}
	}
}

// lookup matches what is in the set, lookupNot what is not, lookupInto what is in the map and loads its data.
func lookup(set string) expression {
	return expression{"lookup", map[uint16]string{unix.NFTA_LOOKUP_SET: set + "\x00", unix.NFTA_LOOKUP_SREG: be32(register(0))}}
}

func lookupNot(set string) expression {
	e := lookup(set)
	e.attrs[unix.NFTA_LOOKUP_FLAGS] = be32(unix.NFT_LOOKUP_F_INV)
	return e
}

func lookupInto(set string) expression {
	e := lookup(set)
	e.attrs[unix.NFTA_LOOKUP_DREG] = be32(register(0))
	return e
}

// differences says in what the kernel's table is not as wanted. Nothing means that it is.
func (want *table) differences(have *table) []string {
	switch {
	case want == nil && have == nil:
		return nil
	case want == nil:
		return []string{"table inet poise is there"}
	case have == nil:
		return []string{"table inet poise is gone"}
	}
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if have.flags != want.flags {
		say("table inet poise has flags %#x (1 is dormant)", have.flags)
	}
	for _, name := range names(want.sets, have.sets) {
		w, wanted := want.sets[name]
		h, exists := have.sets[name]
		switch {
		case exists != wanted && (h.kind.flags|w.kind.flags)&unix.NFT_SET_ANONYMOUS != 0:
			// It went or came with its rule, of which more is said below.
		case !exists:
			say("%s is gone", name)
		case !wanted:
			say("%s is not ours", name)
		case h.kind != w.kind:
			say("%s is of another kind", name)
		}
		if missing := lacking(h.elements, w.elements); exists && missing > 0 {
			say("elements of %s missing: %d", name, missing)
		}
		if more := lacking(w.elements, h.elements); wanted && more > 0 {
			say("elements of %s not ours: %d", name, more)
		}
	}
	for _, name := range names(want.chains, have.chains) {
		w, wanted := want.chains[name]
		h, exists := have.chains[name]
		switch {
		case !exists:
			say("chain %s is gone", name)
		case !wanted:
			say("chain %s is not ours", name)
		case h.kind != w.kind:
			say("chain %s has another type, hook, priority or policy", name)
		case len(h.rules) != len(w.rules):
			say("chain %s has %d rules, not %d", name, len(h.rules), len(w.rules))
		case !slices.EqualFunc(h.rules, w.rules, rule.same):
			say("chain %s has another rule", name)
		}
	}
	return found
}

func (r rule) same(o rule) bool { return slices.EqualFunc(r, o, expression.same) }

// lacking counts the elements of b that are not in a.
func lacking(a, b map[element]struct{}) int {
	n := 0
	for e := range b {
		if _, ok := a[e]; !ok {
			n++
		}
	}
	return n
}

// names are the keys of both, in order.
func names[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}
