package nft

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func flow(protocol uint8, addr string, first, last uint16) Flow {
	return Flow{protocol, netip.MustParseAddr(addr), first, last}
}

func TestMerge(t *testing.T) {
	web := func(first, last uint16) Flow { return flow(6, "192.0.2.10", first, last) }
	type marks = map[Flow]uint32
	for _, tt := range []struct {
		name       string
		r, o, want marks
	}{
		{"nothing", nil, nil, marks{}},
		{"apart", marks{web(80, 80): 1}, marks{web(81, 90): 2}, marks{web(80, 80): 1, web(81, 90): 2}},
		{"the same", marks{web(80, 80): 1}, marks{web(80, 80): 2}, marks{web(80, 80): 1}},
		{"inside", marks{web(80, 90): 1}, marks{web(85, 86): 2}, marks{web(80, 90): 1}},
		{"around", marks{web(80, 90): 1}, marks{web(70, 100): 2}, marks{web(70, 79): 2, web(80, 90): 1, web(91, 100): 2}},
		{"at both ends", marks{web(0, 9): 1, web(65530, 65535): 1}, marks{web(0, 65535): 2}, marks{web(0, 9): 1, web(10, 65529): 2, web(65530, 65535): 1}},
		{"another protocol", marks{web(80, 80): 1}, marks{flow(17, "192.0.2.10", 80, 80): 2}, marks{web(80, 80): 1, flow(17, "192.0.2.10", 80, 80): 2}},
		{"another address", marks{web(80, 80): 1}, marks{flow(6, "192.0.2.11", 80, 80): 2}, marks{web(80, 80): 1, flow(6, "192.0.2.11", 80, 80): 2}},
	} {
		if got := (Rules{Marks: tt.r}).Merge(Rules{Marks: tt.o}); !got.Equal(Rules{Marks: tt.want}) {
			t.Errorf("%s: %v, want %v", tt.name, got.Marks, tt.want)
		}
	}
}

func TestOverlap(t *testing.T) {
	r := Rules{Marks: map[Flow]uint32{
		flow(6, "192.0.2.10", 80, 90):   0x50000001,
		flow(6, "192.0.2.10", 90, 90):   0x50000002,
		flow(17, "192.0.2.10", 80, 90):  0x50000003,
		flow(6, "2001:db8::10", 80, 90): 0x50000004,
	}}
	const want = "mark 0x50000002 for 192.0.2.10:90: overlaps 192.0.2.10:80-90, which gets mark 0x50000001"
	if err := r.check(); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	delete(r.Marks, flow(6, "192.0.2.10", 90, 90))
	if err := r.check(); err != nil {
		t.Error(err)
	}
}

// Few ports, so that flows meet; the outermost among them.
var (
	anyPort   = rapid.SampledFrom([]uint16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65534, 65535})
	anyAddr   = rapid.SampledFrom([]string{"192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"})
	anyServer = map[bool][]string{true: {"10.0.0.7", "10.0.0.8"}, false: {"fd00::7", "fd00::8"}}
	anyFlow   = rapid.Custom(func(t *rapid.T) Flow {
		a, b := anyPort.Draw(t, "port"), anyPort.Draw(t, "port")
		return flow(rapid.SampledFrom([]uint8{6, 17, 132}).Draw(t, "protocol"), anyAddr.Draw(t, "address"), min(a, b), max(a, b))
	})
	anyRules = rapid.Custom(func(t *rapid.T) Rules {
		var r Rules
		for range rapid.IntRange(0, 8).Draw(t, "marks") {
			mark := rapid.Uint32().Draw(t, "mark")
			r = r.Merge(Rules{Marks: map[Flow]uint32{anyFlow.Draw(t, "flow"): mark}})
		}
		r.Masquerades = make(map[Masquerade]struct{})
		for range rapid.IntRange(0, 8).Draw(t, "masquerades") {
			f := anyFlow.Draw(t, "flow")
			server := netip.MustParseAddr(rapid.SampledFrom(anyServer[f.Addr.Is4()]).Draw(t, "server"))
			m := Masquerade{Flow: f, Server: netip.AddrPortFrom(server, anyPort.Draw(t, "server's port"))}
			if rapid.Bool().Draw(t, "by mark") {
				m.Flow, m.Mark = Flow{}, rapid.Uint32Range(1, 3).Draw(t, "mark")
			}
			r.Masquerades[m] = struct{}{}
		}
		return r
	})
)

// markOf is what a packet gets, and how many flows it is one of.
func (r Rules) markOf(f Flow) (mark uint32, n int) {
	for g, m := range r.Marks {
		if g.endpoint() == f.endpoint() && g.First <= f.First && f.First <= g.Last {
			mark = m
			n++
		}
	}
	return mark, n
}

func TestMergeMarks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, o := anyRules.Draw(t, "r"), anyRules.Draw(t, "o")
		before := r.Merge(Rules{})
		merged := r.Merge(o)
		if !r.Equal(before) {
			t.Error("r is changed")
		}
		if err := merged.check(); err != nil {
			t.Error(err)
		}
		packet := anyFlow.Draw(t, "packet")
		packet.Last = packet.First
		want, n := r.markOf(packet)
		if n == 0 {
			want, n = o.markOf(packet)
		}
		if got, m := merged.markOf(packet); got != want || m != n {
			t.Errorf("%v: mark %d of %d flows, want %d of %d", packet, got, m, want, n)
		}
	})
}

func TestMasqueradesOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRules.Draw(t, "rules")
		once, now := anyFlow.Draw(t, "packet"), max(1, anyPort.Draw(t, "server's port"))
		server := netip.MustParseAddr(rapid.SampledFrom(anyServer[once.Addr.Is4()]).Draw(t, "server"))
		in := func(p, first, last uint16) bool { return first <= p && p <= last }
		want, perhaps := false, false
		for m := range r.Masquerades {
			f := m.Flow
			if m.Mark != 0 || f.endpoint() != once.endpoint() || m.Server.Addr() != server || !in(once.First, f.First, f.Last) {
				continue
			}
			want = want || m.Server.Port() == now || m.Server.Port() == 0 && now == once.First
			perhaps = perhaps || m.Server.Port() == 0 // the set cannot say "the same port"
		}
		n := 0
		for _, m := range r.masquerades() {
			if m.flow.endpoint() == once.endpoint() && m.server == server && in(once.First, m.flow.First, m.flow.Last) && in(now, m.first, m.last) {
				n++
			}
		}
		if n > 1 || want && n == 0 || n == 1 && !want && !perhaps {
			t.Errorf("%v to %v port %d: in %d elements", once, server, now, n)
		}
	})
}

func TestDifferences(t *testing.T) {
	r := Rules{Marks: map[Flow]uint32{flow(6, "192.0.2.10", 80, 80): 1}}
	for _, tt := range []struct {
		name       string
		want, have *table
		text       string
	}{
		{"none", tableOf(Rules{}), nil, ""},
		{"equal", tableOf(r), tableOf(r), ""},
		{"gone", tableOf(r), nil, "table inet poise is gone"},
		{"not wanted", tableOf(Rules{}), tableOf(r), "table inet poise is there"},
		{
			"another mark", tableOf(r), tableOf(Rules{Marks: map[Flow]uint32{flow(6, "192.0.2.10", 80, 80): 2}}),
			"elements of marks_ipv4 missing: 1, elements of marks_ipv4 not ours: 1",
		},
		{
			"another family", tableOf(r), tableOf(Rules{Marks: map[Flow]uint32{flow(6, "2001:db8::10", 80, 80): 1}}),
			"marks_ipv4 is gone, marks_ipv6 is not ours, chain output has another rule, chain prerouting has another rule",
		},
	} {
		if got := strings.Join(tt.want.differences(tt.have), ", "); got != tt.text {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.text)
		}
	}
}

// What is written is what is read: the messages of a table make the same rules again.
func TestRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := tableOf(anyRules.Draw(t, "rules"))
		batch, err := want.replacement()
		if err != nil {
			t.Fatal(err)
		}
		have := newTable(directorPlace)
		for _, m := range batch {
			if m.Header.Type == nftType(unix.NFT_MSG_NEWRULE) {
				if err := have.readRule(m); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !maps.EqualFunc(have.chains, want.chains, func(a, b chain) bool { return slices.EqualFunc(a.rules, b.rules, rule.same) }) {
			t.Errorf("read %v, want %v", have.chains, want.chains)
		}
	})
}

// Expressions are the same whatever the order of their attributes and the zeros among them, and not if a value differs.
func TestMeaning(t *testing.T) {
	ct := func(attrs ...[]byte) []byte {
		return slices.Concat(attribute(unix.NFTA_EXPR_NAME, []byte("ct\x00")), attribute(unix.NFTA_EXPR_DATA, slices.Concat(attrs...)))
	}
	key, register, zero := attribute(unix.NFTA_CT_KEY, []byte{0, 0, 0, 21}), attribute(unix.NFTA_CT_DREG, []byte{0, 0, 0, 1}), attribute(unix.NFTA_CT_DIRECTION, []byte{0})
	reply, another := attribute(unix.NFTA_CT_DIRECTION, []byte{1}), attribute(unix.NFTA_CT_DREG, []byte{0, 0, 0, 2})
	e := ct(key, register)
	for _, tt := range []struct {
		name string
		with []byte
		same bool
	}{
		{"itself", e, true},
		{"another order", ct(register, key), true},
		{"a zero", ct(key, zero, register), true},
		{"another value", ct(key, another), false},
		{"an attribute more", ct(key, register, reply), false},
		{"an attribute less", ct(key), false},
		{"another name", slices.Concat(attribute(unix.NFTA_EXPR_NAME, []byte("rt\x00")), e[8:]), false},
		{"cut off", e[:len(e)-2], false},
		{"nothing", nil, false},
	} {
		if same := (rule{e}).same(rule{tt.with}); same != tt.same {
			t.Errorf("%s: same %v, want %v", tt.name, same, tt.same)
		}
	}
}

// Whatever the kernel says may be an error, but nothing worse.
func FuzzRead(f *testing.F) {
	r := Rules{
		Marks:       map[Flow]uint32{flow(6, "192.0.2.10", 80, 80): 1},
		Masquerades: map[Masquerade]struct{}{{Flow: flow(6, "192.0.2.10", 80, 90), Server: netip.MustParseAddrPort("10.0.0.7:8080")}: {}},
	}
	batch, err := tableOf(r).replacement()
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range batch {
		f.Add(m.Data)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		t := newTable(directorPlace)
		t.readRule(netlink.Message{Data: b})
		tableOf(r).differences(t)
	})
}
