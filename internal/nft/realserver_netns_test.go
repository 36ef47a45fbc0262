package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

// What an operator sees of it, as nft 1.0.6 writes it; elements are in no order.
const silenceListing = `table arp poise {
	set vips {
		type ipv4_addr
		elements = { 192.0.2.10, 192.0.2.11 }
	}

	chain input {
		type filter hook input priority filter; policy accept;
		arp daddr ip @vips drop
	}

	chain output {
		type filter hook output priority filter; policy accept;
		oifname "eth0" arp saddr ip @vips arp saddr ip set 192.0.2.21
		oifname "eth1.1234567890" arp saddr ip @vips arp saddr ip set 10.0.0.21
		arp saddr ip @vips drop
	}
}
`

const clampListing = `table inet poise_realserver {
	set mss_1380_ipv6 {
		type ipv6_addr
		elements = { 2001:db8::10 }
	}

	set mss_1400_ipv4 {
		type ipv4_addr
		elements = { 192.0.2.10, 192.0.2.11 }
	}

	set mss_1400_ipv6 {
		type ipv6_addr
		elements = { 2001:db8::11 }
	}

	chain output {
		type filter hook output priority mangle; policy accept;
		tcp flags & syn == syn ip6 saddr @mss_1380_ipv6 tcp option maxseg size > 1380 tcp option maxseg size set 1380
		tcp flags & syn == syn ip saddr @mss_1400_ipv4 tcp option maxseg size > 1400 tcp option maxseg size set 1400
		tcp flags & syn == syn ip6 saddr @mss_1400_ipv6 tcp option maxseg size > 1400 tcp option maxseg size set 1400
	}
}
`

// The examples that make these.
var (
	exampleVIPs = addrs("192.0.2.10", "192.0.2.11")
	exampleOwn  = own("192.0.2.21", "10.0.0.21")
	exampleMSS  = map[netip.Addr]uint16{
		netip.MustParseAddr("192.0.2.10"):   1400,
		netip.MustParseAddr("192.0.2.11"):   1400,
		netip.MustParseAddr("2001:db8::10"): 1380,
		netip.MustParseAddr("2001:db8::11"): 1400,
	}
)

func setSilence(t testing.TB, h *lab.Host, vips []netip.Addr, own map[string]netip.Addr) {
	t.Helper()
	if err := h.Do(func() error { return SetSilence(vips, own) }); err != nil {
		t.Fatal(err)
	}
}

func setClamp(t testing.TB, h *lab.Host, mss map[netip.Addr]uint16) {
	t.Helper()
	if err := h.Do(func() error { return SetClamp(mss) }); err != nil {
		t.Fatal(err)
	}
}

func checkSilenceIs(t testing.TB, h *lab.Host, own map[string]netip.Addr, want []netip.Addr, differences string) {
	t.Helper()
	err := h.Do(func() error {
		vips, found, err := ReadSilence(own)
		if !slices.Equal(vips, want) || strings.Join(found, ", ") != differences {
			t.Errorf("silent about %v, differences %q, want %v, %q", vips, found, want, differences)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func checkClampIs(t testing.TB, h *lab.Host, want map[netip.Addr]uint16, differences string) {
	t.Helper()
	err := h.Do(func() error {
		mss, found, err := ReadClamp()
		if !maps.Equal(mss, want) || strings.Join(found, ", ") != differences {
			t.Errorf("MSS %v, differences %q, want %v, %q", mss, found, want, differences)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNetnsRealServerListing(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("server")
	setSilence(t, h, exampleVIPs, exampleOwn)
	setClamp(t, h, exampleMSS)
	check := func(when string) {
		t.Helper()
		for _, tt := range []struct{ table, want string }{{"arp poise", silenceListing}, {"inet poise_realserver", clampListing}} {
			if got := h.Run("nft", "list table "+tt.table); !slices.Equal(sortedLines(got), sortedLines(tt.want)) {
				t.Errorf("%s table %s is\n%swant\n%s", when, tt.table, got, tt.want)
			}
			h.Run("nft", "-j", "list table "+tt.table)
		}
		checkSilenceIs(t, h, exampleOwn, exampleVIPs, "")
		checkClampIs(t, h, exampleMSS, "")
	}
	check("as made")
	// A firewall that is saved with ours in it must load again, and mean the same to us.
	h.Run("sh", "-c", `rules=$(nft list ruleset); nft flush ruleset; echo "$rules" | nft -f -`)
	check("loaded from its own listing")
	h.Run("sh", "-c", `nft -j list ruleset > "$0"; nft flush ruleset; nft -j -f "$0"`, filepath.Join(t.TempDir(), "rules"))
	check("loaded from its own listing in JSON")
}

// Each table comes, changes and goes by itself.
func TestNetnsRealServerTables(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("server")
	tables := func() string { return strings.ReplaceAll(h.Run("nft", "list tables"), "\n", " ") }
	for range 2 { // without a table there is nothing to remove
		setSilence(t, h, nil, nil)
		setSilence(t, h, nil, exampleOwn)
		setClamp(t, h, nil)
		checkSilenceIs(t, h, exampleOwn, nil, "")
		checkClampIs(t, h, nil, "")
	}
	if got := tables(); got != "" {
		t.Errorf("tables %s", got)
	}
	// Where the kernel has no such family, nothing is there, nothing has to be removed, and nothing can be put.
	unknown := &place{family: 12, name: "poise", support: "family 12"}
	err := h.Do(func() error {
		if have, err := get(unknown); have != nil || err != nil {
			t.Errorf("in an unknown family there is %v, error %v", have, err)
		}
		if err := put(newTable(unknown)); err != nil {
			t.Error(err)
		}
		something := newTable(unknown)
		something.sets["vips"] = newSet(nftables.Set{}, target)
		return put(something)
	})
	if want := "nftables: netlink receive: operation not supported: this kernel's nf_tables has no family 12"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}

	c := open(t, h)
	if err := c.Replace(example()); err != nil {
		t.Fatal(err)
	}
	h.Run("nft", "add table ip poise; add table arp other; add table arp poise_realserver; add chain arp other output { type filter hook output priority 0; }")
	others := tables()
	setSilence(t, h, exampleVIPs, exampleOwn)
	setClamp(t, h, exampleMSS)
	checkTable(t, h, c, example())
	setSilence(t, h, exampleVIPs[1:], nil)
	setClamp(t, h, mssOf(88, "192.0.2.10", "2001:db8::10"))
	checkSilenceIs(t, h, nil, exampleVIPs[1:], "")
	checkClampIs(t, h, mssOf(88, "192.0.2.10", "2001:db8::10"), "")
	checkTable(t, h, c, example())
	setSilence(t, h, nil, exampleOwn)
	checkSilenceIs(t, h, exampleOwn, nil, "")
	checkClampIs(t, h, mssOf(88, "192.0.2.10", "2001:db8::10"), "")
	setClamp(t, h, nil)
	checkClampIs(t, h, nil, "")
	checkTable(t, h, c, example())
	if got := tables(); got != others {
		t.Errorf("tables were %s, are %s", others, got)
	}
}

func TestNetnsRealServerDrift(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("server")
	eth0 := func(addr string) string {
		return "add rule arp poise output oifname eth0 arp saddr ip @vips arp saddr ip set " + addr + "; "
	}
	const (
		eth1   = "add rule arp poise output oifname eth1.1234567890 arp saddr ip @vips arp saddr ip set 10.0.0.21; "
		others = "add rule arp poise output arp saddr ip @vips drop"
	)
	for _, tt := range []struct {
		command string
		vips    []netip.Addr
		want    string
	}{
		{"flush ruleset", nil, ""},
		{"delete table arp poise; add table inet poise", nil, ""},
		{"add table arp poise { flags dormant; }", exampleVIPs, "table arp poise is dormant or has another flag"},
		{"flush table arp poise", exampleVIPs, "chain input has 0 rules, not 1, chain output has 0 rules, not 3"},
		{"flush chain arp poise input", exampleVIPs, "chain input has 0 rules, not 1"},
		{"flush chain arp poise output; delete chain arp poise output", exampleVIPs, "chain output is gone"},
		{"insert rule arp poise input accept", exampleVIPs, "chain input has 2 rules, not 1"},
		{"add rule arp poise output counter", exampleVIPs, "chain output has 4 rules, not 3"},
		{"flush chain arp poise input; add rule arp poise input arp daddr ip @vips accept", exampleVIPs, "chain input has another rule"},
		{"flush chain arp poise input; add rule arp poise input arp daddr ip != @vips drop", exampleVIPs, "chain input has another rule"},
		{"flush chain arp poise input; add rule arp poise input arp saddr ip @vips drop", exampleVIPs, "chain input has another rule"},
		{"flush chain arp poise input; add rule arp poise input arp daddr ip @vips drop", exampleVIPs, ""},
		{"flush chain arp poise output; " + eth0("192.0.2.22") + eth1 + others, exampleVIPs, "chain output has another rule"},
		{"flush chain arp poise output; " + eth1 + eth0("192.0.2.21") + others, exampleVIPs, "chain output has another rule"},
		{"flush chain arp poise output; " + eth0("192.0.2.21") + eth1 + others, exampleVIPs, ""},
		{"add chain arp poise input { policy drop; }", exampleVIPs, "chain input has another type, hook, priority or policy"},
		{"add chain arp poise mine", exampleVIPs, "chain mine is not ours"},
		{"add set arp poise mine { type ipv4_addr; }", exampleVIPs, "mine is not ours"},
		{"delete element arp poise vips { 192.0.2.10 }", exampleVIPs[1:], ""},
		{"add element arp poise vips { 192.0.2.12 }", addrs("192.0.2.10", "192.0.2.11", "192.0.2.12"), ""},
		{"flush set arp poise vips", nil, "vips is empty"},
		{
			"flush chain arp poise input; flush chain arp poise output; delete set arp poise vips; add set arp poise vips { type inet_service; elements = { 1 }; }", nil,
			"vips is of another kind, elements of vips not ours: 1, chain input has 0 rules, not 1, chain output has 0 rules, not 3",
		},
		{
			"add set arp poise mine { typeof arp saddr ip . arp daddr ip . arp htype . arp plen . arp hlen . arp operation; }", nil,
			"table arp poise has sets of an unknown kind: could not determine data type: could not create data type: too many types to concat",
		},
	} {
		setSilence(t, h, exampleVIPs, exampleOwn)
		checkSilenceIs(t, h, exampleOwn, exampleVIPs, "")
		h.Run("nft", tt.command)
		if t.Run(tt.command, func(t *testing.T) { checkSilenceIs(t, h, exampleOwn, tt.vips, tt.want) }); t.Failed() {
			t.Log(h.Run("nft", "list ruleset"))
		}
		h.Run("nft", "flush ruleset")
	}

	all := exampleMSS
	but := func(text string) map[netip.Addr]uint16 {
		rest := maps.Clone(all)
		delete(rest, netip.MustParseAddr(text))
		return rest
	}
	for _, tt := range []struct {
		command string
		mss     map[netip.Addr]uint16
		want    string
	}{
		{"flush ruleset", nil, ""},
		{"flush chain inet poise_realserver output", all, "chain output has 0 rules, not 3"},
		{"add rule inet poise_realserver output counter", all, "chain output has 4 rules, not 3"},
		{"delete element inet poise_realserver mss_1400_ipv4 { 192.0.2.10 }", but("192.0.2.10"), ""},
		{"flush set inet poise_realserver mss_1400_ipv6", but("2001:db8::11"), "mss_1400_ipv6 is not ours, chain output has 3 rules, not 2"},
		{"add element inet poise_realserver mss_1400_ipv6 { 2001:db8::10 }", all, "elements of mss_1400_ipv6 not ours: 1"},
		{
			"flush chain inet poise_realserver output; " +
				"add rule inet poise_realserver output tcp flags & syn == syn ip6 saddr @mss_1380_ipv6 tcp option maxseg size > 1380 tcp option maxseg size set 1380; " +
				"add rule inet poise_realserver output tcp flags & syn == syn ip saddr @mss_1400_ipv4 tcp option maxseg size > 1400 tcp option maxseg size set 1300; " +
				"add rule inet poise_realserver output tcp flags & syn == syn ip6 saddr @mss_1400_ipv6 tcp option maxseg size > 1400 tcp option maxseg size set 1400",
			all, "chain output has another rule",
		},
		{"add set inet poise_realserver mss_1300_ipv4 { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }", all, "mss_1300_ipv4 is not ours"},
	} {
		setClamp(t, h, all)
		checkClampIs(t, h, all, "")
		h.Run("nft", tt.command)
		if t.Run(tt.command, func(t *testing.T) { checkClampIs(t, h, tt.mss, tt.want) }); t.Failed() {
			t.Log(h.Run("nft", "list ruleset"))
		}
		h.Run("nft", "flush ruleset")
	}
}

func TestNetnsRealServerForbidden(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("server")
	for name, f := range map[string]func() error{
		"SetSilence":  func() error { return SetSilence(exampleVIPs, exampleOwn) },
		"SetClamp":    func() error { return SetClamp(exampleMSS) },
		"ReadSilence": func() error { _, _, err := ReadSilence(exampleOwn); return err },
		"ReadClamp":   func() error { _, _, err := ReadClamp(); return err },
	} {
		err := h.Do(func() error {
			// The thread's own, and it ends with Do.
			none := make([]unix.CapUserData, 2)
			if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
				return err
			}
			return f()
		})
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// The most that there may be is done in one transaction.
func TestNetnsRealServerMany(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("server")
	var vips []netip.Addr
	eth, mss := make(map[string]netip.Addr), make(map[netip.Addr]uint16)
	for i := range maxAddrs {
		vips = append(vips, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
		if i < 1000 {
			eth[fmt.Sprintf("eth%d", i)] = netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})
		}
		addr := vips[i]
		if i%2 == 1 {
			addr = netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})
		}
		mss[addr] = uint16(1400 + i/2%maxSizes)
	}
	start := time.Now()
	setSilence(t, h, vips, eth)
	setClamp(t, h, mss)
	set := time.Now()
	checkSilenceIs(t, h, eth, vips, "")
	checkClampIs(t, h, mss, "")
	t.Logf("set in %v, read in %v", set.Sub(start), time.Since(set))
	if limit := 10 * time.Second; time.Since(start) > limit {
		t.Errorf("took %v, more than %v", time.Since(start), limit)
	}
}

// The lab's guest has Debian 12's kernel; the one that runs here may be much newer.
func TestLabRealServer(t *testing.T) {
	lab.NeedRoot(t)
	t.Run("Listing", TestNetnsRealServerListing)
	t.Run("Tables", TestNetnsRealServerTables)
	t.Run("Silence", TestNetnsSilence)
	t.Run("Clamp", TestNetnsClamp)
}
