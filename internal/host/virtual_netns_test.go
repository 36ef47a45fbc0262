package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ip runs ip(8) in the test's namespace: a child gets that of the thread that forks it.
func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// block is n addresses from first on.
func block(first string, n int) []netip.Addr {
	addrs := []netip.Addr{netip.MustParseAddr(first)}
	for len(addrs) < n {
		addrs = append(addrs, addrs[len(addrs)-1].Next())
	}
	return addrs
}

// prefixes are those of an interface that are not link-local.
func prefixes(t *testing.T, name string) []netip.Prefix {
	t.Helper()
	var all []netip.Prefix
	for _, a := range look(t, name).Addrs {
		if !a.Addr().IsLinkLocalUnicast() {
			all = append(all, a.Prefix)
		}
	}
	return all
}

func TestNetnsVirtual(t *testing.T) {
	for _, tt := range []struct {
		own   string
		first string
		most  int // one advert carries this many
		flags uint8
	}{
		{"192.0.2.1/24", "192.0.2.2", 255, unix.IFA_F_PERMANENT},
		{"2001:db8::1/64", "2001:db8::2", 89, unix.IFA_F_PERMANENT | unix.IFA_F_NODAD | unix.IFA_F_DEPRECATED},
	} {
		inNetns(t, "eth0")
		index := look(t, "eth0").Index
		ip(t, "addr", "add", tt.own, "dev", "eth0", "nodad")
		// The former master has one of them still.
		if err := AddVirtual(look(t, "peer").Index, []netip.Addr{netip.MustParseAddr(tt.first)}); err != nil {
			t.Fatal(err)
		}
		own := prefixes(t, "eth0")
		addrs := block(tt.first, tt.most)
		var fastest [2]time.Duration
		for round := range 5 {
			for i, change := range []func(int, []netip.Addr) error{AddVirtual, DelVirtual} {
				start := time.Now()
				if err := change(index, addrs); err != nil {
					t.Fatal(err)
				}
				took := time.Since(start)
				if round == 0 || took < fastest[i] {
					fastest[i] = took
				}
				// What is so already is a success.
				if err := change(index, addrs); err != nil {
					t.Fatal(err)
				}
				if i == 1 {
					continue
				}
				dump, err := addrsOf(index)
				if err != nil {
					t.Fatal(err)
				}
				var got []netip.Addr
				for _, a := range dump {
					if !slices.Contains(addrs, a.Addr()) {
						continue
					}
					got = append(got, a.Addr())
					if a.flags != tt.flags || !a.IsSingleIP() {
						t.Fatalf("%s has flags %#x, want %#x", a.Prefix, a.flags, tt.flags)
					}
				}
				if addrs[0].Is6() {
					slices.Reverse(got) // the kernel puts the newest first
				}
				if !slices.Equal(got, addrs) {
					t.Fatalf("addresses %v", got)
				}
			}
			if got := prefixes(t, "eth0"); !slices.Equal(got, own) {
				t.Fatalf("left %v, want %v", got, own)
			}
		}
		t.Logf("%d from %s: added in %v, deleted in %v", tt.most, tt.first, fastest[0], fastest[1])
		if max(fastest[0], fastest[1]) > 50*time.Millisecond {
			t.Error("slower than 50ms")
		}
	}
}

// Nothing that this host starts comes from a virtual address.
func TestNetnsVirtualIsNoSource(t *testing.T) {
	inNetns(t, "eth0")
	for _, tt := range []struct{ own, gateway, virtual, neighbour, remote string }{
		{"192.0.2.11/24", "192.0.2.254", "192.0.2.10", "192.0.2.20", "203.0.113.1"},
		{"2001:db8::11/64", "2001:db8::fe", "2001:db8::10", "2001:db8::12", "2001:db8::14:1"},
	} {
		ip(t, "addr", "add", tt.own, "dev", "eth0", "nodad")
		ip(t, "route", "add", "default", "via", tt.gateway)
		if err := AddVirtual(look(t, "eth0").Index, []netip.Addr{netip.MustParseAddr(tt.virtual)}); err != nil {
			t.Fatal(err)
		}
		own := netip.MustParsePrefix(tt.own).Addr()
		for _, dst := range []string{tt.neighbour, tt.remote} {
			routes, err := netlink.RouteGet(netip.MustParseAddr(dst).AsSlice())
			if err != nil || len(routes) != 1 || !routes[0].Src.Equal(own.AsSlice()) {
				t.Errorf("to %s: %v, %v, want source %s", dst, routes, err, own)
			}
		}
	}
}

// The same address with another prefix length is somebody else's.
func TestNetnsVirtualOfAnotherLength(t *testing.T) {
	inNetns(t, "eth0")
	index := look(t, "eth0").Index
	for _, a := range []string{"192.0.2.10/24", "2001:db8::10/64"} {
		ip(t, "addr", "add", a, "dev", "eth0", "nodad")
	}
	before := ip(t, "addr", "show", "dev", "eth0", "scope", "global")
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}
	for _, change := range []func(int, []netip.Addr) error{DelVirtual, AddVirtual, DelVirtual} {
		if err := change(index, addrs); err != nil {
			t.Error(err)
		}
	}
	if after := ip(t, "addr", "show", "dev", "eth0", "scope", "global"); after != before {
		t.Errorf("left:\n%s\nwant:\n%s", after, before)
	}
}

func TestNetnsVirtualErrors(t *testing.T) {
	inNetns(t, "eth0")
	index := look(t, "eth0").Index
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}

	// One that is refused does not keep the others away.
	if err := (Sysctls{}).Write("net.ipv6.conf.eth0.disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	err := AddVirtual(index, []netip.Addr{addrs[1], addrs[0]})
	if want := "add 2001:db8::10/128 to eth0: permission denied"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if got := prefixes(t, "eth0"); len(got) != 1 || got[0].Addr() != addrs[0] {
		t.Errorf("added %v", got)
	}

	linkDo(t, "eth0", netlink.LinkDel)
	want := fmt.Sprintf("add 192.0.2.10/32 to interface %d: no such device\nadd 2001:db8::10/128 to interface %[1]d: no such device", index)
	if err := AddVirtual(index, addrs); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if err := DelVirtual(index, addrs); err != nil {
		t.Errorf("delete where no interface is: %v", err)
	}
	if err := Evict(index, addrs[0]); err != nil {
		t.Errorf("evict where no interface is: %v", err)
	}
}

func TestNetnsVirtualWithoutPermission(t *testing.T) {
	inNetns(t, "eth0")
	index := look(t, "eth0").Index
	addr := netip.MustParseAddr("192.0.2.10")
	ip(t, "addr", "add", "192.0.2.10/32", "dev", "eth0")
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData // the thread ends with the test
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		"add 192.0.2.11/32 to eth0: operation not permitted":      AddVirtual(index, []netip.Addr{addr.Next()}),
		"delete 192.0.2.10/32 from eth0: operation not permitted": DelVirtual(index, []netip.Addr{addr}),
		"evict 192.0.2.10 from eth0: operation not permitted":     Evict(index, addr),
	} {
		if !errors.Is(err, unix.EPERM) || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// configured gives the test a network of its own with these addresses, and with routes that need one of them.
func configured(t *testing.T, promote string, addrs [][]string) {
	t.Helper()
	inNetns(t, "eth0")
	for name, value := range map[string]string{"all": "0", "eth0": promote} {
		if err := (Sysctls{}).Write(SysctlName("net", "ipv4", "conf", name, "promote_secondaries"), value); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range addrs {
		ip(t, append([]string{"addr", "add", "dev", "eth0"}, a...)...)
	}
	ip(t, "route", "add", "default", "via", "192.0.2.254")
	ip(t, "route", "add", "203.0.113.0/24", "via", "192.0.2.254", "src", "192.0.2.1")
}

var remaining = regexp.MustCompile(`\b\d+sec\b`)

// state is what a host has: addresses, but for the link-local ones, which come when they like, and IPv4 routes.
func state(t *testing.T) string {
	t.Helper()
	all := ip(t, "-o", "addr", "show", "dev", "eth0") + ip(t, "-4", "route", "show", "table", "all")
	var lines []string
	for line := range strings.Lines(remaining.ReplaceAllString(all, "")) {
		if !strings.Contains(line, "fe80:") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// After Evict a host is what it would be had the address never been there.
func TestNetnsEvict(t *testing.T) {
	address := strings.Fields
	own := address("192.0.2.1/24 broadcast 192.0.2.255 label eth0:own metric 50 valid_lft 3600 preferred_lft 1800")
	for _, tt := range []struct {
		name  string
		addrs [][]string // those called 192.0.2.10 or 2001:db8::10 are evicted
	}{
		{"own address first", [][]string{own, address("192.0.2.10/24")}},
		{"virtual address first", [][]string{address("192.0.2.10/24"), own, address("192.0.2.2/24")}},
		{"several networks", [][]string{address("198.51.100.1/24"), address("192.0.2.10/24"), own, address("198.51.100.2/24")}},
		{"two lengths", [][]string{address("192.0.2.10/24"), own, address("192.0.2.10/32")}},
		{"first in two networks", [][]string{address("192.0.2.10/24"), address("192.0.2.10/25"), own, address("192.0.2.3/25")}},
		{"own address also alone", [][]string{address("192.0.2.10/24"), own, address("192.0.2.1/32")}},
		{"as poise adds it", [][]string{own, address("192.0.2.10/32")}},
		{"end of a line", [][]string{address("192.0.2.10 peer 198.51.100.1/24"), address("192.0.2.1 peer 198.51.100.1/24"), address("192.0.2.2/24")}},
		{"not there", [][]string{own, address("192.0.2.2/24")}},
		{"IPv6", [][]string{own, address("2001:db8::1/64 nodad"), address("2001:db8::10/64 nodad")}},
	} {
		for _, promote := range []string{"0", "1"} {
			var others [][]string
			evict := netip.MustParseAddr("192.0.2.10")
			for _, a := range tt.addrs {
				switch {
				case strings.HasPrefix(a[0], "2001:db8::10/"):
					evict = netip.MustParseAddr("2001:db8::10")
				case !strings.HasPrefix(a[0], "192.0.2.10"):
					others = append(others, a)
				}
			}
			configured(t, promote, others)
			want := state(t)
			configured(t, promote, tt.addrs)
			if err := Evict(look(t, "eth0").Index, evict); err != nil {
				t.Errorf("%s, promote %s: %v", tt.name, promote, err)
			}
			if got := state(t); got != want {
				t.Errorf("%s, promote %s:\n%s\nwant:\n%s", tt.name, promote, got, want)
			}
		}
	}
}

// Where there is nothing to evict nothing is touched.
func TestNetnsEvictNothing(t *testing.T) {
	index := quietNetns(t)
	for _, a := range []string{"192.0.2.1/24", "192.0.2.2/24"} {
		ip(t, "addr", "add", a, "dev", "eth0")
	}
	changes, err := subscribe()
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Close()
	for _, a := range []string{"192.0.2.10", "2001:db8::10"} {
		if err := Evict(index, netip.MustParseAddr(a)); err != nil {
			t.Error(err)
		}
	}
	// The kernel tells of a change before the call that makes it returns.
	changes.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := changes.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("something changed: %v", err)
	}
}
