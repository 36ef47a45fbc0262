package nft

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tableName is our table's, in family inet.
const tableName = "poise"

// Attributes that golang.org/x/sys does not have.
const (
	setDescConcat = 2  // NFTA_SET_DESC_CONCAT
	fieldLen      = 1  // NFTA_SET_FIELD_LEN
	elemKeyEnd    = 10 // NFTA_SET_ELEM_KEY_END
)

// dataByteOrder tells nft(8) that a map's data, marks, is in the host's byte order (NFTNL_UDATA_SET_DATABYTEORDER of
// libnftnl's include/udata.h, 4 bytes, BYTEORDER_HOST_ENDIAN).
var dataByteOrder = binary.NativeEndian.AppendUint32([]byte{1, 4}, 1)

// message is one request about nftables.
type message struct {
	what        string // it is about, for errors
	kind, flags uint16
	body        []byte
}

// replacement is the transaction after which t is the table, whatever was there before. Deleting needs something to
// delete: so an empty table is added first, which changes nothing where there is one.
func (t *table) replacement() []message {
	add := message{"table inet poise", unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, appendText(nil, unix.NFTA_TABLE_NAME, tableName)}
	remove := message{"table inet poise", unix.NFT_MSG_DELTABLE, 0, appendText(nil, unix.NFTA_TABLE_NAME, tableName)}
	messages := []message{add, remove}
	if t == nil {
		return messages
	}
	messages = append(messages, add)
	for _, name := range slices.Sorted(maps.Keys(t.sets)) {
		messages = append(messages, setMessages(name, t.sets[name])...)
	}
	for _, name := range slices.Sorted(maps.Keys(t.chains)) {
		c := t.chains[name]
		messages = append(messages, message{"chain " + name, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, appendChain(nil, name, c.kind)})
		for _, r := range c.rules {
			messages = append(messages, message{
				"rule of chain " + name, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE | unix.NLM_F_APPEND, appendRule(nil, name, r),
			})
		}
	}
	return messages
}

// elementsPerMessage keeps the list, an attribute, below the 64 KiB that its length can say: 128 bytes each at most.
const elementsPerMessage = 500

func setMessages(name string, s set) []message {
	b := appendText(nil, unix.NFTA_SET_TABLE, tableName)
	b = appendText(b, unix.NFTA_SET_NAME, name)
	b = appendAttr(b, unix.NFTA_SET_FLAGS, be32(s.kind.flags))
	b = appendAttr(b, unix.NFTA_SET_KEY_TYPE, be32(s.kind.keyType))
	b = appendAttr(b, unix.NFTA_SET_KEY_LEN, be32(s.kind.keyBytes))
	b = appendAttr(b, unix.NFTA_SET_ID, be32(1)) // must be there; we go by names
	if s.kind.dataType != 0 {
		b = appendAttr(b, unix.NFTA_SET_DATA_TYPE, be32(s.kind.dataType))
		b = appendAttr(b, unix.NFTA_SET_DATA_LEN, be32(4))
		b = appendAttr(b, unix.NFTA_SET_USERDATA, dataByteOrder)
	}
	if s.kind.flags&setConcat != 0 {
		var fields []byte
		for _, bytes := range s.fields {
			fields = appendNest(fields, unix.NFTA_LIST_ELEM, appendAttr(nil, fieldLen, be32(bytes)))
		}
		b = appendNest(b, unix.NFTA_SET_DESC, appendNest(nil, setDescConcat, fields))
	}
	messages := []message{{name, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, b}}

	for elements := range slices.Chunk(slices.Collect(maps.Keys(s.elements)), elementsPerMessage) {
		var list []byte
		for _, e := range elements {
			list = appendNest(list, unix.NFTA_LIST_ELEM, appendElement(nil, e, s.kind.flags&unix.NFT_SET_INTERVAL != 0))
		}
		b := appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
		b = appendText(b, unix.NFTA_SET_ELEM_LIST_SET, name)
		b = appendNest(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)
		messages = append(messages, message{"elements of " + name, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, b})
	}
	return messages
}

func appendElement(b []byte, e element, ranges bool) []byte {
	b = appendNest(b, unix.NFTA_SET_ELEM_KEY, appendAttr(nil, unix.NFTA_DATA_VALUE, e.first))
	if ranges {
		b = appendNest(b, elemKeyEnd, appendAttr(nil, unix.NFTA_DATA_VALUE, e.last))
	}
	if e.data != "" {
		b = appendNest(b, unix.NFTA_SET_ELEM_DATA, appendAttr(nil, unix.NFTA_DATA_VALUE, e.data))
	}
	return b
}

func appendChain(b []byte, name string, k chainKind) []byte {
	hook := appendAttr(nil, unix.NFTA_HOOK_HOOKNUM, be32(k.hook))
	hook = appendAttr(hook, unix.NFTA_HOOK_PRIORITY, be32(uint32(k.priority)))
	b = appendText(b, unix.NFTA_CHAIN_TABLE, tableName)
	b = appendText(b, unix.NFTA_CHAIN_NAME, name)
	b = appendNest(b, unix.NFTA_CHAIN_HOOK, hook)
	b = appendAttr(b, unix.NFTA_CHAIN_POLICY, be32(k.policy))
	return appendText(b, unix.NFTA_CHAIN_TYPE, k.name)
}

func appendRule(b []byte, chain string, r rule) []byte {
	var list []byte
	for _, e := range r {
		var attrs []byte
		for _, kind := range slices.Sorted(maps.Keys(e.attrs)) {
			attrs = appendAttr(attrs, kind, e.attrs[kind])
		}
		list = appendNest(list, unix.NFTA_LIST_ELEM, appendNest(appendText(nil, unix.NFTA_EXPR_NAME, e.name), unix.NFTA_EXPR_DATA, attrs))
	}
	b = appendText(b, unix.NFTA_RULE_TABLE, tableName)
	b = appendText(b, unix.NFTA_RULE_CHAIN, chain)
	return appendNest(b, unix.NFTA_RULE_EXPRESSIONS, list)
}

// appendAttr appends a netlink attribute, filled up to four bytes.
func appendAttr[T string | []byte](b []byte, kind uint16, value T) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func appendText(b []byte, kind uint16, text string) []byte { return appendAttr(b, kind, text+"\x00") }

func appendNest(b []byte, kind uint16, attrs []byte) []byte {
	return appendAttr(b, kind|unix.NLA_F_NESTED, attrs)
}

// be32 is a number as nftables has them.
func be32(v uint32) string { return string(binary.BigEndian.AppendUint32(nil, v)) }

// attributes are what the kernel tells of one thing.
type attributes map[uint16][]byte

func (a attributes) text(kind uint16) string { return strings.TrimRight(string(a[kind]), "\x00") }

// number is 0 where there is none.
func (a attributes) number(kind uint16) uint32 {
	if len(a[kind]) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a[kind])
}

func (a attributes) nest(kind uint16) (attributes, error) { return decode(a[kind]) }

// value is in a nest of its own, as nftables has data.
func (a attributes) value(kind uint16) (string, error) {
	data, err := a.nest(kind)
	return string(data[unix.NFTA_DATA_VALUE]), err
}

func decode(b []byte) (attributes, error) {
	a := make(attributes)
	err := walk(b, func(kind uint16, value []byte) error {
		a[kind] = value
		return nil
	})
	return a, err
}

var errMalformed = errors.New("malformed message of the kernel")

// walk visits the attributes in b.
func walk(b []byte, visit func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return errMalformed
		}
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return errMalformed
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := visit(kind, b[unix.SizeofNlAttr:length]); err != nil {
			return err
		}
		aligned := (length + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1)
		b = b[min(aligned, len(b)):]
	}
	return nil
}

// The read methods put into t what a message of the kernel's says, if it is about our table.

func (t *table) readFlags(b []byte) error {
	a, err := decode(b)
	t.flags = a.number(unix.NFTA_TABLE_FLAGS)
	return err
}

func (t *table) readSet(b []byte) error {
	a, err := decode(b)
	if err != nil || a.text(unix.NFTA_SET_TABLE) != tableName {
		return err
	}
	t.sets[a.text(unix.NFTA_SET_NAME)] = set{
		kind: setKind{
			flags:    a.number(unix.NFTA_SET_FLAGS),
			keyType:  a.number(unix.NFTA_SET_KEY_TYPE),
			keyBytes: a.number(unix.NFTA_SET_KEY_LEN),
			dataType: a.number(unix.NFTA_SET_DATA_TYPE),
		},
		elements: make(map[element]struct{}),
	}
	return nil
}

func (t *table) readElements(b []byte) error {
	a, err := decode(b)
	if err != nil {
		return err
	}
	elements := t.sets[a.text(unix.NFTA_SET_ELEM_LIST_SET)].elements
	if elements == nil {
		return errMalformed
	}
	return walk(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ uint16, value []byte) error {
		a, err := decode(value)
		if err != nil {
			return err
		}
		first, err1 := a.value(unix.NFTA_SET_ELEM_KEY)
		last, err2 := a.value(elemKeyEnd)
		data, err3 := a.value(unix.NFTA_SET_ELEM_DATA)
		if last == "" {
			last = first
		}
		elements[element{first, last, data}] = struct{}{}
		return errors.Join(err1, err2, err3)
	})
}

func (t *table) readChain(b []byte) error {
	a, err := decode(b)
	if err != nil || a.text(unix.NFTA_CHAIN_TABLE) != tableName {
		return err
	}
	hook, err := a.nest(unix.NFTA_CHAIN_HOOK)
	t.chains[a.text(unix.NFTA_CHAIN_NAME)] = chain{kind: chainKind{
		name:     a.text(unix.NFTA_CHAIN_TYPE),
		hook:     hook.number(unix.NFTA_HOOK_HOOKNUM),
		priority: int32(hook.number(unix.NFTA_HOOK_PRIORITY)),
		policy:   a.number(unix.NFTA_CHAIN_POLICY),
	}}
	return err
}

func (t *table) readRule(b []byte) error {
	a, err := decode(b)
	if err != nil || a.text(unix.NFTA_RULE_TABLE) != tableName {
		return err
	}
	var r rule
	err = walk(a[unix.NFTA_RULE_EXPRESSIONS], func(_ uint16, value []byte) error {
		a, err := decode(value)
		if err != nil {
			return err
		}
		e := expression{a.text(unix.NFTA_EXPR_NAME), make(map[uint16]string)}
		r = append(r, e)
		return walk(a[unix.NFTA_EXPR_DATA], func(kind uint16, value []byte) error {
			e.attrs[kind] = string(value)
			return nil
		})
	})
	name := a.text(unix.NFTA_RULE_CHAIN)
	c := t.chains[name]
	c.rules = append(c.rules, r)
	t.chains[name] = c
	return err
}
