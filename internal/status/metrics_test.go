package status

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"poise/checker"
	"poise/ipvsctl"
	"poise/vrrp"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

// TestDocs holds docs/metrics.md true to the list of metrics.
func TestDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Metrics

Served at ` + "`/metrics`" + ` on the address that ` + "`api`" + ` in ` + "`[global]`" + ` names. Each scrape reads the kernel's numbers
afresh; what is shown is what ` + "`poise status`" + ` shows. Labels come from the configuration only, so their number is
known: ` + "`router`" + ` is the router's name, ` + "`service`" + ` the service's, ` + "`server`" + ` the server's address and port.

Worth an alert: ` + "`poise_up == 0`" + `, ` + "`poise_elector_up == 0`" + `, ` + "`poise_service_up == 0`" + `,
` + "`poise_router_state{state=\"fault\"} == 1`" + `, and over all directors of a pair
` + "`sum by (router) (poise_router_state{state=\"master\"}) != 1`" + ` for longer than a scrape interval.

This page is generated from the code: ` + "`make docs`" + `.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
`)
	for _, m := range Metrics() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, strings.Join(m.Labels, ", "), m.Help)
	}
	const page = "../../docs/metrics.md"
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the code says (%v): run \"make docs\"", page, err)
	}
}

// night is a director with a router, a good service, one in trouble and one without checks.
func night() *Snapshot {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	web := Service{
		Name: "web", Key: ipvsctl.ServiceKey{Protocol: ipvsctl.TCP, Addr: netip.MustParseAddrPort("192.0.2.10:80")},
		Scheduler: "wlc", Forward: "dr", Up: true, Why: "weight 3, quorum 1, 1 down", Quorum: 1, Weight: 3, Checked: true,
		Counters: ipvsctl.Counters{Connections: 1 << 33},
		Servers: []Server{
			{Addr: netip.MustParseAddrPort("192.0.2.21:80"), State: checker.Up, Since: at, Reason: "up", Weight: 3, OK: 70, Active: 5, Counters: ipvsctl.Counters{Connections: 1234}},
			{Addr: netip.MustParseAddrPort("192.0.2.22:80"), State: checker.Down, Since: at, Reason: "down: GET /healthz: status 503", OK: 60, Failed: 10},
		},
		ForeignServers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.66:80")},
	}
	web.Checks.Observe(3 * time.Millisecond)
	web.Checks.Observe(2 * time.Second)
	public := Router{
		Name: "public", Interface: "eth0", VRID: 51, Version: 3, State: vrrp.Master, Since: at, Priority: 150,
		Why:       "no advert from 192.0.2.2 for 3.609s",
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Serving: true, Source: netip.MustParseAddr("192.0.2.1"),
		Speakers: []Speaker{
			{Addr: netip.MustParseAddr("192.0.2.2"), Priority: 200, Interval: time.Second, LastHeard: at},
			{Addr: netip.MustParseAddr("192.0.2.66"), Priority: 100, LastHeard: at, Problem: "adverts with another password"},
		},
		Sent: 90, Received: 80, Dropped: map[vrrp.Reason]uint64{vrrp.DropAuth: 7}, Transitions: 2,
	}
	public.Lateness.Observe(200 * time.Microsecond)
	return &Snapshot{
		Time: at, Node: "lb1", Version: "1.0",
		Elector: Elector{PID: 11, Restarts: 3, NoRealtime: "operation not permitted"}, Balancer: Balancer{PID: 12},
		Routers: []Router{public},
		Config:  Config{File: "/etc/poise/poise.toml", Epoch: 2, Loaded: at, Rejected: "poise.toml:3: a: b\npoise.toml:4: c: d"},
		Services: []Service{web, {
			Name: "dns", Key: ipvsctl.ServiceKey{Protocol: ipvsctl.UDP, Addr: netip.MustParseAddrPort("192.0.2.10:53")},
			Scheduler: "rr", Forward: "nat", Why: "weight 1, quorum 2: sorry server 10.0.0.99:53 answers", Quorum: 2, Weight: 1,
			NoVIP: []netip.Addr{netip.MustParseAddr("192.0.2.10")},
			Sorry: netip.MustParseAddrPort("10.0.0.99:53"), SorryActive: true,
			Problem: "add 192.0.2.10:53/udp 10.0.0.2:53 nat weight 1: invalid argument",
			Servers: []Server{{Addr: netip.MustParseAddrPort("10.0.0.2:53"), Absent: true, Reason: "no quorum: weight 1, regained at 2"}},
		}},
		Sysctls:         []Sysctl{{Name: "net.ipv4.ip_forward", Value: "0", Want: "1", Problem: "net.ipv4.ip_forward = 1: read-only file system"}},
		ForeignServices: []ipvsctl.ServiceKey{{Protocol: ipvsctl.TCP, Addr: netip.MustParseAddrPort("192.0.2.10:22")}},
		Totals:          Totals{Writes: 12, WriteErrors: 1, Drift: 3},
	}
}

func scrape(snapshot func(context.Context) *Snapshot) string {
	answer := httptest.NewRecorder()
	MetricsHandler(snapshot).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	return answer.Body.String()
}

func TestMetrics(t *testing.T) {
	page := scrape(func(context.Context) *Snapshot { return night() })
	for _, line := range []string{
		`poise_up 1`,
		`poise_elector_up 1`,
		`poise_elector_restarts_total 3`,
		`poise_router_state{router="public",state="master"} 1`,
		`poise_router_state{router="public",state="backup"} 0`,
		`poise_router_state{router="public",state="init"} 0`,
		`poise_router_state{router="public",state="fault"} 0`,
		`poise_router_priority{router="public"} 150`,
		`poise_router_transitions_total{router="public"} 2`,
		`poise_router_adverts_sent_total{router="public"} 90`,
		`poise_router_adverts_received_total{router="public"} 80`,
		`poise_router_adverts_dropped_total{reason="auth",router="public"} 7`,
		`poise_router_adverts_dropped_total{reason="checksum",router="public"} 0`,
		`poise_router_advert_lateness_seconds_bucket{router="public",le="0.0001"} 0`,
		`poise_router_advert_lateness_seconds_bucket{router="public",le="0.00025"} 1`,
		`poise_router_advert_lateness_seconds_count{router="public"} 1`,
		`poise_config_epoch 2`,
		`poise_config_rejected 1`,
		`poise_service_up{service="web"} 1`,
		`poise_service_up{service="dns"} 0`,
		`poise_service_connections_total{service="web"} 8.589934592e+09`,
		`poise_server_up{server="192.0.2.22:80",service="web"} 0`,
		`poise_server_up{server="10.0.0.2:53",service="dns"} 1`, // unchecked servers count as up
		`poise_server_weight{server="192.0.2.21:80",service="web"} 3`,
		`poise_checks_total{result="failed",server="192.0.2.22:80",service="web"} 10`,
		`poise_check_duration_seconds_bucket{service="web",le="0.0025"} 0`,
		`poise_check_duration_seconds_bucket{service="web",le="0.005"} 1`,
		`poise_check_duration_seconds_bucket{service="web",le="+Inf"} 2`,
		`poise_ipvs_writes_total{result="refused"} 1`,
		`poise_drift_total 3`,
		`poise_foreign_entries 2`,
	} {
		if !strings.Contains(page, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	for _, m := range Metrics() {
		if !strings.Contains(page, "# TYPE "+m.Name+" "+m.Kind+"\n") {
			t.Errorf("%s is documented as a %s and not served as one", m.Name, m.Kind)
		}
	}
}

// What an alert asks of the two children: 0 is trouble, and one that is not needed is none.
func TestUp(t *testing.T) {
	for _, tt := range []struct {
		name         string
		elector      Elector
		balancer     Balancer
		up, electors string // "" = absent
	}{
		{"both answer", Elector{PID: 1}, Balancer{PID: 2}, "1", "1"},
		{"both silent", Elector{PID: 1, Stale: true}, Balancer{PID: 2, Stale: true}, "0", "0"},
		{"both dead", Elector{Stale: true, Problem: "died"}, Balancer{Stale: true, Problem: "died"}, "0", "0"},
		{"neither needed", Elector{}, Balancer{}, "1", ""},
		{"neither needed any more", Elector{Stale: true, Restarts: 1}, Balancer{Stale: true, Restarts: 1}, "1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			page := scrape(func(context.Context) *Snapshot { return &Snapshot{Elector: tt.elector, Balancer: tt.balancer} })
			for name, want := range map[string]string{"poise_up": tt.up, "poise_elector_up": tt.electors} {
				_, got, _ := strings.Cut(page, "\n"+name+" ")
				if got, _, _ = strings.Cut(got, "\n"); got != want {
					t.Errorf("%s %q, want %q", name, got, want)
				}
			}
		})
	}
}

// The command reads what the daemon writes.
func TestText(t *testing.T) {
	sent, err := json.Marshal(night())
	if err != nil {
		t.Fatal(err)
	}
	var snap Snapshot
	if err := json.Unmarshal(sent, &snap); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(snap.Routers[0].Lateness, night().Routers[0].Lateness) || snap.Routers[0].Dropped[vrrp.DropAuth] != 7 {
		t.Errorf("the router became %+v", snap.Routers[0])
	}
	var b strings.Builder
	if err := snap.Text(&b); err != nil {
		t.Fatal(err)
	}
	const want = `lb1: poise 1.0, /etc/poise/poise.toml, epoch 2, loaded 2026-01-02 03:04:05
! router public: 192.0.2.66, priority 100, last heard 2026-01-02 03:04:05: adverts with another password
! last reload rejected: poise.toml:3: a: b
! last reload rejected: poise.toml:4: c: d
! service web: server 192.0.2.66:80 was added by somebody else: left alone, not checked (poise ipvs -d -t 192.0.2.10:80 -r 192.0.2.66:80)
! web 192.0.2.22:80: down: GET /healthz: status 503
! service dns is down: weight 1, quorum 2: sorry server 10.0.0.99:53 answers
! service dns: 192.0.2.10 is not an address of this host: its requests do not arrive here
! service dns: the kernel refuses: add 192.0.2.10:53/udp 10.0.0.2:53 nat weight 1: invalid argument
! net.ipv4.ip_forward must be 1: net.ipv4.ip_forward = 1: read-only file system
! service 192.0.2.10:22 was added by somebody else: left alone (poise ipvs -D -t 192.0.2.10:22)
! the elector has no precedence over other processes: operation not permitted

router public: MASTER since 2026-01-02 03:04:05 (no advert from 192.0.2.2 for 3.609s)  192.0.2.10 on eth0, priority 150

web 192.0.2.10:80 dr wlc: up (weight 3, quorum 1, 1 down)
  server         state  since                weight  active  inactive  connections  why
  192.0.2.21:80  up     2026-01-02 03:04:05  3       5       0         1234         up
  192.0.2.22:80  down   2026-01-02 03:04:05  0       0       0         0            down: GET /healthz: status 503

dns 192.0.2.10:53/udp nat rr: DOWN (weight 1, quorum 2: sorry server 10.0.0.99:53 answers)
  server       state      since  weight  active  inactive  connections  why
  10.0.0.2:53  unchecked  -      -       0       0         0            no quorum: weight 1, regained at 2
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
