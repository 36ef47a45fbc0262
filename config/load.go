package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// maxSize is the most that is read of any one file.
const maxSize = 16 << 20

// Kernel answers which of IPVS's modules there are: nil, or what is missing. ipvsctl.Modules is the running kernel's.
type Kernel interface {
	Scheduler(name string) error
	Engine(name string) error
}

// Load reads the configuration file at path. Its error is one line when a file cannot be read, and else that of Parse.
func Load(path string, kernel Kernel) (*Config, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	c, err := Parse(path, text, kernel, readFile)
	if err != nil {
		return nil, err
	}
	if c.Global.Node == "" {
		c.Global.Node, err = os.Hostname()
	}
	return c, err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if len(data) > maxSize {
		err = fmt.Errorf("%s: larger than %d MiB", path, maxSize>>20)
	}
	return data, err
}

// Parse turns text, which came from the file at path, into a Config. What it wants of the kernel is asked of kernel, where that
// is not nil. The files that it names are fetched through read; relative names start from path's folder. The error joins
// one *Error for every mistake, in the order of their lines; a syntax error stands alone.
func Parse(path string, text []byte, kernel Kernel, read func(path string) ([]byte, error)) (*Config, error) {
	tables, root, err := decode(path, string(text))
	if err != nil {
		return nil, err
	}
	strays := map[string]bool{}
	c, file, b := bindFile(path, tables, root, strays)
	if len(strays) > 0 { // what stands in the wrong table is not missing in the right one
		c, file, b = bindFile(path, tables, root, strays)
	}
	b.checkAll(file, c, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		return read(name)
	})
	if kernel != nil {
		b.checkKernel(c, kernel)
	}
	if len(b.errs) == 0 {
		return c, nil
	}
	// Unknown keys come out of a map: the text orders what stands on one line.
	slices.SortStableFunc(b.errs, func(a, o *Error) int {
		return cmp.Or(cmp.Compare(a.Line, o.Line), cmp.Compare(a.Key, o.Key))
	})
	errs := make([]error, len(b.errs))
	for i, e := range b.errs {
		errs[i] = e
	}
	return nil, errors.Join(errs...)
}

// bindFile binds the whole file. It passes over what is missing but in strays, and adds the strays it finds.
func bindFile(path string, tables map[string]any, root *mark, strays map[string]bool) (*Config, *object, *binder) {
	c := new(Config)
	b := &binder{file: path, fields: map[reflect.Type][]field{}, objects: map[any]*object{}, strays: strays}
	file := &object{table: tables, mark: root, typ: reflect.TypeFor[Config]()}
	b.bind(file, "", tables, root, reflect.ValueOf(c).Elem())
	return c, file, b
}

// decode returns what text says, and where.
func decode(path, text string) (map[string]any, *mark, error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		if !utf8.ValidString(line) {
			return nil, nil, &Error{File: path, Line: n, Rule: "not UTF-8"}
		}
	}
	text = strings.TrimPrefix(text, "\ufeff")
	root, tooDeep := scan(text)
	if tooDeep != 0 {
		return nil, nil, &Error{File: path, Line: tooDeep, Rule: fmt.Sprintf("nested deeper than %d levels", maxDepth)}
	}
	if tables := decodeInParts(text, root, fewServices); tables != nil {
		return tables, root, nil
	}
	var tables any
	_, err := toml.Decode(text, &tables)
	if syntax, ok := errors.AsType[toml.ParseError](err); ok {
		// The decoder may point before the first line or after the last.
		line := max(min(syntax.Position.Line, n), 1)
		value, rule := explain(text, strings.Split(text, "\n")[line-1], syntax.Message)
		return nil, nil, &Error{File: path, Line: line, Value: value, Rule: rule}
	}
	return tables.(map[string]any), root, err
}

// fewServices are decoded as fast at once.
const fewServices = 100

// decodeInParts is toml.Decode for a text with at least so many services, a part on each processor: a large file is mostly
// services. It returns nil when it cannot, be it because of a mistake, which the decoder then describes, or because parts
// would have to be one.
func decodeInParts(text string, root *mark, least int) map[string]any {
	services := root.key("service").list
	n := min(runtime.GOMAXPROCS(0), len(services))
	if len(services) < least || n < 2 {
		return nil
	}
	parts := make([]map[string]any, n)
	var decoding sync.WaitGroup
	defer decoding.Wait()
	for i := range n {
		begin, end := 0, len(text)
		if i > 0 {
			begin = services[len(services)*i/n].pos
			if line := text[strings.LastIndexByte(text[:begin], '\n')+1 : begin]; strings.TrimLeft(line, " \t") != "" {
				return nil // what stands before a header on its line is a mistake
			}
		}
		if i < n-1 {
			end = services[len(services)*(i+1)/n].pos
		}
		decoding.Go(func() {
			if _, err := toml.Decode(text[min(begin, end):end], &parts[i]); err != nil {
				parts[i] = nil
			}
		})
	}
	decoding.Wait()
	whole := parts[0]
	for _, part := range parts[1:] {
		if whole == nil || part == nil {
			return nil
		}
		for key, value := range part {
			before, there := whole[key]
			first, isTables := before.([]map[string]any)
			second, areTables := value.([]map[string]any)
			switch {
			case !there:
				whole[key] = value
			case isTables && areTables:
				whole[key] = append(first, second...)
			default:
				return nil
			}
		}
	}
	return whole
}
