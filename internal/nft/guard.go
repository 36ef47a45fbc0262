package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// guardPlace has a chain before the kernel's own look at where a packet comes from.
var guardPlace = &place{
	family: nftables.TableFamilyINet,
	name:   "poise_probe",
	hooks: map[string]chainKind{
		"prerouting": {nftables.ChainTypeFilter, *nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw - 10, nftables.ChainPolicyAccept},
	},
	modules: "nft_fib_inet",
	support: "family inet",
}

// Reply is what comes back of a probe through a virtual address: From is this host's, too.
type Reply struct {
	From netip.AddrPort
	To   netip.Addr
}

// SetGuard has the packets dropped that come in on links, of IPv4, with an address of this host's as their source, as the kernel does
// itself until accept_local lets them in; but for replies, which begin nothing. In the network namespace of the calling
// thread, table inet poise_probe is replaced in one transaction, or without links removed.
func SetGuard(links []string, replies []Reply) error {
	if len(links) > maxLinks || len(replies) > maxAddrs {
		return fmt.Errorf("nftables: a guard for %d interfaces and %d replies is more than %d and %d", len(links), len(replies), maxLinks, maxAddrs)
	}
	for _, link := range links {
		if !isLink(link) {
			return fmt.Errorf("nftables: guard of %q: not an interface's name of 1 to 15 bytes without spaces and any of %s", link, notInLink)
		}
	}
	for _, r := range replies {
		if !r.From.Addr().Is4() || !r.To.Is4() {
			return fmt.Errorf("nftables: guard: a reply from %v to %v is not one of IPv4", r.From, r.To)
		}
	}
	return put(guard(links, replies))
}

func guard(links []string, replies []Reply) *table {
	t := newTable(guardPlace)
	if len(links) == 0 {
		return t
	}
	f := families[0]
	key := []field{f.source, f.addr, sourcePort}
	s := newSet(nftables.Set{}, key...)
	for _, r := range replies {
		e := words(r.From.Addr().AsSlice(), r.To.AsSlice(), portBytes(r.From.Port()))
		s.elements[element{first: e, last: e}] = struct{}{}
	}
	t.sets["replies"] = s
	for _, link := range slices.Sorted(slices.Values(links)) {
		here := append(rule{
			meta(expr.MetaKeyIIFNAME)(register(0)),
			encode(&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: linkBytes(link)}),
		}, f.only()...)
		t.addRule("prerouting", slices.Concat(here, isAnswer(), loadKey(key), rule{lookup("replies"), accept}))
		t.addRule("prerouting", slices.Concat(here, fromHere(), rule{drop}))
	}
	return t
}

var sourcePort = field{nftables.TypeInetService, payload(expr.PayloadBaseTransportHeader, 0, 2)}

const tcpACK = 16

// isAnswer matches TCP but for a SYN without an ACK, which would begin a connection.
func isAnswer() rule {
	at := register(0)
	return rule{
		protocol.load(at),
		encode(&expr.Cmp{Op: expr.CmpOpEq, Register: at, Data: []byte{unix.IPPROTO_TCP}}),
		payload(expr.PayloadBaseTransportHeader, tcpFlags, 1)(at),
		encode(&expr.Bitwise{SourceRegister: at, DestRegister: at, Len: 1, Mask: []byte{tcpSYN | tcpACK}, Xor: []byte{0}}),
		encode(&expr.Cmp{Op: expr.CmpOpNeq, Register: at, Data: []byte{tcpSYN}}),
	}
}

// fromHere matches packets whose source is an address of this host.
func fromHere() rule {
	at := register(0)
	return rule{
		encode(&expr.Fib{Register: at, ResultADDRTYPE: true, FlagSADDR: true}),
		encode(&expr.Cmp{Op: expr.CmpOpEq, Register: at, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)}),
	}
}

var accept, drop = verdict(1), verdict(0) // NF_ACCEPT, NF_DROP

// verdict is the library's expr.Verdict, but with the verdict said to be nested in data as the kernel says it when read: not.
func verdict(code uint32) []byte {
	return slices.Concat(
		attribute(unix.NFTA_EXPR_NAME, []byte("immediate\x00")),
		attribute(unix.NLA_F_NESTED|unix.NFTA_EXPR_DATA, slices.Concat(
			attribute(unix.NFTA_IMMEDIATE_DREG, binary.BigEndian.AppendUint32(nil, unix.NFT_REG_VERDICT)),
			attribute(unix.NLA_F_NESTED|unix.NFTA_IMMEDIATE_DATA,
				attribute(unix.NFTA_DATA_VERDICT, attribute(unix.NFTA_VERDICT_CODE, binary.BigEndian.AppendUint32(nil, code)))),
		)),
	)
}
