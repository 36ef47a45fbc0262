package status

import (
	"context"
	"flag"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"poise/checker"
	"poise/ipvsctl"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

// TestDocs holds docs/metrics.md true to the list of metrics.
func TestDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Metrics

Served at ` + "`/metrics`" + ` on the address that ` + "`api`" + ` in ` + "`[global]`" + ` names. Each scrape reads the kernel's numbers
afresh; what is shown is what ` + "`poise status`" + ` shows. Labels come from the configuration only, so their number is
known: ` + "`service`" + ` is the service's name, ` + "`server`" + ` the server's address and port.

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

// night is a director with a good service, one in trouble and one without checks.
func night() *Snapshot {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	web := Service{
		Name: "web", Key: ipvsctl.ServiceKey{Protocol: ipvsctl.TCP, Addr: netip.MustParseAddrPort("192.0.2.10:80")},
		Scheduler: "wlc", Forward: ipvsctl.DR, Up: true, Why: "weight 3, quorum 1, 1 down", Quorum: 1, Weight: 3, Checked: true,
		Counters: ipvsctl.Counters{Connections: 1 << 33},
		Servers: []Server{
			{Addr: netip.MustParseAddrPort("192.0.2.21:80"), State: checker.Up, Since: at, Reason: "up", Weight: 3, OK: 70, Active: 5, Counters: ipvsctl.Counters{Connections: 1234}},
			{Addr: netip.MustParseAddrPort("192.0.2.22:80"), State: checker.Down, Since: at, Reason: "down: GET /healthz: status 503", OK: 60, Failed: 10},
		},
		ForeignServers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.66:80")},
	}
	web.Checks.Observe(3 * time.Millisecond)
	web.Checks.Observe(2 * time.Second)
	return &Snapshot{
		Time: at, Node: "lb1", Version: "1.0",
		Config: Config{File: "/etc/poise/poise.toml", Epoch: 2, Loaded: at, Rejected: "poise.toml:3: a: b\npoise.toml:4: c: d"},
		Services: []Service{web, {
			Name: "dns", Key: ipvsctl.ServiceKey{Protocol: ipvsctl.UDP, Addr: netip.MustParseAddrPort("192.0.2.10:53")},
			Scheduler: "rr", Forward: ipvsctl.NAT, Why: "weight 1, quorum 2: sorry server 10.0.0.99:53 answers", Quorum: 2, Weight: 1, NoVIP: true,
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

func TestText(t *testing.T) {
	var b strings.Builder
	if err := night().Text(&b); err != nil {
		t.Fatal(err)
	}
	const want = `lb1: poise 1.0, /etc/poise/poise.toml, epoch 2, loaded 2026-01-02 03:04:05
! last reload rejected: poise.toml:3: a: b
! last reload rejected: poise.toml:4: c: d
! service web: server 192.0.2.66:80 was added by somebody else: left alone, not checked (ipvsadm -d -t 192.0.2.10:80 -r 192.0.2.66:80)
! web 192.0.2.22:80: down: GET /healthz: status 503
! service dns is down: weight 1, quorum 2: sorry server 10.0.0.99:53 answers
! service dns: 192.0.2.10 is not an address of this host: its requests do not arrive here
! service dns: the kernel refuses: add 192.0.2.10:53/udp 10.0.0.2:53 nat weight 1: invalid argument
! net.ipv4.ip_forward must be 1: net.ipv4.ip_forward = 1: read-only file system
! service 192.0.2.10:22 was added by somebody else: left alone (ipvsadm -D -t 192.0.2.10:22)

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
