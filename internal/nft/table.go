package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// place is where a table of ours is.
type place struct {
	family  nftables.TableFamily
	name    string
	hooks   map[string]chainKind // what chains there may be
	modules string               // of the kernel, that it loads by itself
	support string               // what else not every kernel has
}

// String is how nft(8) wants it: "inet poise".
func (p *place) String() string {
	if p.family == nftables.TableFamilyARP {
		return "arp " + p.name
	}
	return "inet " + p.name
}

// table is what nftables holds at a place of ours. With nothing in it, it is wanted nowhere; where there is none, it is
// read as nil.
type table struct {
	place   *place
	flagged bool // dormant, for example: we want no flags
	sets    map[string]set
	chains  map[string]chain
	unread  error // why the sets could not be read
}

// set is a set or a map.
type set struct {
	kind     nftables.Set // without table, name and numbers
	elements map[element]struct{}
}

// element has the bytes that are sent. Last differs from first only in a set of ranges; data is a map's.
type element struct{ first, last, data string }

func newTable(p *place) *table {
	return &table{place: p, sets: make(map[string]set), chains: make(map[string]chain)}
}

func (t *table) wanted() bool { return len(t.sets)+len(t.chains) > 0 }

type chain struct {
	kind  chainKind
	rules []rule
}

type chainKind struct {
	name     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	policy   nftables.ChainPolicy
}

// field is a part of a key: its type, and how it gets from a packet into a register.
type field struct {
	kind nftables.SetDatatype
	load func(register uint32) []byte
}

var (
	protocol = field{nftables.TypeInetProto, meta(expr.MetaKeyL4PROTO)}
	port     = field{nftables.TypeInetService, payload(expr.PayloadBaseTransportHeader, 2, 2)}
	portOnce = field{nftables.TypeInetService, original(unix.NFT_CT_PROTO_DST)}
	mark     = field{nftables.TypeMark, meta(expr.MetaKeyMARK)}
)

// family is what IPv4 and IPv6 differ in. A packet's address is where it goes now; addrOnce and portOnce are where its
// connection went when it came, before IPVS chose a server; source is where it comes from.
type family struct {
	name                   string
	number                 byte
	addr, addrOnce, source field
}

var families = []family{
	{
		"ipv4", unix.NFPROTO_IPV4,
		field{nftables.TypeIPAddr, payload(expr.PayloadBaseNetworkHeader, 16, 4)},
		field{nftables.TypeIPAddr, original(unix.NFT_CT_DST_IP)},
		field{nftables.TypeIPAddr, payload(expr.PayloadBaseNetworkHeader, 12, 4)},
	},
	{
		"ipv6", unix.NFPROTO_IPV6,
		field{nftables.TypeIP6Addr, payload(expr.PayloadBaseNetworkHeader, 24, 16)},
		field{nftables.TypeIP6Addr, original(unix.NFT_CT_DST_IP6)},
		field{nftables.TypeIP6Addr, payload(expr.PayloadBaseNetworkHeader, 8, 16)},
	},
}

// has reports whether an address is one of the family.
func (f family) has(a netip.Addr) bool { return a.Is4() == (f.number == unix.NFPROTO_IPV4) }

// directorPlace has chains at the priorities that nft(8) calls mangle and srcnat. Output is for the director's own
// connections: they are routed again when they get a mark. Postrouting makes the kernel track all connections, which
// costs, so it is only there where it is needed.
var directorPlace = &place{
	family: nftables.TableFamilyINet,
	name:   "poise",
	hooks: map[string]chainKind{
		"prerouting":  {nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle, nftables.ChainPolicyAccept},
		"output":      {nftables.ChainTypeRoute, *nftables.ChainHookOutput, *nftables.ChainPriorityMangle, nftables.ChainPolicyAccept},
		"postrouting": {nftables.ChainTypeNAT, *nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, nftables.ChainPolicyAccept},
	},
	modules: "nft_chain_nat, nft_ct and nft_masq",
	support: "family inet, or no sets of ranges (Linux 5.6 has both)",
}

// tableOf is the director's table that does what r wants, with nothing in it that has nothing to do.
func tableOf(r Rules) *table {
	t := newTable(directorPlace)
	masquerades := r.masquerades()
	for _, f := range families {
		t.addMarks(f, r.Marks)
		t.addMasquerades(f, masquerades)
		t.addMarked(f, r.Masquerades)
	}
	return t
}

func (t *table) addMarks(f family, marks map[Flow]uint32) {
	key := []field{f.addr, protocol, port}
	s := newSet(nftables.Set{IsMap: true, DataType: nftables.TypeMark, Interval: true}, key...)
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
	t.addRule("output", slices.Concat(notOfProbes(), r))
}

// notOfProbes matches packets without the mark of a probe.
func notOfProbes() rule {
	at := register(0)
	return append(rule{mark.load(at)},
		encode(&expr.Bitwise{SourceRegister: at, DestRegister: at, Len: 4, Mask: markBytes(ProbeMask), Xor: markBytes(0)}),
		encode(&expr.Cmp{Op: expr.CmpOpNeq, Register: at, Data: markBytes(ProbeBlock)}),
	)
}

// addMasquerades keeps pairs of single ports in a set of their own, which the kernel searches and fills by a hash. To fill
// a set of ranges takes Linux 6.1 time with the square of its size: more than a second for ten thousand.
func (t *table) addMasquerades(f family, masquerades []masquerade) {
	key := []field{protocol, f.addrOnce, portOnce, f.addr, port}
	single, ranges := newSet(nftables.Set{}, key...), newSet(nftables.Set{Interval: true}, key...)
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
	t.addRule("postrouting", append(r, lookup(name), encode(&expr.Masq{})))
}

// addMarked goes by marks. A packet in a tunnel has the mark of the packet inside and goes to the server; but it came
// into being on its way there, so that its connection was to the server from the beginning.
func (t *table) addMarked(f family, masquerades map[Masquerade]struct{}) {
	now, once := []field{mark, f.addr}, []field{mark, f.addrOnce}
	anyPort, onePort := newSet(nftables.Set{}, now...), newSet(nftables.Set{}, append(now, port)...)
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
	t.addRule("postrouting", append(r, lookup(name), encode(&expr.Masq{})))
}

// havePorts matches the protocols with ports, once more than the key behind it: only from this nft(8) before 1.0.8 knows
// that conntrack's original port is one, and can load again what it lists.
func (t *table) havePorts() rule {
	s := newSet(nftables.Set{Anonymous: true, Constant: true}, protocol)
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
	c.kind = t.place.hooks[chainName]
	c.rules = append(c.rules, r)
	t.chains[chainName] = c
}

func newSet(kind nftables.Set, key ...field) set {
	kind.Concatenation = kind.Interval // the kernel must know the lengths of fields to search ranges
	kind.KeyType = key[0].kind
	if len(key) > 1 {
		var kinds []nftables.SetDatatype
		for _, f := range key {
			kinds = append(kinds, f.kind)
		}
		kind.KeyType = nftables.MustConcatSetType(kinds...)
	}
	return set{kind: kind, elements: make(map[element]struct{})}
}

// loadKey puts the fields of a key beside each other into registers, each filled up to whole ones.
func loadKey(key []field) rule {
	var r rule
	word := uint32(0)
	for _, f := range key {
		r = append(r, f.load(register(word)))
		word += (f.kind.Bytes + 3) / 4
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
	return rule{
		meta(expr.MetaKeyNFPROTO)(register(0)),
		encode(&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: []byte{f.number}}),
	}
}

func meta(key expr.MetaKey) func(register uint32) []byte {
	return func(register uint32) []byte { return encode(&expr.Meta{Key: key, Register: register}) }
}

// setMark gives the packet the mark that lookupInto found.
var setMark = encode(&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register(0)})

func payload(base expr.PayloadBase, offset, bytes uint32) func(register uint32) []byte {
	return func(register uint32) []byte {
		return encode(&expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: bytes})
	}
}

// lookup matches what is in the set, lookupNot what is not, lookupInto what is in the map and loads its data.
func lookup(set string) []byte {
	return encode(&expr.Lookup{SetName: set, SourceRegister: register(0)})
}

func lookupNot(set string) []byte {
	return encode(&expr.Lookup{SetName: set, SourceRegister: register(0), Invert: true})
}

func lookupInto(set string) []byte {
	return encode(&expr.Lookup{SetName: set, SourceRegister: register(0), IsDestRegSet: true, DestRegister: register(0)})
}

// differences says in what the kernel's table is not as wanted. Nothing means that it is.
func (want *table) differences(have *table) []string {
	switch {
	case !want.wanted() && have == nil:
		return nil
	case !want.wanted():
		return []string{fmt.Sprintf("table %v is there", want.place)}
	case have == nil:
		return []string{fmt.Sprintf("table %v is gone", want.place)}
	case have.unread != nil:
		return []string{fmt.Sprintf("table %v has sets of an unknown kind: %v", want.place, have.unread)}
	}
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if have.flagged {
		say("table %v is dormant or has another flag", want.place)
	}
	for _, name := range names(want.sets, have.sets) {
		w, wanted := want.sets[name]
		h, exists := have.sets[name]
		switch {
		case exists != wanted && (h.kind.Anonymous || w.kind.Anonymous):
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
