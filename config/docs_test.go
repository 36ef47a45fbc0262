package config

import (
	"cmp"
	"encoding"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the generated part of docs/config.md")

const (
	page   = "../docs/config.md"
	marker = "-run TestDocs -update -->\n"
)

// The tables of docs/config.md are those that the structs, their tags and comments make.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	prose, have, ok := strings.Cut(string(text), marker)
	if !ok {
		t.Fatalf("%s has lost its line %q", page, marker)
	}
	d := docs{comments: comments(t, "config.go", "ipvs.go", "../checker/config.go", "../vrrp/config.go", "../ipvsctl/tunnel.go", "../ipvsctl/moby_linux.go")}
	d.section("", reflect.TypeFor[Config]())
	want := d.String()
	if *update {
		if err := os.WriteFile(page, []byte(prose+marker+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	haveLines, wantLines := strings.Split(have, "\n"), strings.Split(want, "\n")
	for i := range max(len(haveLines), len(wantLines)) {
		var h, w string
		if i < len(haveLines) {
			h = haveLines[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if h != w {
			t.Fatalf("%s is stale; go test ./config -run TestDocs -update rewrites it:\n- %s\n+ %s", page, h, w)
		}
	}
}

// The page's files are valid, but for the last one, which has the errors that the page shows.
func TestDocsExamples(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```(?:toml|text)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	good := len(blocks) - 2
	if good < 1 {
		t.Fatalf("%d code blocks, want good files, a bad file and its errors", len(blocks))
	}
	for _, block := range blocks[:good] {
		if _, err := Parse("poise.toml", []byte(block), nil, noFiles); err != nil {
			t.Error(err)
		}
	}
	_, err = Parse("poise.toml", []byte(blocks[good]), nil, noFiles)
	if err == nil || err.Error()+"\n" != blocks[good+1] {
		t.Errorf("the bad file's errors are\n%v", err)
	}
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../examples/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if _, err := Load(file, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// The pair's comments say what the other director has instead, and that file is as good.
func TestExampleOfTheOther(t *testing.T) {
	text, err := os.ReadFile("../examples/pair.toml")
	if err != nil {
		t.Fatal(err)
	}
	differs := regexp.MustCompile(`(?m)= \S+( +# on the other: )(\S+)$`)
	other := differs.ReplaceAll(text, []byte("= $2$1"))
	parse := func(text []byte) *Config {
		c, err := Parse("pair.toml", text, nil, noFiles)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, two := parse(text), parse(other)
	if one.Global.Node == two.Global.Node || one.Routers[0].Priority <= two.Routers[0].Priority {
		t.Errorf("two directors %+v\n%+v", one, two)
	}
	two.Global.Node, two.Routers[0].Priority = one.Global.Node, one.Routers[0].Priority
	if !reflect.DeepEqual(one, two) {
		t.Errorf("they differ in more than node and priority:\n%+v\n%+v", one, two)
	}
}

// Numbers without a range would wrap around, and a key without a meaning could not be documented.
func TestTags(t *testing.T) {
	b := binder{fields: map[reflect.Type][]field{}}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for _, f := range b.fieldsOf(typ) {
			sf := typ.Field(f.index)
			if isNumber(f.elem) != (f.limits != "") {
				t.Errorf("%v.%s: number %v, range %q", typ, sf.Name, isNumber(sf.Type), f.limits)
			}
			if f.def != nil && f.kind == asValue {
				if rule := f.set(reflect.New(sf.Type).Elem(), f.def); rule != "" {
					t.Errorf("%v.%s: default %v: %s", typ, sf.Name, f.def, rule)
				}
			}
			if f.kind == asTable || f.kind == asTables {
				walk(f.elem)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

type docs struct {
	strings.Builder
	comments map[string]string // "config.Service.Name" -> its comment
}

// section writes the table of the keys of typ, which stand under header, and the sections within.
func (d *docs) section(header string, typ reflect.Type) {
	fields := fieldsOf(typ)
	if header != "" {
		d.WriteString("| key | type | default | range | meaning |\n| --- | --- | --- | --- | --- |\n")
		for _, f := range fields {
			if f.kind == asTable || f.kind == asTables {
				continue
			}
			sf := typ.Field(f.index)
			def := code(sf.Tag.Get("default"))
			switch {
			case f.required:
				def = "**required**"
			case f.kind == asList && def != "":
				def = fmt.Sprintf("`[%q]`", sf.Tag.Get("default"))
			case def != "" && (f.elem == durationType || typeName(f) == "string"):
				def = fmt.Sprintf("`%q`", sf.Tag.Get("default"))
			}
			limits := strings.Replace(f.limits, "..", " to ", 1)
			fmt.Fprintf(d, "| `%s` | %s | %s | %s | %s |\n",
				f.key, typeName(f), def, cmp.Or(values(f.elem), limits), d.meaning(typ, sf.Name, f.key))
		}
	}
	for _, f := range fields {
		sub := strings.TrimPrefix(header+"."+f.key, ".")
		switch f.kind {
		case asTable:
			fmt.Fprintf(d, "\n### [%s]\n\n%s\n\n", sub, d.meaning(typ, typ.Field(f.index).Name, f.key))
			d.section(sub, f.elem)
		case asTables:
			least := ""
			if f.required {
				least = " At least one."
			}
			fmt.Fprintf(d, "\n### [[%s]]\n\n%s%s\n\n", sub, d.meaning(typ, typ.Field(f.index).Name, f.key), least)
			d.section(sub, f.elem)
		}
	}
}

// meaning is the comment of a field, which begins as Go wants it: "Name is …".
func (d *docs) meaning(typ reflect.Type, name, key string) string {
	text := d.comments[typ.String()+"."+name]
	for _, verb := range []string{" is ", " are "} {
		if rest, ok := strings.CutPrefix(text, name+verb); ok {
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
	}
	return strings.Replace(text, name, code(key), 1)
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func typeName(f field) string {
	name := "number"
	switch {
	case f.elem == durationType:
		name = "duration"
	case f.elem.Kind() == reflect.Bool:
		name = "boolean"
	case f.elem == reflect.TypeFor[netip.Addr]():
		name = "address"
	case f.elem == reflect.TypeFor[netip.AddrPort](), f.elem == reflect.TypeFor[Listen]():
		name = "address:port"
	case f.elem.Kind() == reflect.String, reflect.PointerTo(f.elem).Implements(textType):
		name = "string"
	}
	if f.kind == asList {
		return "list of " + name
	}
	return name
}

// values lists what a type with few values accepts, as the type itself says when it refuses.
func values(t reflect.Type) string {
	v, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler)
	if !ok {
		return ""
	}
	_, list, _ := strings.Cut(fmt.Sprint(v.UnmarshalText([]byte("?"))), " is none of ")
	return strings.ReplaceAll(strings.Trim(list, "[]"), `" "`, `", "`)
}

// comments returns the comments of the structs' fields in some Go files, each as one line.
func comments(t *testing.T, files ...string) map[string]string {
	found := map[string]string{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, name := range field.Names {
						key := parsed.Name.Name + "." + spec.Name.Name + "." + name.Name
						found[key] = strings.Join(strings.Fields(field.Doc.Text()), " ")
					}
				}
			}
			return false
		})
	}
	return found
}
