package ipvsctl

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"poise/internal/lab"
)

// kernelHost is a host with a default route, and the client of its IPVS.
func kernelHost(t *testing.T) (*lab.Host, *Client) {
	lab.NeedIPVS(t)
	n := lab.New(t)
	h := n.Host("director")
	h.Connect(n.Switch("net"), "10.0.0.1/8")
	h.AddAddr("eth0", "fd00::1/8")
	var c *Client
	if err := h.Do(func() (err error) {
		c, err = Open(t.Context())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return h, c
}

// TestLabDiffApply: for any two tables, applying the difference to the real kernel turns the one into the
// other, read back by ourselves and by moby/ipvs.
func TestLabDiffApply(t *testing.T) {
	h, c := kernelHost(t)
	rapid.Check(t, func(t *rapid.T) {
		have, err := c.Table(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		_, want := drawTables(t)
		ops := Diff(have, want)
		for i, err := range c.Apply(context.Background(), ops) {
			if err != nil {
				t.Fatalf("%v: %v", ops[i], err)
			}
		}
		got, err := c.Table(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if left := Diff(got, want); len(left) > 0 {
			t.Fatalf("the kernel still lacks %v", left)
		}
		if left := Diff(want, got); len(left) > 0 {
			t.Fatalf("the kernel has too much: undo %v", left)
		}
		witness := h.IPVS()
		if len(witness) != len(want) {
			t.Fatalf("moby/ipvs sees %d services, want %d", len(witness), len(want))
		}
		for _, service := range witness {
			key := ServiceKey{Protocol: Protocol(service.Protocol), Addr: service.Addr}
			if service.Mark != 0 {
				continue // of which it does not tell the family
			}
			w, ok := want[key]
			if !ok || service.Scheduler != w.Scheduler || len(service.Destinations) != len(w.Destinations) {
				t.Fatalf("moby/ipvs sees %+v, want %+v", service, w)
			}
			for _, d := range service.Destinations {
				// It reads no weights above 65535, and takes the servers' family for the service's.
				if w, ok := w.Destinations[d.Addr]; ok && w.Weight <= 0xffff && w.Weight != d.Weight {
					t.Fatalf("moby/ipvs sees %+v in %v, want weight %d", d, service.Addr, w.Weight)
				}
			}
		}
	})
}

// TestLabSettings: what is set reads back, for each setting by itself.
func TestLabSettings(t *testing.T) {
	_, c := kernelHost(t)
	k := ServiceKey{Protocol: UDP, Addr: netip.MustParseAddrPort("192.0.2.10:53")}
	for _, s := range []Settings{
		{Scheduler: "rr"},
		{Scheduler: "wlc", Persistence: 5 * time.Minute},
		{Scheduler: "wlc", Persistence: time.Second, ClientMask: 0xff},
		{Scheduler: "rr", Flags: OnePacket},
		{Scheduler: "rr", Persistence: time.Hour, ClientMask: ClientMask(^uint32(0) >> 1)},
		{Scheduler: "wrr", Persistence: time.Minute, Engine: "sip"},
		{Scheduler: "sh", Flags: SourcePort | Fallback},
		{Scheduler: "mh", Flags: Fallback},
	} {
		want := Table{k: {Settings: s, Destinations: map[netip.AddrPort]Destination{
			netip.MustParseAddrPort("10.0.0.7:5353"): {Method: NAT, Weight: 1<<31 - 1, Upper: 9, Lower: 3},
			netip.MustParseAddrPort("10.0.0.8:53"):   {Method: TUN},
			netip.MustParseAddrPort("10.0.0.9:53"):   {Method: TUN, Tunnel: Tunnel{Type: GUE, Port: 6080, Checksum: RemoteChecksum}},
			netip.MustParseAddrPort("10.0.0.10:53"):  {Method: TUN, Tunnel: Tunnel{Type: GRE, Checksum: FullChecksum}},
			netip.MustParseAddrPort("[fd00::8]:53"):  {Method: TUN, Weight: 70000},
		}}}
		have, err := c.Table(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.Apply(t.Context(), Diff(have, want))...); err != nil {
			t.Fatal(err)
		}
		got, err := c.Table(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if left := Diff(got, want); len(left) > 0 || len(got) != 1 {
			t.Errorf("%+v reads back as %+v", s, got[k])
		}
	}
}

func TestLabErrorsNameEntryAndErrno(t *testing.T) {
	_, c := kernelHost(t)
	web := key("192.0.2.10:80")
	server := netip.MustParseAddrPort("10.0.0.7:80")
	broadcast := netip.MustParseAddrPort("10.255.255.255:80")
	ops := []Op{
		{Kind: EditService, Service: web, Settings: Settings{Scheduler: "rr"}},
		{Kind: AddService, Service: web, Settings: Settings{Scheduler: "nosuch"}},
		{Kind: AddService, Service: web, Settings: Settings{Scheduler: "rr"}},
		{Kind: AddService, Service: web, Settings: Settings{Scheduler: "rr"}},
		{Kind: AddDestination, Service: web, Server: broadcast},
		{Kind: EditDestination, Service: web, Server: server},
		{Kind: AddDestination, Service: web, Server: server},
	}
	want := []struct {
		errno error
		text  string
	}{
		{unix.ESRCH, "set 192.0.2.10:80 scheduler rr: no such process"},
		{unix.ENOENT, `add 192.0.2.10:80 scheduler nosuch: no such file or directory: this kernel has no scheduler "nosuch" (module ip_vs_nosuch)`},
		{nil, ""},
		{unix.EEXIST, "add 192.0.2.10:80 scheduler rr: file exists"},
		{unix.EINVAL, "add 192.0.2.10:80 10.255.255.255:80 nat weight 0: invalid argument: is 10.255.255.255 the address of one host?"},
		{unix.ENOENT, "set 192.0.2.10:80 10.0.0.7:80 nat weight 0: no such file or directory"},
		{nil, ""},
	}
	for i, err := range c.Apply(t.Context(), ops) {
		switch {
		case want[i].errno == nil && err != nil:
			t.Errorf("%v: %v", ops[i], err)
		case want[i].errno != nil && (!errors.Is(err, want[i].errno) || !strings.HasPrefix(err.Error(), want[i].text)):
			t.Errorf("error %q, want %q", err, want[i].text)
		}
	}
}

// TestLabEverybodysKinds: what other programs put into the table is read, too.
func TestLabEverybodysKinds(t *testing.T) {
	h, c := kernelHost(t)
	for _, service := range []string{
		"-f 66", "-f 66 -6", "--sctp-service 192.0.2.10:80", "-t 192.0.2.10:80 -p 60 -M 255.255.0.0", "-t [2001:db8::10]:80",
	} {
		h.Run("ipvsadm", append([]string{"-A"}, strings.Fields(service)...)...)
	}
	h.Run("ipvsadm", strings.Fields("-a -f 66 -r fd00::8 -i -w 7 --tun-type gre")...)
	got, err := c.Table(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	none := map[netip.AddrPort]Destination{}
	want := Table{
		ByMark(66, false): {Settings{Scheduler: "wlc"}, map[netip.AddrPort]Destination{
			netip.MustParseAddrPort("[fd00::8]:0"): {Method: TUN, Weight: 7, Tunnel: Tunnel{Type: GRE}},
		}},
		ByMark(66, true): {Settings{Scheduler: "wlc"}, none},
		{Protocol: SCTP, Addr: netip.MustParseAddrPort("192.0.2.10:80")}: {Settings{Scheduler: "wlc"}, none},
		key("192.0.2.10:80"):     {Settings{Scheduler: "wlc", Persistence: time.Minute, ClientMask: 0xffff}, none},
		key("[2001:db8::10]:80"): {Settings{Scheduler: "wlc"}, none},
	}
	if ops := Diff(got, want); len(ops) > 0 || len(got) != len(want) {
		t.Errorf("table %+v, want %+v: %v", got, want, ops)
	}
}

// TestLabBatch: in a batch that is larger than one message each failure is told of the change it is about, though all
// of them fail, and though none but the last one does not.
func TestLabBatch(t *testing.T) {
	_, c := kernelHost(t)
	web := key("192.0.2.10:80")
	ops := []Op{{Kind: AddService, Service: web, Settings: Settings{Scheduler: "rr"}}}
	for i := range 3 * batchSize {
		server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80)
		ops = append(ops, Op{Kind: AddDestination, Service: web, Server: server, Destination: Destination{Weight: i}})
	}
	for i, err := range c.Apply(t.Context(), ops) {
		if err != nil {
			t.Errorf("%v: %v", ops[i], err)
		}
	}
	for i, err := range c.Apply(t.Context(), ops) { // all are there already
		if !errors.Is(err, unix.EEXIST) || !strings.HasPrefix(err.Error(), ops[i].String()) {
			t.Errorf("%v a second time: %v", ops[i], err)
		}
	}
	for i := range ops {
		if i%7 != 0 {
			ops[i].Kind = EditDestination
		}
	}
	for i, err := range c.Apply(t.Context(), ops) {
		if errors.Is(err, unix.EEXIST) != (i%7 == 0) || err != nil && i%7 != 0 {
			t.Errorf("%v: %v", ops[i], err)
		}
	}
}

// TestLabLostAnswers: where the kernel's answers get lost, the table tells what was done.
func TestLabLostAnswers(t *testing.T) {
	_, c := kernelHost(t)
	// Room for hardly any answer: half of the smallest buffer there is goes to the kernel's own needs.
	if err := unix.SetsockoptInt(c.socket.GetFd(), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	web := key("192.0.2.10:80")
	server := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 80)
	}
	ops := []Op{{Kind: AddService, Service: web, Settings: Settings{Scheduler: "rr"}}}
	for i := range batchSize - 1 {
		kind := AddDestination
		if i%2 == 1 {
			kind = EditDestination // of what is not there
		}
		ops = append(ops, Op{Kind: kind, Service: web, Server: server(i), Destination: Destination{Weight: 1}})
	}
	errs := c.Apply(t.Context(), ops)
	lost := false
	for i, err := range errs {
		if wrong := ops[i].Kind == EditDestination; (err != nil) != wrong {
			t.Errorf("%v: %v", ops[i], err)
		}
		lost = lost || err != nil && !errors.Is(err, unix.ENOENT)
	}
	if !lost {
		t.Error("no answer was lost")
	}
	table, err := c.Table(t.Context())
	if err != nil || len(table[web].Destinations) != batchSize/2 {
		t.Errorf("%d servers, error %v, want %d", len(table[web].Destinations), err, batchSize/2)
	}
}

// TestLabDaemons: what is started reads back, with the kernel's defaults.
func TestLabDaemons(t *testing.T) {
	_, c := kernelHost(t)
	for _, d := range []Daemon{
		{Role: SyncMaster, Interface: "eth0", ID: 51},
		{Role: SyncBackup, Interface: "eth0", ID: 255, MaxLen: 1400, Group: netip.MustParseAddr("224.0.0.99"), Port: 9000, TTL: 7},
		{Role: SyncBackup, Interface: "eth0", Group: netip.MustParseAddr("ff02::99")},
	} {
		if err := c.StartDaemon(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if err := c.StartDaemon(t.Context(), d); !errors.Is(err, unix.EEXIST) {
			t.Errorf("%v a second time: %v", d, err)
		}
		got, err := c.Daemons(t.Context())
		if err != nil || len(got) != 1 {
			t.Fatalf("%v runs as %v, error %v", d, got, err)
		}
		want := d.Normal()
		if want.MaxLen == 0 {
			want.MaxLen = got[0].MaxLen // up to the kernel
		}
		if got[0] != want || got[0].MaxLen == 0 {
			t.Errorf("%+v runs as %+v", want, got[0])
		}
		if err := c.StopDaemon(t.Context(), d.Role); err != nil {
			t.Error(err)
		}
		if err := c.StopDaemon(t.Context(), d.Role); !errors.Is(err, unix.ESRCH) {
			t.Errorf("stopped a second time: %v", err)
		}
	}
	if err := c.StartDaemon(t.Context(), Daemon{Role: SyncMaster, Interface: "none"}); !errors.Is(err, unix.ENODEV) {
		t.Errorf("without its interface: %v", err)
	}
}

// TestLabTimeouts: only what is given changes, as ipvsadm sees it too.
func TestLabTimeouts(t *testing.T) {
	h, _ := kernelHost(t)
	for _, step := range []struct {
		set, want Timeouts
	}{
		{Timeouts{}, Timeouts{15 * time.Minute, 2 * time.Minute, 5 * time.Minute}},
		{Timeouts{UDP: 7 * time.Second}, Timeouts{15 * time.Minute, 2 * time.Minute, 7 * time.Second}},
		{Timeouts{TCP: time.Hour, TCPFin: time.Second}, Timeouts{time.Hour, time.Second, 7 * time.Second}},
	} {
		var got Timeouts
		if err := h.Do(func() (err error) {
			if err = SetTimeouts(step.set); err == nil {
				got, err = ReadTimeouts()
			}
			return err
		}); err != nil || got != step.want {
			t.Errorf("after %+v: %+v, error %v; want %+v", step.set, got, err, step.want)
		}
	}
	if out := h.Run("ipvsadm", "-l", "--timeout"); !strings.Contains(out, "3600 1 7") {
		t.Errorf("ipvsadm sees %q", out)
	}
}

// TestLabInfoAndZero: what is asked of the whole.
func TestLabInfoAndZero(t *testing.T) {
	_, c := kernelHost(t)
	info, err := c.Info(t.Context())
	if want := [3]uint8{1, 2, 1}; err != nil || info.Version != want || info.TableSize == 0 {
		t.Errorf("info %+v, error %v", info, err)
	}
	web := key("192.0.2.10:80")
	if err := c.Zero(t.Context(), web); !errors.Is(err, unix.ESRCH) {
		t.Errorf("zero a service that is not there: %v", err)
	}
	if err := errors.Join(c.Apply(t.Context(), []Op{{Kind: AddService, Service: web, Settings: Settings{Scheduler: "rr"}}})...); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Zero(t.Context(), web), c.Zero(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestLabSchedulers(t *testing.T) {
	h, c := kernelHost(t)
	var ops []Op
	for i, name := range Schedulers {
		k := ServiceKey{Protocol: TCP, Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.10"), uint16(1000+i))}
		ops = append(ops, Op{Kind: AddService, Service: k, Settings: Settings{Scheduler: name}})
	}
	var missing []string
	for i, err := range c.Apply(t.Context(), ops) {
		if errors.Is(err, unix.ENOENT) {
			missing = append(missing, Schedulers[i])
		} else if err != nil {
			t.Error(err)
		}
	}
	if len(h.IPVS()) != len(Schedulers)-len(missing) {
		t.Errorf("%d services, want one for each scheduler but %q", len(h.IPVS()), missing)
	}
	if slices.Contains(missing, "wlc") || len(missing) > len(Schedulers)/2 {
		t.Errorf("this kernel lacks %q", missing)
	}
	t.Logf("schedulers that this kernel lacks: %q", missing)
}
