package status

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"poise/vrrp"
)

func TestRouterLine(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	peer := netip.MustParseAddr("192.0.2.2")
	kernel := &Hold{Reason: "kernel update", By: "root", At: at}
	for _, tt := range []struct {
		name   string
		router Router
		want   string
	}{
		{
			"master",
			Router{State: vrrp.Master, Since: at, Why: "no advert for 3.609s", Serving: true, Master: peer, MasterPriority: 100},
			"MASTER since 2026-01-02 03:04:05 (no advert for 3.609s)  192.0.2.10 on eth0, priority 150",
		},
		{
			"master a moment ago",
			Router{State: vrrp.Master, Since: at, Why: "it owns the addresses"},
			"MASTER since 2026-01-02 03:04:05 (it owns the addresses)  192.0.2.10 on eth0, priority 150; the addresses are not all here yet",
		},
		{
			"backup",
			Router{State: vrrp.Backup, Since: at, Why: "started", Master: peer, MasterPriority: 200},
			"BACKUP since 2026-01-02 03:04:05 (started)  192.0.2.10 on eth0, priority 150; master 192.0.2.2, priority 200",
		},
		{
			"backup that has heard nobody",
			Router{State: vrrp.Backup, Since: at, Why: "started"},
			"BACKUP since 2026-01-02 03:04:05 (started)  192.0.2.10 on eth0, priority 150",
		},
		{
			"held",
			Router{
				State: vrrp.Backup, Since: at, Why: "held by an operator", Hold: kernel, Master: peer, MasterPriority: 100,
				Speakers: []Speaker{{Addr: netip.MustParseAddr("192.0.2.3")}, {Addr: peer, Priority: 100, LastHeard: at.Add(time.Hour)}},
			},
			"BACKUP since 2026-01-02 03:04:05, held by root: kernel update  192.0.2.10 on eth0, priority 150; last heard 192.0.2.2, priority 100, 2026-01-02 04:04:05",
		},
		{
			"held without a reason, and alone",
			Router{State: vrrp.Backup, Since: at, Hold: &Hold{By: "root"}, Serving: true},
			"BACKUP since 2026-01-02 03:04:05, held by root  192.0.2.10 on eth0, priority 150; no other node was heard; the addresses are still here",
		},
		{
			"held in fault",
			Router{State: vrrp.Fault, Since: at, Why: "the interface is not up", Hold: kernel},
			"FAULT since 2026-01-02 03:04:05 (the interface is not up)  192.0.2.10 on eth0, priority 150; no other node was heard",
		},
		{
			"waiting",
			Router{Waiting: "for the first table"},
			"INIT (waits for the first table)  192.0.2.10 on eth0, priority 150",
		},
		{
			"excluded addresses",
			Router{Excluded: []netip.Addr{netip.MustParseAddr("2001:db8::10")}},
			"INIT  192.0.2.10, 2001:db8::10 on eth0, priority 150",
		},
		{
			"excluded addresses elsewhere",
			Router{Excluded: []netip.Addr{netip.MustParseAddr("10.0.0.254")}, ExcludedInterface: "eth1"},
			"INIT  192.0.2.10 on eth0, 10.0.0.254 on eth1, priority 150",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.router
			r.Name, r.Interface, r.Priority = "public", "eth0", 150
			r.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.10")}
			if got := r.Line(); got != "router public: "+tt.want {
				t.Errorf("got  %s\nwant router public: %s", got, tt.want)
			}
		})
	}
}

func TestServedBy(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	a, b := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	r := Router{
		Version: 3, Priority: 128, Master: b,
		Speakers: []Speaker{{Addr: a, Interval: time.Hour, LastHeard: at}, {Addr: b, Interval: time.Second, LastHeard: at}},
	}
	for _, tt := range []struct {
		name   string
		master netip.Addr
		after  time.Duration
		want   netip.Addr
	}{
		{"heard in time", b, 3500 * time.Millisecond, b},
		{"silent for too long", b, 3501 * time.Millisecond, netip.Addr{}},
		{"nobody heard", netip.Addr{}, 0, netip.Addr{}},
		{"another one, with another interval", a, time.Minute, a},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.Master = tt.master
			if got := r.ServedBy(at.Add(tt.after)); got != tt.want {
				t.Errorf("served by %v, want %v", got, tt.want)
			}
		})
	}
}

func TestFewAddresses(t *testing.T) {
	for n, want := range map[int]string{
		0: "",
		2: "192.0.2.1, 192.0.2.2",
		4: "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4",
		5: "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4 and 1 more",
	} {
		var addrs []netip.Addr
		for i := range n {
			addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}))
		}
		if got := few(addrs); got != want {
			t.Errorf("%d addresses: %q, want %q", n, got, want)
		}
	}
}

// A director without services has nothing to say of a balancer.
func TestTextWithoutServices(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	snap := Snapshot{
		Node: "lb1", Version: "1.0", Config: Config{File: "poise.toml", Epoch: 1, Loaded: at},
		Elector:  Elector{PID: 11, Stale: true, Heard: at, Problem: "does not answer"},
		Balancer: Balancer{Stale: true},
		Routers: []Router{{
			Name: "a", Interface: "eth0", VRID: 1, State: vrrp.Fault, Since: at, Why: "the interface is not up", Priority: 100,
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Faults: "interface not up",
		}, {
			Name: "b", Interface: "eth1", VRID: 1, State: vrrp.Backup, Since: at, Why: "started", Priority: 100,
			Addresses: []netip.Addr{netip.MustParseAddr("fe80::10")}, Hold: &Hold{By: "root", At: at},
		}},
	}
	var b strings.Builder
	if err := snap.Text(&b); err != nil {
		t.Fatal(err)
	}
	const want = `lb1: poise 1.0, poise.toml, epoch 1, loaded 2026-01-02 03:04:05
! the elector does not answer
! what follows about routers was true at 2026-01-02 03:04:05
! router a cannot serve: interface not up
! router b is held by root, since 2026-01-02 03:04:05 (poise failover b --undo)

router a: FAULT since 2026-01-02 03:04:05 (the interface is not up)  192.0.2.10 on eth0, priority 100
router b: BACKUP since 2026-01-02 03:04:05, held by root  fe80::10 on eth1, priority 100; no other node was heard
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
