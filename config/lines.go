package config

import (
	"strings"

	"github.com/BurntSushi/toml"
)

// maxDepth bounds how deep keys and values may nest. Nothing in a valid file nests deeper than five; the
// bound keeps a hostile one from exhausting the stack, here and in the decoder.
const maxDepth = 32

// mark is where a value stands in the text, and how it is written there; what begins with
// a header has no text. Marks form the same tree as the decoded values.
type mark struct {
	line int
	pos  int // of the header, of an element of an array of tables
	text string
	keys map[string]*mark // of a table
	list []*mark          // of an array
}

// at returns the mark of a dotted path of bare keys. What is missing points at the table that lacks it.
func (m *mark) at(path string) (found *mark, exact bool) {
	for key := range strings.SplitSeq(path, ".") {
		if m.keys[key] == nil {
			return m, false
		}
		m = m.keys[key]
	}
	return m, true
}

// key returns the mark of key in the table m, or else that of the table.
func (m *mark) key(key string) *mark {
	if c := m.keys[key]; c != nil {
		return c
	}
	return m
}

// index returns the mark of element i, or else that of the array.
func (m *mark) index(i int) *mark {
	if i < len(m.list) {
		return m.list[i]
	}
	return m
}

// child returns the mark of key in the table m, made at line if the file has not mentioned it before.
func (m *mark) child(key string, line int) *mark {
	c := m.keys[key]
	if c == nil {
		if m.keys == nil {
			m.keys = map[string]*mark{}
		}
		c = &mark{line: line}
		m.keys[key] = c
	}
	return c
}

// descend follows keys from m as a table header does: through the last element of an array.
func (m *mark) descend(keys []string, line int) *mark {
	for _, key := range keys {
		m = m.child(key, line)
		if n := len(m.list); n > 0 {
			m = m.list[n-1]
		}
	}
	return m
}

// scan finds where everything in text stands. It understands what TOML 1.0 and 1.1 allow and leaves
// finding mistakes to the decoder: on text with a syntax error the marks mean nothing.
// tooDeep is the line of the first thing that nests deeper than maxDepth, 0 when nothing does.
func scan(text string) (root *mark, tooDeep int) {
	s := scanner{text: strings.TrimPrefix(text, "\ufeff"), line: 1}
	root = &mark{line: 1}
	for table := root; s.skipBlank(); {
		if s.text[s.pos] == '[' {
			table = s.header(root)
		} else {
			s.pair(table, 0)
		}
	}
	return root, s.tooDeep
}

type scanner struct {
	text    string
	pos     int
	line    int // of pos, counted from 1
	tooDeep int
}

// header reads `[table]` or `[[array]]` and returns the table that the following lines belong to.
func (s *scanner) header(root *mark) *mark {
	line, pos := s.line, s.pos
	s.take('[')
	isArray := s.take('[')
	keys := s.key()
	s.take(']')
	last := len(keys) - 1

	m := root.descend(keys[:last], line).child(keys[last], line)
	if !isArray {
		m.line = line // not that of a sub-table written before it
		return m
	}
	s.take(']')
	m.list = append(m.list, &mark{line: line, pos: pos})
	return m.list[len(m.list)-1]
}

// pair reads `key = value` into table. On whatever else it meets, it moves on.
func (s *scanner) pair(table *mark, depth int) {
	start, line := s.pos, s.line
	keys := s.key()
	for _, key := range keys {
		table = table.child(key, line)
	}
	if s.take('=') && s.skipBlank() {
		s.value(table, depth+len(keys))
	}
	if s.pos == start {
		s.pos++
	}
}

// value reads what stands at pos, which is not blank, into m.
func (s *scanner) value(m *mark, depth int) {
	if depth > maxDepth {
		s.tooDeep = s.line
		return
	}
	start := s.pos
	switch c := s.text[s.pos]; c {
	case '"', '\'':
		end := strings.Repeat(string(c), 3)
		if !strings.HasPrefix(s.text[s.pos:], end) {
			end = end[:1]
		}
		s.str(end)
	case '[':
		s.pos++
		for s.skipBlank() && !s.take(']') {
			if s.take(',') {
				continue
			}
			element := &mark{line: s.line}
			m.list = append(m.list, element)
			s.value(element, depth+1)
		}
	case '{':
		s.pos++
		for s.skipBlank() && !s.take('}') {
			if !s.take(',') {
				s.pair(m, depth)
			}
		}
	default:
		if s.until(",]}#\r\n") == "" {
			s.pos++
		}
	}
	m.text = strings.TrimRight(s.text[start:s.pos], " \t")
}

// key reads a dotted key and returns its parts, at least one.
func (s *scanner) key() []string {
	var parts []string
	for {
		s.skipSpace()
		if s.pos < len(s.text) && (s.text[s.pos] == '"' || s.text[s.pos] == '\'') {
			parts = append(parts, unquote(s.str(s.text[s.pos:s.pos+1])))
		} else {
			parts = append(parts, s.until(" \t\r\n.=[]{},#\"'"))
		}
		s.skipSpace()
		if len(parts) > maxDepth {
			s.tooDeep = s.line
			return parts
		}
		if !s.take('.') {
			return parts
		}
	}
}

// unquote returns what a quoted key means. An escape in a key is rare enough to ask the decoder.
func unquote(key string) string {
	if key[0] == '"' && strings.Contains(key, `\`) {
		var table map[string]any
		if _, err := toml.Decode(key+" = 0", &table); err != nil {
			return key
		}
		for key = range table {
			return key
		}
	}
	return strings.Trim(key, key[:1])
}

// str moves over a string that is closed by end, and returns it with its quotes.
func (s *scanner) str(end string) string {
	start := s.pos
	s.pos += len(end)
	for s.pos < len(s.text) && !strings.HasPrefix(s.text[s.pos:], end) {
		switch s.text[s.pos] {
		case '\\':
			if end[0] == '"' && s.pos+1 < len(s.text) && s.text[s.pos+1] != '\n' {
				s.pos++
			}
		case '\n':
			s.line++
		}
		s.pos++
	}
	s.pos = min(s.pos+len(end), len(s.text))
	if len(end) == 3 && s.take(end[0]) { // the string itself may end in one or two quotes
		s.take(end[0])
	}
	return s.text[start:s.pos]
}

// skipBlank moves over spaces, newlines and comments, and reports whether there is more to read.
func (s *scanner) skipBlank() bool {
	for s.tooDeep == 0 && s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\r':
			s.pos++
		case '\n':
			s.pos++
			s.line++
		case '#':
			s.until("\n")
		default:
			return true
		}
	}
	return false
}

func (s *scanner) skipSpace() {
	for s.take(' ') || s.take('\t') {
	}
}

// until moves to the next of chars, or to the end, and returns what it passed. chars holds the
// newline, so that the line stays right.
func (s *scanner) until(chars string) string {
	rest := s.text[s.pos:]
	if n := strings.IndexAny(rest, chars); n >= 0 {
		rest = rest[:n]
	}
	s.pos += len(rest)
	return rest
}

// take moves over c if it is next.
func (s *scanner) take(c byte) bool {
	if s.pos < len(s.text) && s.text[s.pos] == c {
		s.pos++
		return true
	}
	return false
}
