package config

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

var bareKey = lazily(`^[A-Za-z0-9_-]{1,64}$`)

// binder assigns decoded tables to structs by their tags, and collects what is wrong.
// A value that breaks a rule is left zero.
type binder struct {
	file    string
	errs    []*Error
	fields  map[reflect.Type][]field
	objects map[any]*object // by pointer to the struct that an element of an array of tables became
	strays  map[string]bool // paths where keys belong that stand in the wrong table, and of the tables around them
}

// object is a table that errors name: an element of an array of tables, or the whole file.
type object struct {
	parent *object // nil for the file
	kind   string  // the array's key
	number int     // counted from 1
	table  map[string]any
	mark   *mark
	typ    reflect.Type
	bad    map[string]bool // keys with a mistake, and keys that a misspelt one was meant to be
}

// String names the object by what the file says about it, sound or not.
func (o *object) String() string {
	if o.parent == nil {
		return ""
	}
	s := fmt.Sprintf("%s %d", o.kind, o.number)
	if name, ok := o.table["name"].(string); ok && name != "" {
		s = o.kind + " " + strconv.Quote(shorten(name))
	} else if text, ok := o.table["address"].(string); ok {
		if addr, err := netip.ParseAddr(text); err == nil {
			s = o.kind + " " + addr.String()
			if port, ok := o.table["port"].(int64); ok {
				s += fmt.Sprintf(":%d", port)
			}
		}
	}
	if parent := o.parent.String(); parent != "" {
		return parent + ", " + s
	}
	return s
}

// header is what stands between the brackets above the table at key: "service.server".
func (o *object) header(key string) string {
	if o.parent == nil {
		return key
	}
	return o.parent.header(o.kind) + "." + key
}

// sound reports whether none of keys has a mistake. Rules about several keys ask first,
// so that no error is the consequence of another.
func (o *object) sound(keys ...string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool { return o.bad[key] })
}

// fieldsOf looks at each type once: there are many servers.
func (b *binder) fieldsOf(t reflect.Type) []field {
	fields, ok := b.fields[t]
	if !ok {
		fields = fieldsOf(t)
		b.fields[t] = fields
	}
	return fields
}

// report records that key, a dotted path within o, breaks rule.
func (b *binder) report(o *object, key, rule string, args ...any) {
	m, written := o.mark.at(key)
	if !written {
		m = &mark{line: m.line, text: b.defaultOf(o.typ, key)}
	}
	b.add(o, key, m, fmt.Sprintf(rule, args...))
}

// add records that what stands at m, under key of o, breaks rule.
func (b *binder) add(o *object, key string, m *mark, rule string) {
	o.spoil(key)
	text := shorten(m.text)
	if key == "password" { // a mistake is shown to whoever asks for the status
		text = ""
	}
	b.errs = append(b.errs, &Error{b.file, m.line, o.String(), key, text, rule})
}

// spoil makes key unsound.
func (o *object) spoil(key string) {
	if o.bad == nil {
		o.bad = map[string]bool{}
	}
	o.bad[key] = true
}

// defaultOf describes what stands in for a key that the file has not.
func (b *binder) defaultOf(t reflect.Type, path string) string {
	key, rest, nested := strings.Cut(path, ".")
	for _, f := range b.fieldsOf(t) {
		switch {
		case f.key != key:
		case nested:
			return b.defaultOf(f.elem, rest)
		case f.def != nil:
			return fmt.Sprintf("%#v (default)", f.def)
		}
	}
	return ""
}

// bind assigns table, whose marks are m, to the struct v. The table is o's own, or stands within it at prefix.
func (b *binder) bind(o *object, prefix string, table map[string]any, m *mark, v reflect.Value) {
	fields := b.fieldsOf(v.Type())
	for key := range table {
		if !slices.ContainsFunc(fields, func(f field) bool { return f.key == key }) {
			b.unknown(o, prefix, key, table, m, fields)
		}
	}
	for _, f := range fields {
		path, value := prefix+f.key, v.Field(f.index)
		raw, present := table[f.key]
		switch {
		case present:
			b.assign(o, path, raw, m.key(f.key), f, value)
		case b.excused(o, path):
		case f.required && f.kind == asTables:
			b.report(o, path, "at least one [[%s]] is required", o.header(path))
		case f.required:
			b.report(o, path, "required")
		case f.def != nil:
			b.assign(o, path, f.def, m, f, value)
		case value.Kind() == reflect.Struct && f.kind == asTable:
			b.bind(o, path+".", nil, m, value)
		}
	}
	// The engines' parameter types bring their own rules.
	if params, ok := v.Addr().Interface().(interface{ Validate(func(key, rule string)) }); ok {
		mistaken := maps.Clone(o.bad) // already, not by an earlier rule about the same key
		params.Validate(func(key, rule string) {
			path, index, isElement := strings.Cut(strings.TrimSuffix(prefix+key, "]"), "[")
			if mistaken[path] {
				return
			}
			if !isElement {
				b.report(o, path, "%s", rule)
				return
			}
			list, _ := o.mark.at(path)
			i, _ := strconv.Atoi(index)
			b.add(o, path, list.index(i), rule)
		})
	}
}

// excused reports whether the absence of path in o is explained by a key that is misspelt or stands in
// the wrong table, and is reported as that. No rule then looks at path.
func (b *binder) excused(o *object, path string) bool {
	if b.strays[o.header(path)] {
		o.spoil(path)
	}
	return !o.sound(path)
}

// unknown reports a key of table that is none of fields, and the absent one it was probably meant to be or where it belongs.
func (b *binder) unknown(o *object, prefix, key string, table map[string]any, m *mark, fields []field) {
	var absent []string
	for _, f := range fields {
		if _, present := table[f.key]; !present {
			absent = append(absent, f.key)
		}
	}
	homes, hint := elsewhere(key)
	_, foreign := keepalived[key]
	if meant, near := didYouMean(key, absent); meant != "" && !foreign {
		homes, hint = nil, near
		o.spoil(prefix + meant)
	}
	for _, home := range homes {
		for end := len(home.path); end > 0; end = strings.LastIndexByte(home.path[:end], '.') {
			b.strays[home.path[:end]] = true
		}
	}
	line := m.key(key).line
	if !bareKey().MatchString(key) {
		key = strconv.Quote(shorten(key))
	}
	b.add(o, prefix+key, &mark{line: line}, "unknown key"+hint)
}

func (b *binder) assign(o *object, path string, raw any, m *mark, f field, v reflect.Value) {
	switch f.kind {
	case asValue:
		if rule := f.set(v, raw); rule != "" {
			b.add(o, path, m, rule)
		}
	case asList:
		elements, ok := raw.([]any)
		if !ok {
			b.report(o, path, "not a list such as [%s]", shorten(m.text))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(elements), len(elements)))
		for i, element := range elements {
			if rule := f.set(v.Index(i), element); rule != "" {
				b.add(o, path, m.index(i), rule)
			}
		}
	case asTable:
		sub, ok := raw.(map[string]any)
		if !ok {
			b.report(o, path, "not a table: it begins with [%s]", o.header(path))
			return
		}
		if v.Kind() == reflect.Pointer {
			v.Set(reflect.New(f.elem))
			v = v.Elem()
		}
		b.bind(o, path+".", sub, m, v)
	case asTables:
		elements, ok := tablesOf(raw)
		if !ok {
			b.report(o, path, "not tables: each begins with [[%s]]", o.header(path))
			return
		}
		if f.required && len(elements) == 0 {
			b.report(o, path, "at least one [[%s]] is required", o.header(path))
		}
		v.Set(reflect.MakeSlice(v.Type(), len(elements), len(elements)))
		for i, element := range elements {
			c := &object{parent: o, kind: f.key, number: i + 1, table: element, mark: m.index(i), typ: f.elem}
			b.objects[v.Index(i).Addr().Interface()] = c
			b.bind(c, "", element, c.mark, v.Index(i))
		}
	}
}

// tablesOf accepts both ways to write several tables: [[header]]s, and a list of inline tables.
func tablesOf(raw any) (tables []map[string]any, ok bool) {
	if tables, ok = raw.([]map[string]any); ok {
		return tables, true
	}
	elements, ok := raw.([]any)
	for _, element := range elements {
		table, isTable := element.(map[string]any)
		tables, ok = append(tables, table), ok && isTable
	}
	return tables, ok
}
