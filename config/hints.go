package config

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// place is where the file may have a key.
type place struct {
	path    string // "service.check.interval"
	key     string // "interval"
	header  string // that the key stands under, or that stands for it: "[service.check]"
	isTable bool
}

// places are found when the first mistake asks for them: each process of the daemon is of this program.
var places = sync.OnceValue(func() []place { return placesIn(reflect.TypeFor[Config](), "", "") })

// placesIn lists the keys of the struct type t, which stands under header at path, and those of the tables within.
func placesIn(t reflect.Type, path, header string) []place {
	var all []place
	for _, f := range fieldsOf(t) {
		p := place{path: strings.TrimPrefix(path+"."+f.key, "."), key: f.key, header: header}
		switch f.kind {
		case asTable:
			p.header, p.isTable = "["+p.path+"]", true
		case asTables:
			p.header, p.isTable = "[["+p.path+"]]", true
		}
		all = append(all, p)
		if p.isTable {
			all = append(all, placesIn(f.elem, p.path, p.header)...)
		}
	}
	return all
}

// keepalived has the words of keepalived.conf that are called otherwise here, by the path of what they became.
var keepalived = map[string]string{
	"virtual_server":             "service",
	"lb_algo":                    "service.scheduler",
	"lb_kind":                    "service.forward",
	"persistence_timeout":        "service.persistence",
	"ops":                        "service.one_packet",
	"lvs_method":                 "service.forward",
	"uthreshold":                 "service.server.upper_threshold",
	"lthreshold":                 "service.server.lower_threshold",
	"lvs_sync_daemon":            "ipvs.sync",
	"lvs_timeouts":               "ipvs.timeouts",
	"hysteresis":                 "service.quorum_hysteresis",
	"real_server":                "service.server",
	"delay_loop":                 "service.check.interval",
	"connect_timeout":            "service.check.timeout",
	"connect_port":               "service.check.port",
	"url":                        "service.check.path",
	"virtualhost":                "service.check.host",
	"status_code":                "service.check.status",
	"retry":                      "service.check.fall",
	"inhibit_on_failure":         "service.check.on_failure",
	"vrrp_instance":              "router",
	"virtual_router_id":          "router.vrid",
	"vrrp_version":               "router.version",
	"advert_int":                 "router.advert_interval",
	"virtual_ipaddress":          "router.addresses",
	"virtual_ipaddress_excluded": "router.excluded_addresses",
	"nopreempt":                  "router.preempt",
	"mcast_src_ip":               "router.source",
	"unicast_src_ip":             "router.source",
	"unicast_peer":               "router.peers",
	"auth_pass":                  "router.password",
}

// needless has the words of keepalived.conf that became nothing, and why.
var needless = map[string]string{
	"state":          "the priority decides who is master",
	"auth_type":      "a password is enough",
	"authentication": "a password is enough",
}

// elsewhere returns the places where a key belongs that is unknown where it stands, and a hint that names them,
// or that there are none.
func elsewhere(key string) (homes []place, hint string) {
	if why, ok := needless[key]; ok {
		return nil, fmt.Sprintf(" (keepalived's %s is not needed: %s)", key, why)
	}
	path, foreign := keepalived[key]
	var headers []string
	for _, p := range places() {
		if foreign && p.path == path || !foreign && p.key == key {
			homes = append(homes, p)
		}
	}
	if slices.ContainsFunc(homes, isTable) { // a value of that name elsewhere is not meant by one
		homes = slices.DeleteFunc(homes, func(p place) bool { return !isTable(p) })
	}
	for _, p := range homes {
		headers = append(headers, p.header)
	}
	if homes == nil {
		return nil, ""
	}
	switch header := strings.Join(headers, " or "); {
	case foreign && homes[0].isTable:
		hint = fmt.Sprintf(" (keepalived's %s is %s)", key, header)
	case foreign:
		hint = fmt.Sprintf(" (keepalived's %s is %s in %s)", key, homes[0].key, header)
	case homes[0].isTable:
		hint = fmt.Sprintf(" (is it %s?)", header)
	default:
		hint = fmt.Sprintf(" (it belongs in %s)", header)
	}
	return homes, hint
}

func isTable(p place) bool { return p.isTable }

// didYouMean suggests the one of words that word was probably meant to be, if there is one.
func didYouMean(word string, words []string) (meant, hint string) {
	if meant = nearest(word, words); meant != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", meant)
	}
	return meant, hint
}

// nearest returns the one of words that few changes make of word, "" if none is near. Case is none of the
// changes; the longer one of words is, the more changes still mean that it was meant.
func nearest(word string, words []string) (best string) {
	const longest = 64
	if len(word) > longest {
		return ""
	}
	least := math.MaxInt
	for _, w := range words {
		if d := distance(strings.ToLower(word), w); d <= 1+len(w)/6 && d < least {
			best, least = w, d
		}
	}
	return best
}

// distance counts the changes that turn a into b: letters added, dropped, replaced, or swapped with the next.
func distance(a, b string) int {
	var prev2, prev []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev2, prev, row = prev, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			row[j] = 1 + min(prev[j], row[j-1], prev[j-1])
			if a[i-1] == b[j-1] {
				row[j] = prev[j-1]
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

var (
	// What a line of keepalived.conf is and a line of TOML never: words without "=", or several before "{".
	keepalivedLine = lazily(`(?m)^[ \t]*(?:(?:virtual_server|vrrp_instance)[ \t]+[^=\s]|\w[^=\n]*\{[ \t\r]*$)`)
	// Strings are found so that a "#" within is not taken for a comment. They may lack their end.
	stringOrComment = lazily(`"(?:\\.|[^"\\])*"?|'[^']*'?|#.*`)
	// A word, duration or address that no quotes enclose.
	unquotedValue = lazily(`=\s*\[?\s*(?:[\d.]*[A-Za-z/:]|\d+\.\d+\.)`)
)

// lazily compiles a pattern when it is needed.
func lazily(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

// explain puts the decoder's complaint about a line of text so that it helps who does not know TOML.
func explain(text, line, complaint string) (value, rule string) {
	code := stringOrComment().ReplaceAllStringFunc(line, func(s string) string {
		if s[0] == '#' {
			return ""
		}
		return s
	})
	value, rule = shorten(printable(code)), printable(complaint)
	switch {
	case keepalivedLine().MatchString(text):
		rule = "this is not TOML, but looks like a keepalived.conf"
	case unquotedValue().MatchString(stringOrComment().ReplaceAllString(line, `""`)):
		rule += " (text, durations and addresses stand in quotes)"
	}
	return value, rule
}
