package nft

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

// TestNetnsGuard: with accept_local a neighbour could speak in this host's own name; the guard lets in only what can be a reply.
func TestNetnsGuard(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	s := n.Switch("switch")
	director, neighbour := n.Host("director"), n.Host("neighbour")
	director.Connect(s, "192.0.2.1/24", "192.0.2.10/32")
	neighbour.Connect(s, "192.0.2.3/24")
	director.Sysctl("net/ipv4/conf/eth0/accept_local", "1")
	neighbour.Run("ping", "-c1", "-W5", "192.0.2.1")
	director.Run("nft", "add table ip seen; add chain ip seen in { type filter hook input priority 0; }; add counter ip seen tcp_packets; add rule ip seen in meta l4proto tcp counter name tcp_packets")

	vip, dip, other := "192.0.2.10:80", "192.0.2.1:40000", "192.0.2.3:80"
	type packet struct {
		from, to string
		flags    byte
	}
	spoofs := []packet{
		{dip, dip, tcpSYN},
		{dip, vip, tcpSYN},
		{vip, dip, tcpSYN},
		{dip, dip, tcpSYN | tcpACK},
		{"192.0.2.10:81", dip, tcpSYN | tcpACK},
		{vip, "192.0.2.10:40000", tcpSYN | tcpACK},
	}
	for _, p := range spoofs { // it can happen
		if !arrives(t, director, neighbour, p.from, p.to, p.flags) {
			t.Errorf("unguarded, %+v is dropped", p)
		}
	}
	set := func(links []string, replies ...Reply) {
		t.Helper()
		if err := director.Do(func() error { return SetGuard(links, replies) }); err != nil {
			t.Fatal(err)
		}
	}
	set([]string{"eth0"}, Reply{netip.MustParseAddrPort(vip), netip.MustParseAddrPort(dip).Addr()})
	for _, p := range spoofs {
		if arrives(t, director, neighbour, p.from, p.to, p.flags) {
			t.Errorf("%+v passes the guard", p)
		}
	}
	for _, p := range []packet{
		{vip, dip, tcpSYN | tcpACK}, {vip, dip, tcpACK}, {vip, dip, 4}, // a reply
		{other, dip, tcpSYN}, {other, vip, tcpSYN}, // of others
	} {
		if !arrives(t, director, neighbour, p.from, p.to, p.flags) {
			t.Errorf("the guard drops %+v", p)
		}
	}
	listing := director.Run("nft", "list", "table", "inet", "poise_probe")
	director.Run("sh", "-c", `rules=$(nft list ruleset); nft flush ruleset; echo "$rules" | nft -f -`)
	if again := director.Run("nft", "list", "table", "inet", "poise_probe"); again != listing {
		t.Errorf("loaded from its own listing the table is\n%swas\n%s", again, listing)
	}
	set(nil)
	if all := director.Run("nft", "list", "tables"); strings.Contains(all, "poise_probe") {
		t.Errorf("left: %s", all)
	}
}

// arrives tells whether a packet that the neighbour sends passes the director's prerouting.
func arrives(t *testing.T, director, neighbour *lab.Host, from, to string, flags byte) bool {
	t.Helper()
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	b := []byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	b = append(append(b, portBytes(src.Port())...), portBytes(dst.Port())...)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, flags, 1, 0, 0, 0, 0, 0)
	count := func() string { return director.Run("nft", "reset", "counter", "ip", "seen", "tcp_packets") }
	count()
	err := neighbour.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}})
	})
	if err != nil {
		t.Fatal(err)
	}
	neighbour.Run("ping", "-c1", "-W5", "192.0.2.1") // which comes behind it
	return !strings.Contains(count(), "packets 0 bytes 0")
}
