package host

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func look(t *testing.T, name string) Interface {
	t.Helper()
	i, there, err := Look(name)
	if !there || err != nil {
		t.Fatalf("look at %s: %v, %v", name, there, err)
	}
	return i
}

// linkDo changes a link.
func linkDo(t *testing.T, name string, change func(netlink.Link) error) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := change(link); err != nil {
		t.Fatal(err)
	}
}

// until waits for an interface to be as wanted, looking when the watcher says so.
func until(t *testing.T, w *Watcher, name, what string, want func(Interface) bool) {
	t.Helper()
	tooLong := time.After(10 * time.Second)
	for i := look(t, name); !want(i); i = look(t, name) {
		select {
		case <-w.Changes():
		case <-tooLong:
			t.Fatalf("%s: still %+v", what, i)
		}
	}
}

func watch(t *testing.T) *Watcher {
	t.Helper()
	w, err := Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeWatcher(t, w) })
	return w
}

func closeWatcher(t *testing.T, w *Watcher) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		w.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Error("the watcher does not end")
	}
}

func TestNetnsLook(t *testing.T) {
	inNetns(t, "eth0.100")
	w := watch(t)
	link, err := netlink.LinkByName("eth0.100")
	if err != nil {
		t.Fatal(err)
	}
	until(t, w, "eth0.100", "up", func(i Interface) bool { return i.Up })
	i := look(t, "eth0.100")
	if i.Name != "eth0.100" || i.Index != link.Attrs().Index || i.MAC.String() != link.Attrs().HardwareAddr.String() ||
		len(i.MAC) != 6 || i.MTU != 1500 || i.NoARP {
		t.Errorf("%+v", i)
	}
	linkDo(t, "peer", netlink.LinkSetDown)
	until(t, w, "eth0.100", "without carrier", func(i Interface) bool { return !i.Up })
	linkDo(t, "peer", netlink.LinkSetUp)
	until(t, w, "eth0.100", "with carrier", func(i Interface) bool { return i.Up })
	linkDo(t, "eth0.100", netlink.LinkSetDown)
	until(t, w, "eth0.100", "switched off", func(i Interface) bool { return !i.Up })
	linkDo(t, "eth0.100", netlink.LinkSetARPOff)
	until(t, w, "eth0.100", "without ARP", func(i Interface) bool { return i.NoARP })
	linkDo(t, "eth0.100", func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1400) })
	until(t, w, "eth0.100", "MTU", func(i Interface) bool { return i.MTU == 1400 })

	linkDo(t, "eth0.100", netlink.LinkDel)
	if i, there, err := Look("eth0.100"); there || err != nil {
		t.Errorf("deleted interface: %+v, %v, %v", i, there, err)
	}
}

// No interface here can merge what it receives; one that there is not is an error.
func TestNetnsLargeReceive(t *testing.T) {
	inNetns(t, "eth0")
	for _, name := range []string{"lo", "eth0"} {
		if on, err := LargeReceive(name); on || err != nil {
			t.Errorf("%s: %v, %v", name, on, err)
		}
	}
	for _, name := range []string{"eth9", "a-name-that-is-too-long"} {
		if _, err := LargeReceive(name); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The second address of a network follows the first; one with a prefix of its own does not.
func TestNetnsSecondary(t *testing.T) {
	inNetns(t, "eth0")
	want := map[string]bool{"192.0.2.1/24": false, "192.0.2.10/24": true, "192.0.2.11/32": false, "2001:db8::1/64": false, "2001:db8::2/64": false}
	for _, prefix := range []string{"192.0.2.1/24", "192.0.2.10/24", "192.0.2.11/32", "2001:db8::1/64", "2001:db8::2/64"} {
		if _, err := AddAddr("eth0", netip.MustParsePrefix(prefix)); err != nil {
			t.Fatal(err)
		}
	}
	link, _, err := Look("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range link.Addrs {
		if a.Secondary != want[a.String()] {
			t.Errorf("%v: secondary %v", a, a.Secondary)
		}
	}
}

func TestNetnsLookAtAddresses(t *testing.T) {
	inNetns(t, "eth0")
	w := watch(t)
	has := func(prefix string, usable bool) func(Interface) bool {
		want := Address{Prefix: netip.MustParsePrefix(prefix), Usable: usable}
		return func(i Interface) bool { return slices.Contains(i.Addrs, want) }
	}
	for _, prefix := range []string{"192.0.2.1/24", "192.0.2.10/32"} {
		if _, err := AddAddr("eth0", netip.MustParsePrefix(prefix)); err != nil {
			t.Fatal(err)
		}
	}
	i := look(t, "eth0")
	if !slices.Equal(i.Addrs[:2], []Address{
		{netip.MustParsePrefix("192.0.2.1/24"), true, false},
		{netip.MustParsePrefix("192.0.2.10/32"), true, false},
	}) {
		t.Errorf("addresses %v", i.Addrs)
	}
	if peer := look(t, "peer"); slices.ContainsFunc(peer.Addrs, func(a Address) bool { return a.Addr().Is4() }) {
		t.Errorf("addresses of another interface: %v", peer.Addrs)
	}

	// On a line between two points the kernel tells the other end's address too.
	linkDo(t, "eth0", func(l netlink.Link) error {
		a, err := netlink.ParseAddr("198.51.100.1/32")
		if err != nil {
			return err
		}
		if a.Peer, err = netlink.ParseIPNet("198.51.100.2/32"); err != nil {
			return err
		}
		return netlink.AddrAdd(l, a)
	})
	if i := look(t, "eth0"); !has("198.51.100.1/32", true)(i) {
		t.Errorf("addresses %v", i.Addrs)
	}

	// One address is the other end's already.
	linkDo(t, "peer", func(l netlink.Link) error {
		a, err := netlink.ParseAddr("2001:db8::1/64")
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		return netlink.AddrAdd(l, a)
	})
	for _, prefix := range []string{"2001:db8::1/64", "2001:db8::2/64"} {
		if _, err := AddAddr("eth0", netip.MustParsePrefix(prefix)); err != nil {
			t.Fatal(err)
		}
		if i := look(t, "eth0"); !has(prefix, false)(i) {
			t.Errorf("while the search for a duplicate goes on: %v", i.Addrs)
		}
	}
	until(t, w, "eth0", "no duplicate", has("2001:db8::2/64", true))
	failed := func(a ifAddr) bool {
		return a.Prefix == netip.MustParsePrefix("2001:db8::1/64") && a.flags&unix.IFA_F_DADFAILED != 0
	}
	until(t, w, "eth0", "duplicate", func(i Interface) bool {
		addrs, err := addrsOf(i.Index)
		return err == nil && slices.ContainsFunc(addrs, failed) && has("2001:db8::1/64", false)(i)
	})
}

// quietNetns has an interface on which nothing happens by itself, as it is down.
func quietNetns(t *testing.T) (index int) {
	t.Helper()
	inNetns(t, "eth0")
	linkDo(t, "eth0", netlink.LinkDel)
	wire := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}
	if err := netlink.LinkAdd(wire); err != nil {
		t.Fatal(err)
	}
	return look(t, "eth0").Index
}

// told waits for a change.
func told(t *testing.T, w *Watcher, what string) {
	t.Helper()
	select {
	case <-w.Changes():
	case <-time.After(5 * time.Second):
		t.Fatalf("%s: not told", what)
	}
}

func TestNetnsWatch(t *testing.T) {
	index := quietNetns(t)
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"IPv4 address", func() error { return AddVirtual(index, []netip.Addr{v4}) }},
		{"IPv4 address deleted", func() error { return DelVirtual(index, []netip.Addr{v4}) }},
		{"IPv6 address", func() error { return AddVirtual(index, []netip.Addr{v6}) }},
		{"IPv6 address deleted", func() error { return DelVirtual(index, []netip.Addr{v6}) }},
		{"interface deleted", func() error {
			linkDo(t, "eth0", netlink.LinkDel)
			return nil
		}},
	} {
		w := watch(t)
		select {
		case <-w.Changes():
			t.Errorf("told before %s", step.what)
		default:
		}
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		told(t, w, step.what)
	}
}

// A watcher that was told more than it could keep tells so, and goes on.
func TestNetnsWatchOverflow(t *testing.T) {
	index := quietNetns(t)
	smallQueue := func() *os.File {
		f, err := subscribe()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
		}); err != nil {
			t.Fatal(err)
		}
		return f
	}
	witness, socket := smallQueue(), smallQueue()
	defer witness.Close()
	var addrs []netip.Addr
	for a := netip.MustParseAddr("192.0.2.1"); len(addrs) < 200; a = a.Next() {
		addrs = append(addrs, a)
	}
	if err := AddVirtual(index, addrs); err != nil {
		t.Fatal(err)
	}
	witness.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := witness.Read(make([]byte, 1)); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("no overflow: %v", err)
	}

	w := newWatcher(socket)
	defer closeWatcher(t, w)
	told(t, w, "lost changes")
	if err := DelVirtual(index, addrs[:1]); err != nil {
		t.Fatal(err)
	}
	told(t, w, "a change after it")
}

// Nobody may be listening: the watcher goes on and ends all the same.
func TestNetnsWatchUnheard(t *testing.T) {
	index := quietNetns(t)
	w := watch(t)
	for _, change := range []func(int, []netip.Addr) error{AddVirtual, DelVirtual, AddVirtual, DelVirtual} {
		if err := change(index, []netip.Addr{netip.MustParseAddr("192.0.2.10")}); err != nil {
			t.Fatal(err)
		}
	}
	closeWatcher(t, w)
}
