package nft

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func addrs(texts ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// own is of an interface or two, one with the longest name there can be.
func own(texts ...string) map[string]netip.Addr {
	own := make(map[string]netip.Addr)
	for i, addr := range addrs(texts...) {
		own[[]string{"eth0", "eth1.1234567890"}[i]] = addr
	}
	return own
}

func mssOf(size uint16, texts ...string) map[netip.Addr]uint16 {
	mss := make(map[netip.Addr]uint16)
	for _, addr := range addrs(texts...) {
		mss[addr] = size
	}
	return mss
}

// What is wrong is said before the kernel is asked.
func TestRealServerRefused(t *testing.T) {
	vips, eth0 := addrs("192.0.2.10"), own("192.0.2.21")
	link := func(name string) map[string]netip.Addr { return map[string]netip.Addr{name: eth0["eth0"]} }
	const notALink = "not an interface's name of 1 to 15 bytes without spaces and any of /:\"*\\"
	sizes := make(map[netip.Addr]uint16)
	for addr := vips[0]; len(sizes) < 65; addr = addr.Next() {
		sizes[addr] = uint16(1000 + len(sizes))
	}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"IPv6 has no ARP", SetSilence(addrs("2001:db8::10"), eth0), "silence of 2001:db8::10 in ARP: not a unicast address of IPv4"},
		{"mapped", SetSilence(addrs("::ffff:192.0.2.10"), eth0), "silence of ::ffff:192.0.2.10 in ARP: not a unicast address of IPv4"},
		{"none", SetSilence([]netip.Addr{{}}, eth0), "silence of invalid IP in ARP: not a unicast address of IPv4"},
		{"group", SetSilence(addrs("224.0.0.18"), eth0), "silence of 224.0.0.18 in ARP: not a unicast address of IPv4"},
		{"too many", SetSilence(make([]netip.Addr, 1<<14+1), eth0), "silence in ARP: 16385 addresses are more than 16384"},
		{"own is virtual", SetSilence(vips, own("192.0.2.10")), "own address 192.0.2.10 of eth0: is one to be silent about"},
		{"own of IPv6", SetSilence(vips, own("2001:db8::21")), "own address 2001:db8::21 of eth0: not a unicast address of IPv4"},
		{"own of anybody", SetSilence(vips, own("0.0.0.0")), "own address 0.0.0.0 of eth0: not a unicast address of IPv4"},
		{"no name", SetSilence(vips, link("")), `own address 192.0.2.21 of "": ` + notALink},
		{"long name", SetSilence(vips, link("eth1.12345678901")), `own address 192.0.2.21 of "eth1.12345678901": ` + notALink},
		{"pattern", SetSilence(vips, link("eth*")), `own address 192.0.2.21 of "eth*": ` + notALink},
		{"two words", SetSilence(vips, link("eth 0")), `own address 192.0.2.21 of "eth 0": ` + notALink},
		{"two ends", SetSilence(vips, link("eth0\x00")), `own address 192.0.2.21 of "eth0\x00": ` + notALink},
		{"path", SetSilence(vips, link("..")), `own address 192.0.2.21 of "..": ` + notALink},
		{"even without a table", SetSilence(nil, link("..")), `own address 192.0.2.21 of "..": ` + notALink},
		{"MSS too small", SetClamp(mssOf(87, "192.0.2.10")), "MSS 87 of 192.0.2.10 is outside 88..65495"},
		{"MSS too large", SetClamp(mssOf(65496, "2001:db8::10")), "MSS 65496 of 2001:db8::10 is outside 88..65495"},
		{"MSS of an interface's", SetClamp(mssOf(1400, "fe80::1%eth0")), "MSS of fe80::1%eth0: not a unicast address"},
		{"MSS of none", SetClamp(map[netip.Addr]uint16{{}: 1400}), "MSS of invalid IP: not a unicast address"},
		{"MSS of all sizes", SetClamp(sizes), "MSS: 65 different ones are more than 64"},
	} {
		if want := "nftables: " + tt.want; tt.err == nil || tt.err.Error() != want {
			t.Errorf("%s: error %v, want %s", tt.name, tt.err, want)
		}
	}
	if _, _, err := ReadSilence(link("..")); err == nil || !strings.Contains(err.Error(), notALink) {
		t.Errorf("read with a wrong name: error %v", err)
	}
}

// What a kernel lacks is said of the table that needs it.
func TestRealServerExplained(t *testing.T) {
	for _, tt := range []struct {
		at   *place
		err  error
		want string
	}{
		{silencePlace, unix.EOPNOTSUPP, "operation not supported: this kernel's nf_tables has no family arp"},
		{clampPlace, unix.EOPNOTSUPP, "operation not supported: this kernel's nf_tables has no family inet"},
		{silencePlace, unix.ENOENT, "no such file or directory"},
		{clampPlace, unix.EPERM, "operation not permitted: needs CAP_NET_ADMIN: run as root"},
		{directorPlace, unix.ENOENT, "no such file or directory: this kernel lacks one of the modules nft_chain_nat, nft_ct and nft_masq"},
		{directorPlace, unix.EOPNOTSUPP, "operation not supported: this kernel's nf_tables has no family inet, or no sets of ranges (Linux 5.6 has both)"},
	} {
		if got := tt.at.explain(tt.err); got.Error() != tt.want {
			t.Errorf("%v: %v, want %s", tt.at, got, tt.want)
		}
	}
}

// sent is the table that a table's messages make, in so far as they are read here: its rules.
func sent(t rapid.TB, want *table) *table {
	t.Helper()
	batch, err := want.replacement()
	if err != nil {
		t.Fatal(err)
	}
	have := newTable(want.place)
	have.sets = maps.Clone(want.sets)
	for name, c := range want.chains {
		have.chains[name] = chain{kind: c.kind}
	}
	for _, m := range batch {
		if m.Header.Type == nftType(unix.NFT_MSG_NEWRULE) {
			if m.Data[0] != byte(want.place.family) {
				t.Errorf("a rule of family %d for table %v", m.Data[0], want.place)
			}
			if err := have.readRule(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return have
}

// What is set is what is read: all addresses, and nothing else that differs.
func TestRealServerRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vips := slices.Compact(slices.Sorted(slices.Values(rapid.SliceOfN(rapid.Uint32Range(0xc0000201, 0xc00002ff), 1, 20).Draw(t, "vips"))))
		var addresses []netip.Addr
		mss := make(map[netip.Addr]uint16)
		for _, vip := range vips {
			addr := netip.AddrFrom4([4]byte{byte(vip >> 24), byte(vip >> 16), byte(vip >> 8), byte(vip)})
			addresses = append(addresses, addr)
			if rapid.Bool().Draw(t, "IPv6") {
				addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(vip)})
			}
			mss[addr] = rapid.Uint16Range(1398, 1402).Draw(t, "MSS")
		}
		eth := own([]string{"10.0.0.21", "10.0.1.21"}[:rapid.IntRange(0, 2).Draw(t, "interfaces")]...)
		if err := checkSilence(addresses, eth); err != nil {
			t.Error(err)
		}
		if err := checkClamp(mss); err != nil {
			t.Error(err)
		}
		got, differences := sent(t, silence(addresses, eth)).silent(eth)
		if !slices.Equal(got, addresses) || differences != nil {
			t.Errorf("silent about %v, differences %q, want %v", got, differences, addresses)
		}
		have := sent(t, clamp(mss))
		if got, differences := have.clamped(); !maps.Equal(got, mss) || differences != nil {
			t.Errorf("MSS %v, differences %q, want %v", got, differences, mss)
		}
		if rules, sets := len(have.chains["output"].rules), len(have.sets); rules != sets || rules > 2*5 {
			t.Errorf("%d rules, %d sets", rules, sets)
		}
	})
}

func TestSilenceDifferences(t *testing.T) {
	vips, eth := addrs("192.0.2.10", "192.0.2.11"), own("192.0.2.21")
	without := func(change func(*table)) *table {
		have := silence(vips, eth)
		change(have)
		return have
	}
	for _, tt := range []struct {
		name string
		have *table
		vips []netip.Addr
		text string
	}{
		{"as wanted", silence(vips, eth), vips, ""},
		{"other addresses are no difference", silence(vips[:1], eth), vips[:1], ""},
		{"no addresses", silence(nil, eth), nil, "vips is empty"},
		{"no set", without(func(have *table) { delete(have.sets, "vips") }), nil, "vips is gone"},
		{
			"a set of another kind",
			without(func(have *table) {
				have.sets["vips"] = set{kind: newSet(nftables.Set{HasTimeout: true}, target).kind, elements: have.sets["vips"].elements}
			}),
			nil, "vips is of another kind, elements of vips not ours: 2",
		},
		{"everybody", without(func(have *table) { have.sets["vips"].elements[element{}] = struct{}{} }), vips, "elements of vips not ours: 1"},
		{"another own address", silence(vips, own("192.0.2.22")), vips, "chain output has another rule"},
		{"an interface more", silence(vips, own("192.0.2.21", "10.0.0.21")), vips, "chain output has 3 rules, not 2"},
		{"no own addresses", silence(vips, nil), vips, "chain output has 1 rules, not 2"},
		{"one is own", silence(append(vips, eth["eth0"]), eth), append(slices.Clone(vips), eth["eth0"]), ""},
	} {
		got, differences := tt.have.silent(eth)
		if !slices.Equal(got, tt.vips) || strings.Join(differences, ", ") != tt.text {
			t.Errorf("%s: %v, differences %q, want %v, %q", tt.name, got, differences, tt.vips, tt.text)
		}
	}
}

func TestClampDifferences(t *testing.T) {
	want := mssOf(1400, "192.0.2.10", "2001:db8::10")
	with := func(change func(*table)) *table {
		have := clamp(want)
		change(have)
		return have
	}
	another := newSet(nftables.Set{}, families[0].source)
	another.elements[single(addrs("192.0.2.10")[0])] = struct{}{}
	for _, tt := range []struct {
		name string
		have *table
		mss  map[netip.Addr]uint16
		text string
	}{
		{"as wanted", clamp(want), want, ""},
		{"others are no difference", clamp(mssOf(1300, "192.0.2.11")), mssOf(1300, "192.0.2.11"), ""},
		{"nothing", newTable(clampPlace), nil, "table inet poise_realserver is there"},
		{
			"one family's set is empty", with(func(have *table) { clear(have.sets["mss_1400_ipv4"].elements) }), mssOf(1400, "2001:db8::10"),
			"mss_1400_ipv4 is not ours, chain output has 2 rules, not 1",
		},
		{"twice", with(func(have *table) { have.sets["mss_1500_ipv4"] = another }), want, "mss_1500_ipv4 is not ours"},
		{
			"twice, and smaller", with(func(have *table) { have.sets["mss_1300_ipv4"] = another }),
			map[netip.Addr]uint16{addrs("192.0.2.10")[0]: 1300, addrs("2001:db8::10")[0]: 1400},
			"mss_1400_ipv4 is not ours, chain output has another rule",
		},
		{"another name", with(func(have *table) { have.sets["mss_01300_ipv4"] = another }), want, "mss_01300_ipv4 is not ours"},
		{"another family", with(func(have *table) { have.sets["mss_1300_ipv6"] = another }), want, "mss_1300_ipv6 is not ours"},
		{"outside", with(func(have *table) { have.sets["mss_87_ipv4"] = another }), want, "mss_87_ipv4 is not ours"},
	} {
		mss, differences := tt.have.clamped()
		if !maps.Equal(mss, tt.mss) || strings.Join(differences, ", ") != tt.text {
			t.Errorf("%s: %v, differences %q, want %v, %q", tt.name, mss, differences, tt.mss, tt.text)
		}
	}
}

// A name says one size and family, or none.
func TestClampName(t *testing.T) {
	for _, f := range families {
		for _, size := range []uint16{88, 1400, 65495} {
			for _, other := range families {
				got, ok := clampSize(other, clampName(f, size))
				if want := other.name == f.name; ok != want || ok && got != size {
					t.Errorf("%s read as of %s: %d, %v", clampName(f, size), other.name, got, ok)
				}
			}
		}
		for _, name := range []string{"", "mss_", "mss__" + f.name, "mss_1400", "1400_" + f.name, "mss_+1400_" + f.name, "mss_65496_" + f.name, "mss_70000_" + f.name} {
			if size, ok := clampSize(f, name); ok {
				t.Errorf("%q is read as %d", name, size)
			}
		}
	}
	if got := fmt.Sprint(silencePlace, clampPlace, directorPlace); got != "arp poise inet poise_realserver inet poise" {
		t.Errorf("the tables are %s", got)
	}
}
