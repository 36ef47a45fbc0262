package nft

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// github.com/google/nftables v0.3.0 builds the messages of a transaction, and reads back what it can. What it lacks stands
// here beside it, and can go as it learns it:
//
//   - it has no word for "ct original ip daddr", and "ct original daddr", which it has, crashes nft(8) when it lists it as
//     part of a key. The direction of any it takes for 32 bits, not 8: it cannot read such rules, and the kernel complains in
//     its log of those it writes. It also leaves out expressions that it does not know. So we write and read rules;
//   - it does not tell nft(8) the byte order of a map's data: marks would be listed, and loaded again, the wrong way round.
//
// Nothing can be added to what its Flush sends: so it only encodes for us, and we send.

// replacement is the transaction after which t is the table, whatever was there before. Deleting needs something to
// delete: so an empty table is added first, which changes nothing where there is one.
func (t *table) replacement() ([]netlink.Message, error) {
	var batch []netlink.Message
	conn := &nftables.Conn{TestDial: func(sent []netlink.Message) ([]netlink.Message, error) { // the only way to what it encodes
		batch = append(batch, sent...)
		return nil, io.EOF // no answer
	}}
	ours := &nftables.Table{Name: t.place.name, Family: t.place.family}
	conn.AddTable(ours)
	conn.DelTable(ours)
	var rules []netlink.Message
	if t.wanted() {
		conn.AddTable(ours)
		for i, name := range slices.Sorted(maps.Keys(t.sets)) {
			if err := t.sets[name].add(conn, ours, name, uint32(i+1)); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(t.chains)) {
			c := t.chains[name]
			conn.AddChain(&nftables.Chain{
				Table: ours, Name: name, Type: c.kind.name, Hooknum: &c.kind.hook, Priority: &c.kind.priority, Policy: &c.kind.policy,
			})
			for _, r := range c.rules {
				m, err := r.message(t.place, name)
				if err != nil {
					return nil, fmt.Errorf("rule of chain %s: %w", name, err)
				}
				rules = append(rules, m)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	batch = slices.Insert(batch, len(batch)-1, rules...) // before the batch's end
	for i, m := range batch {
		if m.Header.Type == nftType(unix.NFT_MSG_NEWSET) {
			m.Data = append(m.Data, dataByteOrder...)
		}
		// One answer is enough: errors are reported in any case.
		flags := m.Header.Flags &^ netlink.Acknowledge
		if i == len(batch)-2 {
			flags |= netlink.Acknowledge
		}
		batch[i] = netlink.Message{Header: netlink.Header{Type: m.Header.Type, Flags: flags}, Data: m.Data}
	}
	return batch, nil
}

// dataByteOrder tells nft(8) that a map's data, marks, is in the host's byte order (NFTNL_UDATA_SET_DATABYTEORDER of
// libnftnl's include/udata.h, 4 bytes, BYTEORDER_HOST_ENDIAN). It stands for what the library says there of keys, which are
// in the network's; and where there is no data it has no meaning.
var dataByteOrder = attribute(unix.NFTA_SET_USERDATA, binary.NativeEndian.AppendUint32([]byte{1, 4}, 1))

// elementsPerMessage keeps the list, an attribute, below the 64 KiB that its length can say: 128 bytes each at most.
const elementsPerMessage = 500

func (s set) add(conn *nftables.Conn, table *nftables.Table, name string, id uint32) error {
	kind := s.kind
	kind.Table, kind.Name, kind.ID = table, name, id
	var elements []nftables.SetElement
	for e := range s.elements {
		element := nftables.SetElement{Key: []byte(e.first), Val: []byte(e.data)}
		if kind.Interval {
			element.KeyEnd = []byte(e.last)
		}
		elements = append(elements, element)
	}
	first := min(elementsPerMessage, len(elements))
	if err := conn.AddSet(&kind, elements[:first]); err != nil {
		return err
	}
	for more := range slices.Chunk(elements[first:], elementsPerMessage) {
		if err := conn.SetAddElements(&kind, more); err != nil {
			return err
		}
	}
	return nil
}

func (r rule) message(p *place, chain string) (netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_RULE_TABLE, p.name)
	ae.String(unix.NFTA_RULE_CHAIN, chain)
	ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
		for _, e := range r {
			ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, e)
		}
		return nil
	})
	b, err := ae.Encode()
	return message(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, byte(p.family), b), err
}

// readRule adds a rule that the kernel tells of, if it is of our table.
func (t *table) readRule(m netlink.Message) error {
	ad, err := decoder(m)
	if err != nil {
		return err
	}
	var of, name string
	var r rule
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			of = ad.String()
		case unix.NFTA_RULE_CHAIN:
			name = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					r = append(r, ad.Bytes())
				}
				return nil
			})
		}
	}
	if of == t.place.name {
		c := t.chains[name]
		c.rules = append(c.rules, r)
		t.chains[name] = c
	}
	return ad.Err()
}

// rule is a small program: expressions, encoded, are run in order until one does not match.
type rule [][]byte

func (r rule) same(o rule) bool {
	return slices.EqualFunc(r, o, func(a, b []byte) bool { return meaning(a) == meaning(b) })
}

// meaning makes what was written and what is read comparable, where the order of attributes may differ, and which zeros
// are mentioned.
func meaning(expression []byte) string {
	var name string
	attrs := make(map[uint16][]byte)
	ad, err := netlink.NewAttributeDecoder(expression)
	if err != nil {
		return err.Error()
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if v := ad.Bytes(); slices.ContainsFunc(v, func(b byte) bool { return b != 0 }) {
						attrs[ad.Type()] = v
					}
				}
				return nil
			})
		}
	}
	return fmt.Sprint(name, attrs, ad.Err()) // maps are printed in order
}

// encode is the library's encoding. Ours are small, and the same in all families: there is no error.
func encode(e expr.Any) []byte {
	b, err := expr.Marshal(unix.NFPROTO_INET, e)
	if err != nil {
		panic(err)
	}
	return b
}

// original loads what conntrack knows of the direction in which the connection came.
func original(key uint32) func(register uint32) []byte {
	return func(register uint32) []byte {
		return slices.Concat(attribute(unix.NFTA_EXPR_NAME, []byte("ct\x00")), attribute(unix.NLA_F_NESTED|unix.NFTA_EXPR_DATA, slices.Concat(
			attribute(unix.NFTA_CT_KEY, binary.BigEndian.AppendUint32(nil, key)),
			attribute(unix.NFTA_CT_DIRECTION, []byte{0}), // IP_CT_DIR_ORIGINAL
			attribute(unix.NFTA_CT_DREG, binary.BigEndian.AppendUint32(nil, register)),
		)))
	}
}

// attribute is a short one, encoded: there is no error.
func attribute(kind uint16, value []byte) []byte {
	b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: kind, Data: value}})
	if err != nil {
		panic(err)
	}
	return b
}

func message(kind uint16, flags netlink.HeaderFlags, family byte, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: nftType(kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...), // struct nfgenmsg
	}
}

func nftType(kind uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)
}

// decoder reads a message's attributes, behind struct nfgenmsg.
func decoder(m netlink.Message) (*netlink.AttributeDecoder, error) {
	ad, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
	if err == nil {
		ad.ByteOrder = binary.BigEndian
	}
	return ad, err
}
