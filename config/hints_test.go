package config

import (
	"slices"
	"testing"
)

func TestSyntaxHints(t *testing.T) {
	const (
		unfinished = "expected a top-level item to end with a newline, comment, or EOF, but got "
		quotes     = " (text, durations and addresses stand in quotes)"
		keepalived = "this is not TOML, but looks like a keepalived.conf"
	)
	for _, tc := range []struct{ name, text, want string }{
		{"duration", "a = 1\n\tinterval  =\t2s   # often\n", "f:2: interval = 2s: " + unfinished + "'s' instead" + quotes},
		{"word", "name = web\n", `f:1: name = web: expected value but found "web" instead` + quotes},
		{"path", "path = /healthz\n", "f:1: path = /healthz: expected value but found '/' instead" + quotes},
		{"address", "address = 10.0.0.7\n", "f:1: address = 10.0.0.7: Invalid float value: \"10.0.0.7\"" + quotes},
		{"address with port", "api = 127.0.0.1:9650", "f:1: api = 127.0.0.1:9650: Invalid float value: \"127.0.0.1\"" + quotes},
		{"in a list", "interfaces = [eth0]", `f:1: interfaces = [eth0]: expected value but found "eth" instead` + quotes},
		{"in an inline table", `server = [{ port = 80, address = 10.0.0.7 }]`, "f:1: server = [{ port = 80, address = 10.0.0.7 }]: Invalid float value: \"10.0.0.7\"" + quotes},
		{"closing quote missing", "name = \"web\n", "f:1: name = \"web: strings cannot contain newlines"},
		{"comma missing", `a = ["#=x" "b"] # = c`, `f:1: a = ["#=x" "b"]: expected a comma (',') or array terminator (']'), but got '"'`},
		{"two numbers", "quorum = 1 2\n", "f:1: quorum = 1 2: " + unfinished + "'2' instead"},
		{"header", "[service.check\n", "f:1: [service.check: expected '.' or ']' to end table name, but got '\\n' instead"},
		{"end of the file", "[[service]]\nname =", "f:2: name =: unexpected EOF; expected value"},
		{"nothing but a comment", "# \x01", "f:1: TOML files cannot contain control characters: '0x01'"},
		{"escape sequence", "a = \x1b[31m\n", "f:1: a = �[31m: TOML files cannot contain control characters: '0x1b'"},
		{"virtual server", "virtual_server 192.0.2.10 80 {\n  lb_kind DR\n}\n", "f:1: virtual_server 192.0.2.10 80 {: " + keepalived},
		{"brace on the next line", "! ours\nvrrp_instance VI_1\n{\n}\n", "f:1: ! ours: " + keepalived},
		{"other section", "\nglobal_defs {\r\n}\n", "f:2: global_defs {: " + keepalived},
		{"keepalived's word as a key", "virtual_server = web\n", `f:1: virtual_server = web: expected value but found "web" instead` + quotes},
		{"inline table over lines", "server = {\n  port = 80\n  weight = 1\n}\n", "f:3: weight = 1: expected a comma or an inline table terminator '}', but got 'w' instead"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("f", []byte(tc.text), nil, noFiles)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestElsewhere(t *testing.T) {
	for _, tc := range []struct{ key, want string }{
		{"service", " (is it [[service]]?)"},
		{"check", " (is it [service.check]?)"},
		{"node", " (it belongs in [global])"},
		{"interval", " (it belongs in [service.check])"},
		{"status_code", " (keepalived's status_code is status in [service.check])"},
		{"real_server", " (keepalived's real_server is [[service.server]])"},
		{"router", " (is it [[router]]?)"},
		{"unicast_peer", " (keepalived's unicast_peer is peers in [[router]])"},
		{"state", " (keepalived's state is not needed: the priority decides who is master)"},
		{"cluster", ""},
		{"", ""},
	} {
		t.Run(tc.key, func(t *testing.T) {
			homes, hint := elsewhere(tc.key)
			if _, gone := needless[tc.key]; hint != tc.want || (homes == nil) != (hint == "" || gone) {
				t.Errorf("got %q, want %q, homes %v", hint, tc.want, homes)
			}
		})
	}
}

// A word that is a key here too would send its key away, and a path that is none would explain nothing.
func TestKeepalivedWords(t *testing.T) {
	for word, path := range keepalived {
		if slices.ContainsFunc(places(), func(p place) bool { return p.key == word }) {
			t.Errorf("%s is a key here too", word)
		}
		if !slices.ContainsFunc(places(), func(p place) bool { return p.path == path }) {
			t.Errorf("%s became %s, which is no key", word, path)
		}
	}
	for word := range needless {
		if slices.ContainsFunc(places(), func(p place) bool { return p.key == word }) {
			t.Errorf("%s is a key here", word)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"rr", "dh", "sh", "scheduler", "weight-zero"}
	for _, tc := range []struct{ name, word, want string }{
		{"case", "RR", "rr"},
		{"the same before the similar", "SH", "sh"},
		{"letter added", "rrr", "rr"},
		{"letters swapped", "hs", "sh"},
		{"two changes in a long word", "shedular", "scheduler"},
		{"three", "shodular", ""},
		{"two changes in a short word", "xx", ""},
		{"another word", "wlc", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := nearest(tc.word, words); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
