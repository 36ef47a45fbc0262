package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"pgregory.net/rapid"
)

func TestScan(t *testing.T) {
	text := `# first line
top = 1
a.b."c.d" = 2

[[service]]
name = """
[[not.a.header]] # """
listen = [ # one a line
  "192.0.2.1:80",
  '192.0.2.2:80',
]
server = [{address = "192.0.2.3", weight = 1}, {address = 'x#y',
  weight = 2}]
  [service.check]
  "in\u0074erval" = "2s"
[[service]]
  [[service.server]]
`
	root, tooDeep := scan(text)
	var got strings.Builder
	printMarks(&got, "", root)
	want := `a 3
a.b 3
a.b.c.d 3
service 5
service[0] 5
service[0].check 14
service[0].check.interval 15
service[0].listen 8
service[0].listen[0] 9
service[0].listen[1] 10
service[0].name 6
service[0].server 12
service[0].server[0] 12
service[0].server[0].address 12
service[0].server[0].weight 12
service[0].server[1] 12
service[0].server[1].address 12
service[0].server[1].weight 13
service[1] 16
service[1].server 17
service[1].server[0] 17
top 2
`
	if got.String() != want || tooDeep != 0 {
		t.Errorf("too deep at %d, got\n%s", tooDeep, &got)
	}
}

func TestScanDepth(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		tooDeep    int
	}{
		{"lists at the limit", "\na = " + strings.Repeat("[", 32) + strings.Repeat("]", 32), 0},
		{"one above", "\na = " + strings.Repeat("[", 33) + strings.Repeat("]", 33), 2},
		{"lists", "\na = " + strings.Repeat("[", 1<<20), 2},
		{"tables", "a = " + strings.Repeat("{a=", 1<<20), 1},
		{"keys", "\n\n" + strings.Repeat("a.", 1<<20), 3},
		{"headers", "[" + strings.Repeat("a.", 1<<20), 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, got := scan(tc.text); got != tc.tooDeep {
				t.Errorf("too deep at line %d, want %d", got, tc.tooDeep)
			}
		})
	}
}

// A random document, written in random style, is found where it was written, and has the shape that the decoder sees.
func TestScanProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := writer{T: t, line: 1}
		want := &mark{line: 1}
		w.table(nil, want, 0)
		text := w.text.String()

		var tables map[string]any
		meta, err := toml.Decode(text, &tables)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		got, _ := scan(text)
		if !reflect.DeepEqual(got, want) {
			var g, w strings.Builder
			printMarks(&g, "", got)
			printMarks(&w, "", want)
			t.Fatalf("%s\ngot\n%swant\n%s", text, &g, &w)
		}
		if err := sameShape(tables, got); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		// The decoder lists what has a line of its own: not the tables that only the path of another
		// mentions, and an element of an array as the array. So both sides are sets, closed under prefixes.
		keys := map[string]bool{}
		for _, key := range meta.Keys() {
			for i := range key {
				keys[fmt.Sprintf("%q", []string(key[:i+1]))] = true
			}
		}
		paths := map[string]bool{}
		addPaths(paths, nil, got)
		if !maps.Equal(keys, paths) {
			t.Fatalf("%s\ndecoder %v\nscanner %v", text, keys, paths)
		}
	})
}

func addPaths(paths map[string]bool, path []string, m *mark) {
	for key, c := range m.keys {
		p := append(slices.Clone(path), key)
		paths[fmt.Sprintf("%q", p)] = true
		addPaths(paths, p, c)
	}
	for _, c := range m.list {
		addPaths(paths, path, c)
	}
}

func printMarks(w *strings.Builder, path string, m *mark) {
	for _, key := range slices.Sorted(maps.Keys(m.keys)) {
		p := strings.TrimPrefix(path+"."+key, ".")
		fmt.Fprintln(w, p, m.keys[key].line)
		printMarks(w, p, m.keys[key])
	}
	for i, c := range m.list {
		p := fmt.Sprintf("%s[%d]", path, i)
		fmt.Fprintln(w, p, c.line)
		printMarks(w, p, c)
	}
}

// sameShape reports where the tree of marks differs from that of the values.
func sameShape(value any, m *mark) error {
	var elements []any
	switch v := value.(type) {
	case map[string]any:
		if len(v) != len(m.keys) {
			return fmt.Errorf("%d keys and %d marks on line %d", len(v), len(m.keys), m.line)
		}
		for key := range v {
			if m.keys[key] == nil {
				return fmt.Errorf("no mark for %q on line %d", key, m.line)
			}
			if err := sameShape(v[key], m.keys[key]); err != nil {
				return err
			}
		}
	case []any:
		elements = v
	case []map[string]any:
		for _, table := range v {
			elements = append(elements, table)
		}
	}
	if len(elements) != len(m.list) {
		return fmt.Errorf("%d elements and %d marks on line %d", len(elements), len(m.list), m.line)
	}
	for i := range elements {
		if err := sameShape(elements[i], m.list[i]); err != nil {
			return err
		}
	}
	return nil
}

// writer writes a random document, and the marks that it should have.
type writer struct {
	*rapid.T
	text strings.Builder
	line int
}

func (w *writer) put(parts ...string) {
	for _, s := range parts {
		w.text.WriteString(s)
		w.line += strings.Count(s, "\n")
	}
}

func (w *writer) pick(choices ...string) string { return rapid.SampledFrom(choices).Draw(w.T, "pick") }
func (w *writer) flip() bool                    { return rapid.Bool().Draw(w.T, "flip") }
func (w *writer) upTo(n int) int                { return rapid.IntRange(0, n).Draw(w.T, "n") }
func (w *writer) space()                        { w.put(w.pick("", " ", "\t ")) }
func (w *writer) endLine()                      { w.put(w.pick("\n", "\r\n", " # [[x]] \"\"\" '\n", "\n\n\t# a = {\n")) }

// The empty key is left out: beside one in a list of inline tables, the decoder loses elements (v1.6.0).
var keyNames = []string{"a", "b-c", "1_2", "true", "a.b", "x y", `q"q`, "it's", "é\\", "]", "= 1", "#", "[[", "tab\t"}

// keys returns up to n keys that m has not.
func (w *writer) keys(m *mark, n int) []string {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom(keyNames), 0, n, rapid.ID[string]).Draw(w.T, "keys")
	return slices.DeleteFunc(names, func(k string) bool { return m.keys[k] != nil })
}

func (w *writer) quoted(key string) string {
	switch {
	case bareKey().MatchString(key) && w.flip():
		return key
	case !strings.ContainsAny(key, "'") && w.flip():
		return "'" + key + "'"
	}
	s := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`).Replace(key)
	if w.flip() {
		s = strings.NewReplacer("a", `\u0061`, "é", `\U000000e9`, "=", `\x3d`).Replace(s)
	}
	return `"` + s + `"`
}

func (w *writer) path(keys []string) {
	for i, key := range keys {
		if i > 0 {
			w.space()
			w.put(".")
			w.space()
		}
		w.put(w.quoted(key))
	}
}

// table writes the content of the table at path: what stands on its own lines, then what has a header.
func (w *writer) table(path []string, m *mark, depth int) {
	for _, key := range w.keys(m, 3) {
		w.space()
		w.pair(m, key, depth)
		w.endLine()
	}
	w.children(path, m, depth)
}

func (w *writer) children(path []string, m *mark, depth int) {
	if depth == 3 {
		return
	}
	for _, key := range w.keys(m, 2) {
		path := append(slices.Clone(path), key)
		if w.flip() {
			array := &mark{line: w.line}
			for range 1 + w.upTo(2) {
				element := &mark{line: w.line}
				array.list = append(array.list, element)
				element.pos = w.header("[[", path, "]]")
				w.table(path, element, depth+1)
			}
			m.child(key, 0).line, m.keys[key].list = array.line, array.list
			continue
		}
		c := &mark{line: w.line}
		if w.flip() { // sub-tables first
			w.children(path, c, depth+1)
			// They may be all there is. In an array a header must not follow them: where another element
			// has a list at this path, the decoder would then forget them (v1.6.0).
			if len(c.keys) > 0 && (depth > 0 || w.flip()) {
				m.child(key, 0)
				m.keys[key] = c
				continue
			}
			c.line = w.line
			w.header("[", path, "]")
			for _, key := range w.keys(c, 2) {
				w.pair(c, key, depth)
				w.endLine()
			}
		} else {
			w.header("[", path, "]")
			w.table(path, c, depth+1)
		}
		m.child(key, 0)
		m.keys[key] = c
	}
}

// header returns where it begins.
func (w *writer) header(open string, path []string, end string) (pos int) {
	w.space()
	pos = w.text.Len()
	w.put(open)
	w.space()
	w.path(path)
	w.space()
	w.put(end)
	w.endLine()
	return pos
}

// pair writes key and its value, or a dotted key for every value of a table.
func (w *writer) pair(m *mark, key string, depth int) {
	keys := []string{key}
	for range w.upTo(2) {
		keys = append(keys, rapid.SampledFrom(keyNames).Draw(w.T, "key"))
	}
	line := w.line
	for _, key := range keys {
		m = m.child(key, line)
	}
	w.path(keys)
	w.space()
	w.put("=")
	w.space()
	w.value(m, depth)
}

func (w *writer) value(m *mark, depth int) {
	kinds := []string{"plain", "string", "list", "table"}
	if depth == 3 {
		kinds = kinds[:2]
	}
	start := w.text.Len()
	defer func() { m.text = w.text.String()[start:] }()
	blank := func() { w.put(w.pick("", " ", "\n", "\r\n\t", " # ]}, \"\n")) }
	switch w.pick(kinds...) {
	case "plain":
		w.put(w.pick("1", "0x1f", "1_000.5e3", "true", "nan", "1979-05-27 07:32:00Z", "07:32:00"))
	case "string":
		w.put(w.pick(`""`, `''`, `"a # b"`, `'\'`, `"\"\\"`, `"]},["`, `""""""`, "''''''",
			"\"\"\"\na = 1 # \\\"\"\"\\\\ \n\"\"\"", "'''\n[[x]]\\'''", `"""""x"""""`, "''''x'''''", "\"\"\"a \\\n  b\"\"\""))
	case "list":
		w.put("[")
		blank()
		for n := w.upTo(3); n > 0; n-- {
			element := &mark{line: w.line}
			m.list = append(m.list, element)
			w.value(element, depth+1)
			blank()
			if n > 1 || w.flip() {
				w.put(",")
				blank()
			}
		}
		w.put("]")
	case "table":
		w.put("{")
		blank()
		keys := w.keys(m, 3)
		for i, key := range keys {
			w.pair(m, key, depth+1)
			blank()
			if i < len(keys)-1 || w.flip() {
				w.put(",")
				blank()
			}
		}
		w.put("}")
	}
}
