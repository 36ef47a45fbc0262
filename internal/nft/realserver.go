package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Bounds of what a real server may want. Each size of segments is a rule or two, which every packet meets.
const (
	maxAddrs        = 1 << 14
	maxLinks        = 1 << 12
	maxSizes        = 64
	minMSS   uint16 = 88    // the kernel's TCP_MIN_MSS
	maxMSS   uint16 = 65495 // of the largest packet without its two headers of 20 bytes
)

// silencePlace has the kernel's hooks of ARP, which count from 0 (linux/netfilter_arp.h), at the priority that nft(8) calls
// filter.
var silencePlace = &place{
	family: nftables.TableFamilyARP,
	name:   "poise",
	hooks: map[string]chainKind{
		"input":  {nftables.ChainTypeFilter, 0, *nftables.ChainPriorityFilter, nftables.ChainPolicyAccept},
		"output": {nftables.ChainTypeFilter, 1, *nftables.ChainPriorityFilter, nftables.ChainPolicyAccept},
	},
	support: "family arp",
}

var clampPlace = &place{
	family: nftables.TableFamilyINet,
	name:   "poise_realserver",
	hooks: map[string]chainKind{
		"output": {nftables.ChainTypeFilter, *nftables.ChainHookOutput, *nftables.ChainPriorityMangle, nftables.ChainPolicyAccept},
	},
	support: "family inet",
}

// Where ARP of IPv4 over Ethernet has addresses (RFC 826).
const (
	arpSender = 14
	arpTarget = 24
)

var (
	sender = field{nftables.TypeIPAddr, payload(expr.PayloadBaseNetworkHeader, arpSender, 4)}
	target = field{nftables.TypeIPAddr, payload(expr.PayloadBaseNetworkHeader, arpTarget, 4)}
)

// SetSilence keeps this host silent about virtual addresses in ARP, in the network namespace of the calling thread: their
// director answers. In one transaction table arp poise is replaced, or without vips removed. Own is, by interface, the
// address that stands for a virtual one as the sender of ARP. On an interface without one nothing is sent in a virtual
// address's name: no neighbour answers where the answer would be dropped, but it would remember who asked. So from virtual
// addresses nothing more goes out there. Only ARP as over Ethernet is known.
func SetSilence(vips []netip.Addr, own map[string]netip.Addr) error {
	if err := checkSilence(vips, own); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if len(vips) == 0 {
		return put(newTable(silencePlace))
	}
	return put(silence(vips, own))
}

// ReadSilence returns the addresses in table arp poise of the calling thread's network namespace, in order, and in what the
// rest of the table differs from what SetSilence makes of them and own, each in a few words. Without a table there is
// neither.
func ReadSilence(own map[string]netip.Addr) (vips []netip.Addr, differences []string, err error) {
	if err := checkSilence(nil, own); err != nil {
		return nil, nil, fmt.Errorf("nftables: %w", err)
	}
	have, err := get(silencePlace)
	if err != nil || have == nil {
		return nil, nil, err
	}
	vips, differences = have.silent(own)
	return vips, differences, nil
}

// SetClamp lets this host announce no larger MSS from an address than that of the address, in the network namespace of the
// calling thread: so that the segments of clients fit into the director's tunnel. In one transaction table inet
// poise_realserver is replaced, or without addresses removed.
func SetClamp(mss map[netip.Addr]uint16) error {
	if err := checkClamp(mss); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return put(clamp(mss))
}

// ReadClamp returns what table inet poise_realserver of the calling thread's network namespace has for addresses, and in what
// the rest of the table differs from what SetClamp makes of that, each in a few words. Without a table there is neither.
func ReadClamp() (mss map[netip.Addr]uint16, differences []string, err error) {
	have, err := get(clampPlace)
	if err != nil || have == nil {
		return nil, nil, err
	}
	mss, differences = have.clamped()
	return mss, differences, nil
}

// put makes a table what is in the kernel.
func put(t *table) error {
	c, err := openAt(t.place)
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.replace(t)
	if !t.wanted() && errors.Is(err, unix.EOPNOTSUPP) {
		return nil // where there is no such family, there is no such table
	}
	return err
}

// get reads the table at a place; nil where there is none.
func get(p *place) (*table, error) {
	c, err := openAt(p)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.look(); err != nil {
		return nil, fmt.Errorf("nftables: %w", p.explain(err))
	}
	return c.have, nil
}

func checkSilence(vips []netip.Addr, own map[string]netip.Addr) error {
	if len(vips) > maxAddrs {
		return fmt.Errorf("silence in ARP: %d addresses are more than %d", len(vips), maxAddrs)
	}
	if len(own) > maxLinks {
		return fmt.Errorf("own addresses: %d interfaces are more than %d", len(own), maxLinks)
	}
	silent := make(map[netip.Addr]bool)
	for _, vip := range vips {
		if !unicast(vip) || !vip.Is4() {
			return fmt.Errorf("silence of %v in ARP: not a unicast address of IPv4", vip)
		}
		silent[vip] = true
	}
	for _, link := range slices.Sorted(maps.Keys(own)) {
		addr := own[link]
		switch {
		case !isLink(link):
			return fmt.Errorf("own address %v of %q: not an interface's name of 1 to 15 bytes without spaces and any of %s", addr, link, notInLink)
		case !unicast(addr) || !addr.Is4():
			return fmt.Errorf("own address %v of %s: not a unicast address of IPv4", addr, link)
		case silent[addr]:
			return fmt.Errorf("own address %v of %s: is one to be silent about", addr, link)
		}
	}
	return nil
}

func checkClamp(mss map[netip.Addr]uint16) error {
	if len(mss) > maxAddrs {
		return fmt.Errorf("MSS: %d addresses are more than %d", len(mss), maxAddrs)
	}
	sizes := make(map[uint16]bool)
	for _, addr := range slices.SortedFunc(maps.Keys(mss), netip.Addr.Compare) {
		size := mss[addr]
		switch {
		case !unicast(addr):
			return fmt.Errorf("MSS of %v: not a unicast address", addr)
		case size < minMSS || size > maxMSS:
			return fmt.Errorf("MSS %d of %v is outside %d..%d", size, addr, minMSS, maxMSS)
		}
		sizes[size] = true
	}
	if len(sizes) > maxSizes {
		return fmt.Errorf("MSS: %d different ones are more than %d", len(sizes), maxSizes)
	}
	return nil
}

func unicast(a netip.Addr) bool {
	return (a.IsGlobalUnicast() || a.IsLinkLocalUnicast()) && !a.Is4In6() && a.Zone() == ""
}

// notInLink is what the kernel has in no name of an interface, and what nft(8) cannot write or load again.
const notInLink = `/:"*\`

func isLink(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(notInLink, r) })
}

// silence has the set also where it has no elements. An address that a rule has set is the one that the next rules meet.
func silence(vips []netip.Addr, own map[string]netip.Addr) *table {
	t := newTable(silencePlace)
	s := newSet(nftables.Set{}, target)
	for _, vip := range vips {
		s.elements[single(vip)] = struct{}{}
	}
	t.sets["vips"] = s
	t.addRule("input", rule{target.load(register(0)), lookup("vips"), drop})
	for _, link := range slices.Sorted(maps.Keys(own)) {
		t.addRule("output", rule{
			meta(expr.MetaKeyOIFNAME)(register(0)),
			encode(&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: linkBytes(link)}),
			sender.load(register(0)), lookup("vips"),
			encode(&expr.Immediate{Register: register(0), Data: own[link].AsSlice()}), setSender,
		})
	}
	t.addRule("output", rule{sender.load(register(0)), lookup("vips"), drop})
	return t
}

// linkBytes fill registers as the kernel does, with zeros behind the name.
func linkBytes(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// silent is what ReadSilence says of a table.
func (t *table) silent(own map[string]netip.Addr) (vips []netip.Addr, differences []string) {
	if s := t.sets["vips"]; s.kind == newSet(nftables.Set{}, target).kind {
		vips = s.addrs()
	}
	differences = silence(vips, own).differences(t)
	if len(vips) == 0 && len(differences) == 0 {
		differences = []string{"vips is empty"}
	}
	return vips, differences
}

// clamp has a set and a rule for each size and family.
func clamp(mss map[netip.Addr]uint16) *table {
	t := newTable(clampPlace)
	for addr, size := range mss {
		f := families[slices.IndexFunc(families, func(f family) bool { return f.has(addr) })]
		name := clampName(f, size)
		if _, ok := t.sets[name]; !ok {
			t.sets[name] = newSet(nftables.Set{}, f.source)
		}
		t.sets[name].elements[single(addr)] = struct{}{}
	}
	for _, size := range slices.Compact(slices.Sorted(maps.Values(mss))) {
		for _, f := range families {
			if _, ok := t.sets[clampName(f, size)]; ok {
				t.addRule("output", clampRule(f, size))
			}
		}
	}
	return t
}

// clampRule looks first for what few packets have. Newer kernels at least set no larger MSS over a smaller one, but who
// reads the rule should see it.
func clampRule(f family, size uint16) rule {
	at, value := register(0), binary.BigEndian.AppendUint16(nil, size)
	r := append(isSYN(), f.only()...)
	return append(
		r, f.source.load(at), lookup(clampName(f, size)),
		encode(&expr.Exthdr{DestRegister: at, Type: tcpMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt}),
		encode(&expr.Cmp{Op: expr.CmpOpGt, Register: at, Data: value}),
		encode(&expr.Immediate{Register: at, Data: value}),
		encode(&expr.Exthdr{SourceRegister: at, Type: tcpMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt}),
	)
}

// clamped is what ReadClamp says of a table. Where an address is in several sets, the smallest MSS is announced.
func (t *table) clamped() (mss map[netip.Addr]uint16, differences []string) {
	mss = make(map[netip.Addr]uint16)
	for name, s := range t.sets {
		for _, f := range families {
			size, ok := clampSize(f, name)
			if !ok || s.kind != newSet(nftables.Set{}, f.source).kind {
				continue
			}
			for _, addr := range s.addrs() {
				if other, ok := mss[addr]; !ok || size < other {
					mss[addr] = size
				}
			}
		}
	}
	return mss, clamp(mss).differences(t)
}

// clampName is of the set of all addresses that announce no more than size. So the set says it, and not a map: nft(8)
// 1.0.6 cannot load again what it lists of a rule that takes an MSS from one.
func clampName(f family, size uint16) string { return fmt.Sprintf("mss_%d_%s", size, f.name) }

func clampSize(f family, name string) (uint16, bool) {
	digits, _, _ := strings.Cut(strings.TrimPrefix(name, "mss_"), "_")
	n, err := strconv.ParseUint(digits, 10, 16)
	size := uint16(n)
	return size, err == nil && minMSS <= size && size <= maxMSS && name == clampName(f, size)
}

const (
	tcpFlags = 13 // offset in the header
	tcpSYN   = 2
	tcpMSS   = 2 // an option's kind
)

// isSYN matches SYN and SYN-ACK.
func isSYN() rule {
	at := register(0)
	return rule{
		protocol.load(at),
		encode(&expr.Cmp{Op: expr.CmpOpEq, Register: at, Data: []byte{unix.IPPROTO_TCP}}),
		payload(expr.PayloadBaseTransportHeader, tcpFlags, 1)(at),
		encode(&expr.Bitwise{SourceRegister: at, DestRegister: at, Len: 1, Mask: []byte{tcpSYN}, Xor: []byte{0}}),
		encode(&expr.Cmp{Op: expr.CmpOpEq, Register: at, Data: []byte{tcpSYN}}),
	}
}

// setSender makes the address in the register the sender's.
var setSender = encode(&expr.Payload{
	OperationType: expr.PayloadWrite, SourceRegister: register(0), Base: expr.PayloadBaseNetworkHeader, Offset: arpSender, Len: 4,
})

// single is the element of an address in a set of addresses.
func single(addr netip.Addr) element {
	b := string(addr.AsSlice())
	return element{first: b, last: b}
}

// addrs are the elements of a set of addresses, in order.
func (s set) addrs() []netip.Addr {
	var addrs []netip.Addr
	for e := range s.elements {
		if addr, ok := netip.AddrFromSlice([]byte(e.first)); ok {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
