package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"poise/internal/host"
)

const (
	ignore   = "net.ipv4.conf.all.arp_ignore"
	announce = "net.ipv4.conf.all.arp_announce"
	vip10    = "192.0.2.10/32 on lo"
	vip11    = "192.0.2.11/32 on lo"
)

// fakeSystem is a host in memory: the values that differ from "0" and absent.
type fakeSystem struct {
	values   map[string]string
	links    []string
	readOnly bool
	killIn   int    // the run ends at this call of set, from 1; 0 for never
	killLate bool   // after the call has taken effect
	odd      string // the key of routes that no text can say
}

var errKilled = errors.New("killed")

func (f *fakeSystem) get(key string) (string, error) {
	if key == f.odd {
		return "", &host.OddRouteError{}
	}
	if value, ok := f.values[key]; ok {
		return value, nil
	}
	switch ofTunnel := strings.Contains(key, "."+tunnelPrefix); {
	case strings.Contains(key, ".gone."):
		return "", fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	case !strings.HasPrefix(key, "net."), ofTunnel && !f.hasTunnel():
		return absent, nil
	}
	return "0", nil
}

func (f *fakeSystem) set(key, value string) error {
	killed := f.killIn == 1
	f.killIn--
	if killed && !f.killLate {
		return errKilled
	}
	if value == "0" || value == absent {
		delete(f.values, key)
	} else {
		f.values[key] = value
	}
	if strings.HasPrefix(key, "tunnel ") && value == absent { // what belongs to an interface goes with it
		maps.DeleteFunc(f.values, func(key, _ string) bool { return strings.Contains(key, tunnelPrefix) })
	}
	if killed {
		return errKilled
	}
	return nil
}

func (f *fakeSystem) hasTunnel() bool {
	for key := range f.values {
		if strings.HasPrefix(key, "tunnel ") {
			return true
		}
	}
	return false
}

func (f *fakeSystem) settable(key string) error {
	if f.readOnly {
		return fmt.Errorf("%s: %w", key, fs.ErrPermission)
	}
	return nil
}

func (f *fakeSystem) interfaces() ([]string, error) {
	return append([]string{"all", "default", "lo"}, f.links...), nil
}

func (f *fakeSystem) holders(addr netip.Addr) ([]string, error) {
	var names []string
	for key := range f.values {
		prefix, ifname, found := strings.Cut(key, " on ")
		if found && netip.MustParsePrefix(prefix).Addr() == addr {
			names = append(names, ifname)
		}
	}
	return slices.Sorted(slices.Values(names)), nil
}

// run is one `poise realserver` over a host and the record that outlives it.
type run struct {
	t      *testing.T
	sys    *fakeSystem
	record string
}

func newRun(t *testing.T, values map[string]string) run {
	return run{t, &fakeSystem{values: values}, filepath.Join(t.TempDir(), "realserver.json")}
}

func (r run) open() *host.Record {
	r.t.Helper()
	rec, err := host.OpenRecord(r.record)
	if err != nil {
		r.t.Fatal(err)
	}
	return rec
}

func (r run) apply(vips ...string) ([]Change, error) {
	r.t.Helper()
	steps, err := Plan(Settings{Mode: DR, VIPs: addrs(vips...)})
	if err != nil {
		r.t.Fatal(err)
	}
	return apply(r.sys, r.open(), steps)
}

func (r run) undo(vips ...string) ([]Change, error) {
	r.t.Helper()
	return undo(r.sys, r.open(), addrs(vips...))
}

// expect checks a run's changes, and the host after it.
func (r run) expect(what string, changes []Change, err error, want []Change, host map[string]string) {
	r.t.Helper()
	if err != nil || !slices.Equal(changes, want) {
		r.t.Errorf("%s: %v, %v\nwant %v", what, changes, err, want)
	}
	if !maps.Equal(r.sys.values, host) {
		r.t.Errorf("%s: host %v, want %v", what, r.sys.values, host)
	}
}

func TestApplyAndUndo(t *testing.T) {
	r := newRun(t, map[string]string{announce: "1"})
	applied := map[string]string{ignore: "1", announce: "2", vip10: present}

	changes, err := r.apply("192.0.2.10")
	r.expect("apply", changes, err, []Change{{ignore, "0", "1", ""}, {announce, "1", "2", ""}, {vip10, absent, present, ""}}, applied)
	changes, err = r.apply("192.0.2.10")
	r.expect("again", changes, err, []Change{{ignore, "1", "1", ""}, {announce, "2", "2", ""}, {vip10, present, present, ""}}, applied)
	changes, err = r.undo()
	r.expect("undo", changes, err, []Change{{vip10, present, absent, ""}, {announce, "2", "1", ""}, {ignore, "1", "0", ""}}, map[string]string{announce: "1"})
	changes, err = r.undo()
	r.expect("again", changes, err, nil, map[string]string{announce: "1"})
}

func TestWhatWasThereStays(t *testing.T) {
	before := map[string]string{ignore: "8", announce: "2", vip10: present}
	r := newRun(t, maps.Clone(before))
	changes, err := r.apply("192.0.2.10")
	r.expect("apply", changes, err, []Change{{ignore, "8", "8", ""}, {announce, "2", "2", ""}, {vip10, present, present, ""}}, before)
	changes, err = r.undo()
	r.expect("undo", changes, err, []Change{{vip10, present, present, ""}, {announce, "2", "2", ""}, {ignore, "8", "8", ""}}, before)
}

func TestUndoOneByOne(t *testing.T) {
	r := newRun(t, map[string]string{})
	for _, vip := range []string{"192.0.2.10", "192.0.2.11"} {
		if _, err := r.apply(vip); err != nil {
			t.Fatal(err)
		}
	}
	both := map[string]string{ignore: "1", announce: "2", vip10: present, vip11: present}
	again, err := r.apply("192.0.2.11")
	r.expect("another is named", again, err, []Change{
		{ignore, "1", "1", ""},
		{announce, "2", "2", ""},
		{vip11, present, present, ""},
		{vip10, present, present, "not named now; undo --vip 192.0.2.10 takes it away"},
	}, both)
	changes, err := r.undo("192.0.2.10", "192.0.2.99")
	if got, want := errorText(err), "VIP 192.0.2.99: not among those applied: [192.0.2.10 192.0.2.11]"; got != want {
		t.Errorf("unknown: error %s, want %s", got, want)
	}
	r.expect("unknown", changes, nil, nil, both)
	changes, err = r.undo("192.0.2.10")
	r.expect("first", changes, err, []Change{{vip10, present, absent, ""}}, map[string]string{ignore: "1", announce: "2", vip11: present})
	changes, err = r.undo("192.0.2.11")
	r.expect("last", changes, err, []Change{{vip11, present, absent, ""}, {announce, "2", "0", ""}, {ignore, "1", "0", ""}}, map[string]string{})
	changes, err = r.undo("192.0.2.11")
	r.expect("again", changes, err, nil, map[string]string{})
}

func TestUndoLeavesWhatOthersSet(t *testing.T) {
	r := newRun(t, map[string]string{})
	if _, err := r.apply("192.0.2.10"); err != nil {
		t.Fatal(err)
	}
	r.sys.values[ignore] = "2"  // stricter than ours
	delete(r.sys.values, vip10) // restored by hand
	changes, err := r.undo()
	want := []Change{{vip10, absent, absent, ""}, {announce, "2", "0", ""}, {ignore, "2", "2", "set by somebody else since; before apply it was 0"}}
	r.expect("undo", changes, err, want, map[string]string{ignore: "2"})
	if left := r.open().All(); len(left) != 0 {
		t.Errorf("still recorded: %v", left)
	}
}

// What becomes of the default route after apply is not poise's doing alone.
func TestUndoDefaultRoute(t *testing.T) {
	const ours, dhcp = "via 10.0.0.1 dev eth0", "via 10.0.0.253 dev eth0 proto dhcp metric 100"
	for _, tt := range []struct {
		name              string
		former, now, want string
		left              bool
	}{
		{"untouched", "via 10.0.0.253 dev eth0", ours, "via 10.0.0.253 dev eth0", false},
		{"killed before the old one went", dhcp, ours + "; " + dhcp, dhcp, false},
		{"lost with its interface", "via 10.0.0.253 dev eth0", absent, "via 10.0.0.253 dev eth0", false},
		{"restored by hand", dhcp, dhcp, dhcp, false},
		{"another beside ours", "via 10.0.0.253 dev eth0", ours + "; " + dhcp, dhcp, true},
		{"another beside ours and the old one", "via 10.0.0.253 dev eth0", ours + "; via 10.0.0.253 dev eth0; " + dhcp, "via 10.0.0.253 dev eth0; " + dhcp, true},
		{"another instead", "via 10.0.0.254 dev eth0", dhcp, dhcp, true},
		{"the first one", absent, dhcp, dhcp, true},
		{"none before", absent, ours, absent, false},
	} {
		d := defaultRoute{netip.MustParseAddr("10.0.0.1"), "eth0", unix.RT_TABLE_MAIN}
		if got, left := d.restored(tt.now, tt.former); got != tt.want || left != tt.left {
			t.Errorf("%s: %q, left %v; want %q, %v", tt.name, got, left, tt.want, tt.left)
		}
	}
	d := defaultRoute{netip.MustParseAddr("fd00::1"), "eth0", unix.RT_TABLE_MAIN}
	if got, left := d.restored("via fd00::1 dev eth0 metric 1024", absent); got != absent || left {
		t.Errorf("IPv6: %q, left %v", got, left)
	}
}

// viaGateway are the steps of NAT through a gateway, with all traffic.
func viaGateway(t *testing.T, gateway string) []Step {
	t.Helper()
	steps, err := Plan(Settings{Mode: NAT, Gateway: netip.MustParseAddr(gateway), Interface: "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

// A later apply may name another gateway: that is what must be then, and undo goes back to what was before all.
func TestApplyAnotherGateway(t *testing.T) {
	const first, second = "default route via 10.0.0.1 dev eth0", "default route via 10.0.0.2 dev eth0"
	r := newRun(t, map[string]string{})
	for _, tt := range []struct{ gateway, want, recorded string }{
		{"10.0.0.1", first, first},
		{"10.0.0.2", second, first + ", " + second},
		{"10.0.0.1", first, first},
	} {
		if _, err := apply(r.sys, r.open(), viaGateway(t, tt.gateway)); err != nil {
			t.Fatal(err)
		}
		steps, err := recorded(r.open())
		if err != nil || len(steps) != 1 || steps[0].Key != tt.want {
			t.Errorf("after gateway %s: must be %v, %v; want %s", tt.gateway, steps, err, tt.want)
		}
		var keys []string
		for _, f := range r.open().All() {
			keys = append(keys, f.Key)
		}
		if got := strings.Join(keys, ", "); got != tt.recorded {
			t.Errorf("after gateway %s: recorded %s, want %s", tt.gateway, got, tt.recorded)
		}
	}
}

// A way back that cannot be restored keeps nothing else from being.
func TestUndoGoesOnWithoutTheRoute(t *testing.T) {
	const route = "default route via 10.0.0.1 dev eth0"
	r := newRun(t, map[string]string{route: "via 10.0.0.9 dev eth0"})
	if _, err := r.apply("192.0.2.10"); err != nil {
		t.Fatal(err)
	}
	if _, err := apply(r.sys, r.open(), viaGateway(t, "10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	r.sys.odd = route
	changes, err := r.undo()
	if got, want := errorText(err), route+", before via 10.0.0.9 dev eth0: left: "; !strings.HasPrefix(got, want) {
		t.Errorf("error %s, want %s", got, want)
	}
	want := []Change{{vip10, present, absent, ""}, {announce, "2", "0", ""}, {ignore, "1", "0", ""}}
	r.expect("undo", changes, nil, want, map[string]string{route: "via 10.0.0.1 dev eth0"})
	r.sys.odd = ""
	changes, err = r.undo()
	r.expect("again", changes, err, []Change{{route, "via 10.0.0.1 dev eth0", "via 10.0.0.9 dev eth0", ""}}, map[string]string{route: "via 10.0.0.9 dev eth0"})
}

// The last VIP takes with it what VIPs share, which the way of NAT's replies is not.
func TestUndoOfVIPsLeavesNAT(t *testing.T) {
	const route = "default route via 10.0.0.1 dev eth0"
	r := newRun(t, map[string]string{})
	nat := map[string]string{route: "via 10.0.0.1 dev eth0"}
	if _, err := apply(r.sys, r.open(), viaGateway(t, "10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	changes, err := r.undo("192.0.2.99")
	if got, want := errorText(err), "VIP 192.0.2.99: not among those applied: []"; got != want {
		t.Errorf("error %s, want %s", got, want)
	}
	r.expect("unknown", changes, nil, nil, nat)
	if _, err := r.apply("192.0.2.10"); err != nil {
		t.Fatal(err)
	}
	changes, err = r.undo("192.0.2.10")
	r.expect("last", changes, err, []Change{{vip10, present, absent, ""}, {announce, "2", "0", ""}, {ignore, "1", "0", ""}}, nat)
}

// TestKilledRuns ends a run of each mode at each change, before and after it takes effect. Whatever runs
// follow, undo must restore the host, and apply complete.
func TestKilledRuns(t *testing.T) {
	const gateway, former = "default route via 10.0.0.1 dev eth0", "via 10.0.0.254 dev eth0 metric 100"
	server := netip.MustParseAddr("10.0.0.21")
	for _, mode := range []struct {
		name          string
		s             Settings
		before, after map[string]string
	}{
		{
			"dr",
			Settings{Mode: DR, VIPs: addrs("192.0.2.10", "192.0.2.11")},
			map[string]string{announce: "1", vip11: present},
			map[string]string{ignore: "1", announce: "2", vip10: present, vip11: present},
		},
		{
			"dr, nftables",
			Settings{Mode: DR, VIPs: addrs("192.0.2.10"), ARPFilter: true},
			map[string]string{announce: "1"},
			map[string]string{announce: "1", "192.0.2.10 silent by nftables": present, vip10: present},
		},
		{
			"tun",
			Settings{Mode: TUN, VIPs: addrs("192.0.2.10"), Address: server, Tunnel: Tunnel{Kind: "gue", Port: 6080}, MTU: 1480},
			map[string]string{},
			map[string]string{
				ignore: "1", announce: "2", "tunnel poise-ip4 to 10.0.0.21": present, "GUE to UDP port 6080 of IPv4": present,
				"net.ipv4.conf.poise-ip4.rp_filter": "2", "192.0.2.10 with MSS 1440 by nftables": present, "192.0.2.10/32 on poise-ip4": present,
			},
		},
		{
			"nat",
			Settings{Mode: NAT, Gateway: netip.MustParseAddr("10.0.0.1"), Interface: "eth0"},
			map[string]string{gateway: former},
			map[string]string{gateway: "via 10.0.0.1 dev eth0"},
		},
		{
			"nat, replies alone",
			Settings{Mode: NAT, Gateway: netip.MustParseAddr("10.0.0.1"), Interface: "eth0", Address: server, Ports: []Port{{"tcp", 80}, {"udp", 53}}},
			map[string]string{},
			map[string]string{
				"replies through 10.0.0.1 dev eth0":  "via 10.0.0.1 dev eth0",
				"replies from 10.0.0.21 tcp port 80": present, "replies from 10.0.0.21 udp port 53": present,
			},
		},
	} {
		steps, err := Plan(mode.s)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			runs   string
			killed int // index of the run
		}{
			{"apply undo", 0},
			{"apply apply undo", 0},
			{"apply undo undo", 1},
			{"apply undo apply undo", 1},
		} {
			for change := range steps {
				for _, late := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%d/late=%v", mode.name, tc.runs, change, late), func(t *testing.T) {
						r := newRun(t, maps.Clone(mode.before))
						for i, command := range strings.Fields(tc.runs) {
							if r.sys.killIn = 0; i == tc.killed {
								r.sys.killIn, r.sys.killLate = change+1, late
							}
							var err error
							want := mode.before
							if command == "apply" {
								want = mode.after
								_, err = apply(r.sys, r.open(), steps)
							} else {
								_, err = r.undo()
							}
							switch {
							case i == tc.killed && errors.Is(err, errKilled):
							case err != nil:
								t.Fatalf("%s %d: %v", command, i, err)
							case !maps.Equal(r.sys.values, want):
								t.Errorf("%s %d: host %v, want %v", command, i, r.sys.values, want)
							}
						}
					})
				}
			}
		}
	}
}

func TestApplyChangesNothingWhenItCannotSucceed(t *testing.T) {
	for _, tc := range []struct {
		name     string
		values   map[string]string
		readOnly bool
		want     string // in the error; empty for success
	}{
		{"read-only", map[string]string{}, true, ignore + ": permission denied"},
		{"read-only and already so", map[string]string{ignore: "1", announce: "2", vip10: present}, true, ""},
		{"larger and loud", map[string]string{"net.ipv4.conf.eth0/100.arp_ignore": "3"}, false, "net.ipv4.conf.eth0/100.arp_ignore = 3: overrides"},
		{"on links to come", map[string]string{"net.ipv4.conf.default.arp_announce": "3"}, false, "net.ipv4.conf.default.arp_announce = 3: overrides"},
		{"larger and silent", map[string]string{"net.ipv4.conf.eth0/100.arp_ignore": "8"}, false, ""},
		{"smaller than all's", map[string]string{ignore: "8", "net.ipv4.conf.eth0/100.arp_ignore": "3"}, false, ""},
		{"VIP elsewhere", map[string]string{"192.0.2.10/24 on eth0": present}, false, "192.0.2.10 is an address of eth0: a real server has it on lo only; is this the director?"},
		{"VIP on lo and elsewhere", map[string]string{vip10: present, "192.0.2.10/24 on eth0": present, "192.0.2.10/32 on br0": present}, false, "192.0.2.10 is an address of br0, eth0: a real server"},
		{"another address elsewhere", map[string]string{"192.0.2.21/24 on eth0": present}, false, ""},
		{"lo does no ARP", map[string]string{"net.ipv4.conf.lo.arp_ignore": "3"}, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRun(t, maps.Clone(tc.values))
			r.sys.links, r.sys.readOnly = []string{"eth0.100", "gone"}, tc.readOnly
			_, err := r.apply("192.0.2.10")
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !strings.Contains(errorText(err), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
			if recorded := r.open().All(); !maps.Equal(r.sys.values, tc.values) || len(recorded) != 0 {
				t.Errorf("host %v, recorded %v", r.sys.values, recorded)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	r := newRun(t, map[string]string{announce: "1"})
	if _, err := r.apply("192.0.2.10"); err != nil {
		t.Fatal(err)
	}
	r.sys.values[announce] = "1" // drift
	r.sys.values[vip11] = present
	r.sys.links = []string{"eth0"}
	r.sys.values["net.ipv4.conf.eth0.arp_ignore"] = "3"

	if got, want := recordedVIPs(r.open()), addrs("192.0.2.10"); !slices.Equal(got, want) {
		t.Errorf("recorded VIPs %v, want %v", got, want)
	}
	steps, err := Plan(Settings{Mode: DR, VIPs: addrs("192.0.2.10", "192.0.2.11")})
	if err != nil {
		t.Fatal(err)
	}
	states, err := status(r.sys, r.open(), steps)
	var got []string
	for _, s := range states {
		got = append(got, fmt.Sprintf("%s %s ok=%v former=%q", s.Key, s.Now, s.OK(), s.Former))
	}
	want := []string{
		ignore + ` 1 ok=true former="0"`,
		announce + ` 1 ok=false former="1"`,
		vip10 + ` present ok=true former="absent"`,
		vip11 + ` present ok=true former=""`,
		`net.ipv4.conf.eth0.arp_ignore 3 ok=false former=""`,
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
