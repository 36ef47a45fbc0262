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
		_, want := tables(t)
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
			w, ok := want[ServiceKey{TCP, service.Addr}]
			if !ok || service.Scheduler != w.Scheduler || len(service.Destinations) != len(w.Destinations) {
				t.Fatalf("moby/ipvs sees %+v, want %+v", service, w)
			}
			for _, d := range service.Destinations {
				if w.Destinations[d.Addr].Weight != d.Weight {
					t.Fatalf("moby/ipvs sees %+v in %v, want weight %d", d, service.Addr, w.Destinations[d.Addr].Weight)
				}
			}
		}
	})
}

// TestLabSettings: what is set reads back, for each setting by itself.
func TestLabSettings(t *testing.T) {
	_, c := kernelHost(t)
	k := ServiceKey{UDP, netip.MustParseAddrPort("192.0.2.10:53")}
	for _, s := range []Settings{
		{Scheduler: "rr"},
		{Scheduler: "wlc", Persistence: 5 * time.Minute},
		{Scheduler: "wlc", Persistence: time.Second, ClientBits: 24},
		{Scheduler: "rr", Flags: OnePacket},
		{Scheduler: "sh", Flags: 16}, // sh-port
	} {
		want := Table{k: {Settings: s, Destinations: map[netip.AddrPort]Destination{
			netip.MustParseAddrPort("10.0.0.7:5353"): {Method: NAT, Weight: 1<<31 - 1, Upper: 9, Lower: 3},
			netip.MustParseAddrPort("10.0.0.8:53"):   {Method: TUN},
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

// TestLabForeignKinds: services by mark and of protocols poise does not configure are not in the table.
func TestLabForeignKinds(t *testing.T) {
	h, c := kernelHost(t)
	for _, service := range []string{"-f 66", "--sctp-service 192.0.2.10:80", "-t 192.0.2.10:80"} {
		h.Run("ipvsadm", append([]string{"-A"}, strings.Fields(service)...)...)
	}
	got, err := c.Table(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if keys := len(got); keys != 1 || got[key("192.0.2.10:80")].Scheduler != "wlc" {
		t.Errorf("table %+v, want only the TCP service", got)
	}
}

func TestLabSchedulers(t *testing.T) {
	h, c := kernelHost(t)
	var ops []Op
	for i, name := range Schedulers {
		k := ServiceKey{TCP, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.10"), uint16(1000+i))}
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
