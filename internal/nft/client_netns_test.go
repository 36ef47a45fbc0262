package nft

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"poise/internal/lab"
)

func open(t *testing.T, h *lab.Host) *Client {
	t.Helper()
	var c *Client
	err := h.Do(func() (err error) {
		c, err = Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// example has all kinds of sets and rules.
func example() Rules {
	to := func(server string) netip.AddrPort { return netip.MustParseAddrPort(server) }
	return Rules{
		Marks: map[Flow]uint32{
			flow(6, "192.0.2.10", 80, 80):          0x50000001,
			flow(17, "192.0.2.10", 8000, 8100):     0x50000002,
			flow(132, "2001:db8::10", 3000, 65535): 0x50000003,
		},
		Masquerades: map[Masquerade]struct{}{
			{Flow: flow(6, "192.0.2.10", 80, 80), Server: to("10.0.0.7:8080")}:      {},
			{Flow: flow(17, "192.0.2.10", 8000, 8100), Server: to("10.0.0.7:0")}:    {},
			{Flow: flow(6, "2001:db8::10", 80, 80), Server: to("[fd00::7]:0")}:      {},
			{Flow: flow(6, "2001:db8::10", 90, 99), Server: to("[fd00::7]:8080")}:   {},
			{Flow: flow(6, "2001:db8::10", 90, 99), Server: to("[fd00::8]:8080")}:   {},
			{Flow: flow(6, "2001:db8::10", 443, 443), Server: to("[fd00::8]:8443")}: {},
			{Mark: 0x60000001, Server: to("10.0.0.9:0")}:                            {},
			{Mark: 0x60000001, Server: to("[fd00::9]:8080")}:                        {},
		},
	}
}

// What an operator sees of it, as nft 1.0.6 writes it; elements are in no order.
const listing = `table inet poise {
	map marks_ipv4 {
		type ipv4_addr . inet_proto . inet_service : mark
		flags interval
		elements = { 192.0.2.10 . tcp . 80 : 0x50000001,
			     192.0.2.10 . udp . 8000-8100 : 0x50000002 }
	}

	map marks_ipv6 {
		type ipv6_addr . inet_proto . inet_service : mark
		flags interval
		elements = { 2001:db8::10 . sctp . 3000-65535 : 0x50000003 }
	}

	set masquerade_ipv4 {
		type inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service
		elements = { tcp . 192.0.2.10 . 80 . 10.0.0.7 . 8080 }
	}

	set masquerade_ipv6 {
		type inet_proto . ipv6_addr . inet_service . ipv6_addr . inet_service
		elements = { tcp . 2001:db8::10 . 80 . fd00::7 . 80,
			     tcp . 2001:db8::10 . 443 . fd00::8 . 8443 }
	}

	set masquerade_marked_ipv4 {
		type mark . ipv4_addr
		elements = { 0x60000001 . 10.0.0.9 }
	}

	set masquerade_marked_ports_ipv6 {
		type mark . ipv6_addr . inet_service
		elements = { 0x60000001 . fd00::9 . 8080 }
	}

	set masquerade_ranges_ipv4 {
		type inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service
		flags interval
		elements = { udp . 192.0.2.10 . 8000-8100 . 10.0.0.7 . 8000-8100 }
	}

	set masquerade_ranges_ipv6 {
		type inet_proto . ipv6_addr . inet_service . ipv6_addr . inet_service
		flags interval
		elements = { tcp . 2001:db8::10 . 90-99 . fd00::7 . 8080,
			     tcp . 2001:db8::10 . 90-99 . fd00::8 . 8080 }
	}

	chain output {
		type route hook output priority mangle; policy accept;
		meta mark != 0x50100000/12 meta mark set ip daddr . meta l4proto . th dport map @marks_ipv4
		meta mark != 0x50100000/12 meta mark set ip6 daddr . meta l4proto . th dport map @marks_ipv6
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		meta l4proto { tcp, udp, sctp } meta l4proto . ct original ip daddr . ct original proto-dst . ip daddr . th dport @masquerade_ipv4 masquerade
		meta l4proto { tcp, udp, sctp } meta l4proto . ct original ip daddr . ct original proto-dst . ip daddr . th dport @masquerade_ranges_ipv4 masquerade
		meta mark . ct original ip daddr != @masquerade_marked_ipv4 meta mark . ip daddr @masquerade_marked_ipv4 masquerade
		meta l4proto { tcp, udp, sctp } meta l4proto . ct original ip6 daddr . ct original proto-dst . ip6 daddr . th dport @masquerade_ipv6 masquerade
		meta l4proto { tcp, udp, sctp } meta l4proto . ct original ip6 daddr . ct original proto-dst . ip6 daddr . th dport @masquerade_ranges_ipv6 masquerade
		meta mark . ct original ip6 daddr . th dport != @masquerade_marked_ports_ipv6 meta mark . ip6 daddr . th dport @masquerade_marked_ports_ipv6 masquerade
	}

	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		meta mark set ip daddr . meta l4proto . th dport map @marks_ipv4
		meta mark set ip6 daddr . meta l4proto . th dport map @marks_ipv6
	}
}
`

func TestNetnsListing(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	c := open(t, h)
	r := example()
	if err := c.Replace(r); err != nil {
		t.Fatal(err)
	}
	got := h.Run("nft", "list", "table", "inet", "poise")
	if !slices.Equal(sortedLines(got), sortedLines(listing)) {
		t.Errorf("the table is\n%swant\n%s", got, listing)
	}
	// A firewall that is saved with ours in it must load again.
	h.Run("sh", "-c", `rules=$(nft list ruleset); nft flush ruleset; echo "$rules" | nft -f -`)
	if again := h.Run("nft", "list", "table", "inet", "poise"); !slices.Equal(sortedLines(again), sortedLines(listing)) {
		t.Errorf("loaded from its own listing the table is\n%swant\n%s", again, got)
	}
}

// sortedLines are the lines of a listing, each element one, whatever their order was.
func sortedLines(listing string) []string {
	var lines []string
	for line := range strings.Lines(strings.NewReplacer("elements = { ", "", " }\n", "\n", ",\n", "\n", ", ", "\n").Replace(listing)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	return lines
}

// checkTable compares the kernel's table with what is wanted, by Differences and by nft.
func checkTable(t rapid.TB, h *lab.Host, c *Client, want Rules) {
	t.Helper()
	differences, err := c.Differences(want)
	if err != nil || len(differences) > 0 {
		t.Errorf("differences %q, error %v", differences, err)
	}
	got, expected := listed(t, h), expect(want)
	if !slices.Equal(got, expected) {
		t.Errorf("nft lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(expected, "\n"))
	}
}

// expect is what listed should find.
func expect(r Rules) []string {
	var lines []string
	for f, mark := range r.Marks {
		lines = append(lines, fmt.Sprintf("%v %d %v: %v", f.Addr, f.Protocol, ports(f.First, f.Last), mark))
	}
	for _, m := range r.masquerades() {
		lines = append(lines, fmt.Sprintf("%d %v %v %v %v", m.flow.Protocol, m.flow.Addr, ports(m.flow.First, m.flow.Last), m.server, ports(m.first, m.last)))
	}
	for m := range r.Masquerades {
		if m.Mark != 0 && m.Server.Port() == 0 {
			lines = append(lines, fmt.Sprintf("%d %v", m.Mark, m.Server.Addr()))
		} else if m.Mark != 0 {
			lines = append(lines, fmt.Sprintf("%d %v %d", m.Mark, m.Server.Addr(), m.Server.Port()))
		}
	}
	slices.Sort(lines)
	return lines
}

func ports(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// listed are the elements of our sets and maps by nft's account.
func listed(t rapid.TB, h *lab.Host) []string {
	t.Helper()
	var reply struct {
		Nftables []map[string]struct {
			Family, Table, Name string
			Elem                []json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(h.Run("nft", "-j", "list", "ruleset")), &reply); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, object := range reply.Nftables {
		for kind, o := range object {
			if o.Family != "inet" || o.Table != directorPlace.name || kind != "set" && kind != "map" {
				continue
			}
			for _, e := range o.Elem {
				lines = append(lines, elementText(t, e))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// elementText reads {"concat": [...]} of a set, or [{"concat": [...]}, mark] of a map.
func elementText(t rapid.TB, e json.RawMessage) string {
	t.Helper()
	var pair [2]json.RawMessage
	mark := ""
	if json.Unmarshal(e, &pair) == nil {
		e, mark = pair[0], ": "+string(pair[1])
	}
	var key struct{ Concat []any }
	if err := json.Unmarshal(e, &key); err != nil {
		t.Fatalf("%v: %s", err, e)
	}
	var words []string
	for _, v := range key.Concat {
		switch v := v.(type) {
		case map[string]any:
			if r, ok := v["range"].([]any); ok {
				words = append(words, fmt.Sprintf("%v-%v", r[0], r[1]))
			} else {
				p := v["prefix"].(map[string]any)
				first := uint16(p["addr"].(float64))
				words = append(words, ports(first, first|0xffff>>uint(p["len"].(float64))))
			}
		case float64:
			words = append(words, fmt.Sprintf("%.0f", v))
		default:
			words = append(words, strings.NewReplacer("udp", "17", "sctp", "132", "tcp", "6").Replace(fmt.Sprint(v)))
		}
	}
	return strings.Join(words, " ") + mark
}

func TestNetnsReplace(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	c := open(t, h)
	h.Run("nft", "add table inet other; add table ip poise; add chain inet other forward { type filter hook forward priority 0; policy drop; }")
	others := func() string {
		return h.Run("nft", "list table inet other") + h.Run("nft", "list table ip poise")
	}
	before := others()
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyRules.Draw(t, "a"), anyRules.Draw(t, "b")
		if err := errors.Join(c.Replace(a), c.Replace(b)); err != nil {
			t.Fatal(err)
		}
		checkTable(t, h, c, b)
	})
	if err := c.Replace(Rules{}); err != nil {
		t.Fatal(err)
	}
	if tables := h.Run("nft", "list", "tables"); tables != "table inet other\ntable ip poise\n" {
		t.Errorf("tables without rules of ours:\n%s", tables)
	}
	if after := others(); after != before {
		t.Errorf("other tables were\n%sare\n%s", before, after)
	}
}

func TestNetnsDrift(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	c := open(t, h)
	r := example()
	for _, tt := range []struct{ command, want string }{
		{"flush ruleset", "table inet poise is gone"},
		{"delete table inet poise; add table ip poise", "table inet poise is gone"},
		{"add table inet poise { flags dormant; }", "table inet poise is dormant or has another flag"},
		{"flush table inet poise", "chain output has 0 rules, not 2, chain postrouting has 0 rules, not 6, chain prerouting has 0 rules, not 2"},
		{"flush chain inet poise output", "chain output has 0 rules, not 2"},
		{"flush chain inet poise output; delete chain inet poise output", "chain output is gone"},
		{"add chain inet poise mine", "chain mine is not ours"},
		{"add rule inet poise prerouting counter", "chain prerouting has 3 rules, not 2"},
		{"insert rule inet poise postrouting accept", "chain postrouting has 7 rules, not 6"},
		{"flush chain inet poise output; add rule inet poise output counter; add rule inet poise output counter", "chain output has another rule"},
		{
			"flush chain inet poise output; add rule inet poise output meta mark set ip6 daddr . meta l4proto . th dport map @marks_ipv6; " +
				"add rule inet poise output meta mark set ip daddr . meta l4proto . th dport map @marks_ipv4", "chain output has another rule",
		},
		{
			"flush chain inet poise output; delete chain inet poise output; add chain inet poise output { type filter hook output priority -150; }; " +
				"add rule inet poise output counter", "chain output has another type, hook, priority or policy",
		},
		{"add chain inet poise prerouting { policy drop; }", "chain prerouting has another type, hook, priority or policy"},
		{"delete element inet poise marks_ipv4 { 192.0.2.10 . tcp . 80 }", "elements of marks_ipv4 missing: 1"},
		{"add element inet poise marks_ipv4 { 192.0.2.10 . tcp . 81 : 1 }", "elements of marks_ipv4 not ours: 1"},
		{
			"delete element inet poise marks_ipv4 { 192.0.2.10 . tcp . 80 }; add element inet poise marks_ipv4 { 192.0.2.10 . tcp . 80 : 1 }",
			"elements of marks_ipv4 missing: 1, elements of marks_ipv4 not ours: 1",
		},
		{"flush set inet poise masquerade_ranges_ipv6", "elements of masquerade_ranges_ipv6 missing: 2"},
		{"delete element inet poise masquerade_ipv4 { tcp . 192.0.2.10 . 80 . 10.0.0.7 . 8080 }", "elements of masquerade_ipv4 missing: 1"},
		{"add set inet poise mine { type ipv4_addr; }", "mine is not ours"},
		{"add set inet poise mine { typeof osf name; }", "mine is not ours"},
		{"add set inet poise mine { typeof ip saddr . ip daddr . tcp sport . tcp dport . ip protocol . meta mark; }", "table inet poise has sets of an unknown kind: could not determine data type: could not create data type: too many types to concat"},
		{"add map inet poise mine { type ipv4_addr : counter; }", "mine is not ours"},
		{"add element inet poise marks_ipv4 { * : 1 }", "elements of marks_ipv4 not ours: 1"},
		{
			"flush chain inet poise output; add rule inet poise output rt mtu > 1 meta mark set ip daddr . meta l4proto . th dport map @marks_ipv4; " +
				"add rule inet poise output meta mark set ip6 daddr . meta l4proto . th dport map @marks_ipv6", "chain output has another rule",
		},
		{
			"flush chain inet poise prerouting; flush chain inet poise output; delete map inet poise marks_ipv4; " +
				"add map inet poise marks_ipv4 { type ipv4_addr : mark; }",
			"marks_ipv4 is of another kind, elements of marks_ipv4 missing: 2, chain output has 0 rules, not 2, chain prerouting has 0 rules, not 2",
		},
		{"add table inet other; add chain inet other output { type filter hook output priority 0; policy drop; }", ""},
	} {
		if err := c.Replace(r); err != nil {
			t.Fatal(err)
		}
		checkTable(t, h, c, r)
		h.Run("nft", tt.command)
		if d, err := c.Differences(r); err != nil || strings.Join(d, ", ") != tt.want {
			t.Errorf("%s:\n%q, error %v, want\n%q", tt.command, d, err, tt.want)
		}
		h.Run("nft", "flush ruleset")
	}
}

// The lab's guest has Debian 12's kernel; the one that runs here may be much newer.
func TestLabKernel(t *testing.T) {
	lab.NeedRoot(t)
	t.Run("Listing", TestNetnsListing)
	t.Run("ReadMeanwhile", TestNetnsReadMeanwhile)
	t.Run("Refused", TestNetnsRefused)
	t.Run("Watch", TestNetnsWatch)
	t.Run("Marks", TestNetnsMarks)
	t.Run("Masquerade", TestNetnsMasquerade)
}

// What does not change is not read again.
func TestNetnsUnchanged(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	c := open(t, h)
	look := func() (uint32, *table) {
		if _, err := c.Differences(example()); err != nil {
			t.Error(err)
		}
		return c.seen, c.have
	}
	if err := c.Replace(example()); err != nil {
		t.Fatal(err)
	}
	generation, table := look()
	if g, again := look(); g != generation || again != table {
		t.Error("read again")
	}
	h.Run("nft", "add table ip other")
	if g, again := look(); g == generation || again == table {
		t.Error("not read again")
	}
}

// A table that is replaced while it is read is one or the other, not half of each.
func TestNetnsReadMeanwhile(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	c, other := open(t, h), open(t, h)
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
				err = other.Replace([]Rules{example(), {}}[i%2])
			}
		}
		done <- err
	}()
	good := 0
	for start := time.Now(); time.Since(start) < 500*time.Millisecond; {
		d, err := c.Differences(example())
		switch text := strings.Join(d, ", "); {
		case err != nil && err.Error() != "nftables: changes faster than it can be read":
			t.Fatal(err)
		case err == nil && text != "" && text != "table inet poise is gone":
			t.Fatalf("differences %q", d)
		case err == nil:
			good++
		}
	}
	close(stop)
	if err := <-done; err != nil || good == 0 {
		t.Errorf("error %v, %d reads", err, good)
	}
}

func TestNetnsRefused(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	c := open(t, h)
	r := example()
	if err := c.Replace(r); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		with Rules
		want string
	}{
		{
			"overlap",
			Rules{Marks: map[Flow]uint32{flow(6, "192.0.2.10", 79, 81): 1, flow(6, "192.0.2.10", 80, 80): 2}},
			"nftables: mark 0x2 for 192.0.2.10:80: overlaps 192.0.2.10:79-81, which gets mark 0x1",
		},
		{
			"backwards",
			Rules{Marks: map[Flow]uint32{flow(6, "192.0.2.10", 81, 80): 1}},
			"nftables: netlink receive: invalid argument",
		},
	} {
		if err := c.Replace(tt.with); err == nil || err.Error() != tt.want {
			t.Errorf("%s: error %v, want %s", tt.name, err, tt.want)
		}
		checkTable(t, h, c, r)
	}
}

// A try says what Replace would, and leaves nothing.
func TestNetnsTry(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("h")
	unmarked := Rules{Masquerades: map[Masquerade]struct{}{{Server: netip.MustParseAddrPort("10.0.0.7:80"), Flow: flow(6, "192.0.2.10", 80, 80)}: {}}}
	overlapping := Rules{Marks: map[Flow]uint32{flow(6, "192.0.2.10", 80, 90): 1, flow(6, "192.0.2.10", 85, 85): 2}}
	for _, tt := range []struct {
		rules Rules
		ok    bool
	}{{example(), true}, {unmarked, true}, {Rules{}, true}, {overlapping, false}} {
		if err := h.Do(func() error { return Try(tt.rules) }); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.rules, err)
		}
	}
	if out := h.Run("nft", "list", "ruleset"); out != "" {
		t.Errorf("left behind:\n%s", out)
	}
}

func TestNetnsForbidden(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	err := h.Do(func() error {
		// The thread's own, and it ends with Do.
		none := make([]unix.CapUserData, 2)
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			return err
		}
		_, err := Open()
		return err
	})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("error %v", err)
	}
}

func TestNetnsWatch(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	c := open(t, h)
	var w *Watcher
	err := h.Do(func() (err error) {
		w, err = Watch()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	told := func(limit time.Duration) bool {
		select {
		case <-w.Changes():
			return true
		case <-time.After(limit):
			return false
		}
	}
	quiet := func() {
		for told(100 * time.Millisecond) {
		}
	}
	if told(100 * time.Millisecond) {
		t.Error("told of a change before there was one")
	}
	for _, change := range []func(){
		func() {
			if err := c.Replace(example()); err != nil {
				t.Error(err)
			}
		},
		func() { h.Run("nft", "delete element inet poise marks_ipv4 { 192.0.2.10 . tcp . 80 }") },
		func() { h.Run("nft", "flush ruleset") },
		// More than the queue holds, at once.
		func() {
			if err := c.Replace(many(10000, 1000)); err != nil {
				t.Error(err)
			}
		},
		func() { h.Run("nft", "flush ruleset") },
	} {
		change()
		if !told(10 * time.Second) {
			t.Error("not told of a change")
		}
		quiet()
	}
	w.Close()
}

// many are rules with n masqueraded servers and m flows.
func many(n, m int) Rules {
	r := Rules{Marks: make(map[Flow]uint32), Masquerades: make(map[Masquerade]struct{})}
	for i := range n {
		f := flow(6, "2001:db8::10", uint16(i%100), uint16(i%100))
		server := netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})
		r.Masquerades[Masquerade{Flow: f, Server: netip.AddrPortFrom(server, 80)}] = struct{}{}
	}
	for i := range m {
		f := flow(17, "192.0.2.10", uint16(10*i), uint16(10*i+9))
		if i%2 == 0 {
			f = flow(6, "2001:db8::10", uint16(i), uint16(i))
		}
		r.Marks[f] = uint32(0x50000000 + i)
	}
	return r
}

func TestNetnsMany(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("director")
	c := open(t, h)
	r := many(10000, 1000)
	start := time.Now()
	if err := c.Replace(r); err != nil {
		t.Fatal(err)
	}
	replaced := time.Now()
	if d, err := c.Differences(r); err != nil || len(d) > 0 {
		t.Errorf("differences %q, error %v", d, err)
	}
	read := time.Now()
	if d, err := c.Differences(r); err != nil || len(d) > 0 {
		t.Errorf("differences %q, error %v", d, err)
	}
	t.Logf("replaced in %v, read in %v, asked again in %v", replaced.Sub(start), read.Sub(replaced), time.Since(read))
	checkTable(t, h, c, r)
	if limit := 5 * time.Second; read.Sub(start) > limit {
		t.Errorf("took %v, more than %v", read.Sub(start), limit)
	}
	gone := slices.Collect(maps.Keys(r.Masquerades))[0]
	delete(r.Masquerades, gone)
	if d, err := c.Differences(r); err != nil || len(d) != 1 {
		t.Errorf("differences %q, error %v, want the one element too many", d, err)
	}
}
