package config

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is what a struct's field and its tags say about one key.
type field struct {
	index    int
	key      string
	kind     kind
	elem     reflect.Type // of the value, of a list's elements, or of the tables
	required bool
	def      any // as the decoder would return it; nil = none
	min, max int64
	limits   string // the range tag, "" = none
}

// kind is how a key's value is written.
type kind int

const (
	asValue  kind = iota
	asList        // of values
	asTable       // [header]
	asTables      // [[header]], several times
)

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType = reflect.TypeFor[time.Duration]()
)

// fieldsOf returns the fields of the struct type t that have a key. Tags are part of the program:
// one that makes no sense panics.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for sf := range t.Fields() {
		f := field{index: sf.Index[0], limits: sf.Tag.Get("range")}
		var option string
		f.key, option, _ = strings.Cut(sf.Tag.Get("toml"), ",")
		if f.key == "-" {
			continue
		}
		f.required = option == "required"
		f.kind, f.elem = kindOf(sf.Type)
		if lo, hi, ok := strings.Cut(f.limits, ".."); ok {
			f.min, f.max = mustNumber(f.elem, lo), mustNumber(f.elem, hi)
		}
		if text, ok := sf.Tag.Lookup("default"); ok {
			switch {
			case f.kind == asList:
				f.def = []any{text}
			case sf.Type.Kind() == reflect.Bool:
				f.def = text == "true"
			case isNumber(sf.Type) && sf.Type != durationType:
				f.def = mustNumber(sf.Type, text)
			default:
				f.def = text
			}
		}
		fields = append(fields, f)
	}
	return fields
}

// kindOf returns how a value of type t is written, and what its elements are.
func kindOf(t reflect.Type) (kind, reflect.Type) {
	isValue := func(t reflect.Type) bool {
		return reflect.PointerTo(t).Implements(textType) ||
			t.Kind() != reflect.Struct && t.Kind() != reflect.Pointer && t.Kind() != reflect.Slice
	}
	switch {
	case isValue(t):
		return asValue, t
	case t.Kind() == reflect.Struct:
		return asTable, t
	case t.Kind() == reflect.Pointer && isValue(t.Elem()):
		return asValue, t.Elem() // that can be absent
	case t.Kind() == reflect.Pointer:
		return asTable, t.Elem()
	case isValue(t.Elem()):
		return asList, t.Elem()
	}
	return asTables, t.Elem()
}

// isNumber reports whether a value of type t is a number, of which a duration is one.
func isNumber(t reflect.Type) bool {
	return t == durationType || t.PkgPath() == "" && reflect.Int <= t.Kind() && t.Kind() <= reflect.Uint64
}

func mustNumber(t reflect.Type, text string) int64 {
	var n int64
	var err error
	if t == durationType {
		var d time.Duration
		d, err = time.ParseDuration(text)
		n = int64(d)
	} else {
		n, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil {
		panic(err)
	}
	return n
}

// set stores a decoded value in v, or returns the rule that it breaks.
func (f field) set(v reflect.Value, raw any) (rule string) {
	if v.Kind() == reflect.Pointer {
		there := reflect.New(f.elem)
		if rule = f.set(there.Elem(), raw); rule == "" {
			v.Set(there)
		}
		return rule
	}
	text, isText := raw.(string)
	if isText && text == "" {
		return "must not be empty"
	}
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return `not a duration such as "500ms" or "2s"`
		}
		return f.setNumber(v, int64(d))
	case *netip.Addr:
		addr, err := netip.ParseAddr(text)
		if err != nil {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				return fmt.Sprintf("an address without a prefix length: it is always /%d", prefix.Addr().BitLen())
			}
			return `not an address such as "192.0.2.10"`
		}
		*p = addr
		return ""
	case *bool:
		b, ok := raw.(bool)
		if !ok {
			return "neither true nor false, which stand without quotes"
		}
		*p = b
		return ""
	case *netip.AddrPort:
		addr, err := netip.ParseAddrPort(text)
		if err != nil {
			return `not an address with port such as "192.0.2.10:80"`
		}
		*p = addr
		return ""
	case encoding.TextUnmarshaler:
		if !isText {
			return "not a string"
		}
		if err := p.UnmarshalText([]byte(text)); err != nil {
			// The value is shown already.
			rule = strings.TrimPrefix(err.Error(), strconv.Quote(text)+" is ")
			if list, ok := strings.CutPrefix(rule, "none of "); ok {
				words := strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(`[" ]`, r) })
				_, hint := didYouMean(text, words)
				rule += hint
			}
			return rule
		}
		return ""
	}
	if v.Kind() == reflect.String {
		if !isText {
			return "not a string"
		}
		v.SetString(text)
		return ""
	}
	n, ok := raw.(int64)
	if !ok {
		return "not a whole number"
	}
	return f.setNumber(v, n)
}

func (f field) setNumber(v reflect.Value, n int64) (rule string) {
	switch {
	case n < f.min || n > f.max:
		return "outside " + f.limits
	case v.CanInt():
		v.SetInt(n)
	default:
		v.SetUint(uint64(n))
	}
	return ""
}
