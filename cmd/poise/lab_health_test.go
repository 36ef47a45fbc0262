package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"poise/internal/lab"
)

// A server that fails its checks gets no new connections. With "weight-zero" those it has go on, with
// "remove" they end.
func TestLabOnFailure(t *testing.T) {
	const config = `
[[service]]
name = "gentle"
listen = ["192.0.2.10:80"]
scheduler = "rr"
forward = "nat"
check = { type = "http", path = "/healthz", interval = "1s", on_failure = "weight-zero" }
server = [{ address = "10.0.0.21" }, { address = "10.0.0.22" }]

[[service]]
name = "strict"
listen = ["192.0.2.10:81"]
scheduler = "rr"
forward = "nat"
check = { type = "http", path = "/healthz", interval = "1s", on_failure = "remove" }
server = [{ address = "10.0.0.21", port = 80 }, { address = "10.0.0.22", port = 80 }]
`
	const (
		gentle = "tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 1, 10.0.0.22:80 nat 1"
		strict = "tcp 192.0.2.10:81 rr: 10.0.0.21:80 nat 1, 10.0.0.22:80 nat 1"
	)
	l := newLVS(t)
	servers := natServers(l, 2)
	d := startDaemon(t, l.Director, config)
	wantTable(t, l.Director, gentle, strict)
	kept, cut := connectTo(t, l, 80, "nat1"), connectTo(t, l, 81, "nat1")

	servers[0].SetHealth(http.StatusServiceUnavailable)
	wantTable(t, l.Director,
		"tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 0, 10.0.0.22:80 nat 1",
		"tcp 192.0.2.10:81 rr: 10.0.0.22:80 nat 1")
	if name, err := kept.ask(); err != nil || name != "nat1" {
		t.Errorf("weight-zero: established connection: %v, answer from %q", err, name)
	}
	if _, err := cut.ask(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("remove: established connection: %v, want it reset", err)
	}
	for _, port := range []int{80, 81} {
		if got := ask(t, l, port, 3); got["nat2"] != 3 {
			t.Errorf("port %d: answers %v, want all from nat2", port, got)
		}
	}
	d.sees("server down", "gentle 10.0.0.21:80", "GET /healthz", "503")

	servers[0].SetHealth(http.StatusOK)
	wantTable(t, l.Director, gentle, strict)
	if drift := d.events("drift"); len(drift) > 0 {
		t.Errorf("poise takes its own changes for somebody else's: %q", drift)
	}
}

// connectTo opens connections to a port of the VIP until one reaches this server.
func connectTo(t *testing.T, l *lab.LVS, port int, server string) *connection {
	t.Helper()
	for range 4 {
		c := connect(t, l, port)
		if name, err := c.ask(); err != nil {
			t.Fatal(err)
		} else if name == server {
			return c
		}
	}
	t.Fatalf("no connection to port %d reaches %s", port, server)
	return nil
}

// A persistent client is not bound to a dead server.
func TestLabPersistence(t *testing.T) {
	l := newLVS(t)
	servers := map[string]*lab.Server{}
	for i, s := range natServers(l, 2) {
		servers[fmt.Sprintf("nat%d", i+1)] = s
	}
	startDaemon(t, l.Director, strings.Replace(checkedWeb, "server =", "persistence = \"5m\"\nserver =", 1))
	wantTable(t, l.Director, webLine)

	first := ask(t, l, 80, 4)
	if len(first) != 1 {
		t.Fatalf("answers %v, want all from one server", first)
	}
	for name := range first {
		servers[name].SetHealth(http.StatusServiceUnavailable)
	}
	lab.Eventually(t, patience, func() error {
		if now := table(l.Director); !strings.Contains(now, "nat 0") {
			return fmt.Errorf("no weight of zero in the kernel's table:\n%s", now)
		}
		return nil
	})
	then := ask(t, l, 80, 4)
	if maps.Equal(first, then) || len(then) != 1 {
		t.Errorf("answers %v, want all from the other server than in %v", then, first)
	}
}

// The sorry server answers from the loss of the quorum until it is met with hysteresis.
func TestLabQuorum(t *testing.T) {
	const config = `
[[service]]
name = "web"
listen = ["192.0.2.10:80"]
scheduler = "rr"
forward = "nat"
quorum = 2
quorum_hysteresis = 1
sorry_server = "10.0.0.24:80"
check = { type = "http", path = "/healthz", interval = "1s" }
server = [{ address = "10.0.0.21" }, { address = "10.0.0.22" }, { address = "10.0.0.23" }]
`
	l := newLVS(t)
	servers := natServers(l, 4)
	d := startDaemon(t, l.Director, config)
	expect := func(story string, weights string, answers ...string) {
		t.Helper()
		t.Log(story)
		var line strings.Builder
		for i, weight := range strings.Fields(weights) {
			fmt.Fprintf(&line, ", 10.0.0.2%d:80 nat %s", i+1, weight)
		}
		wantTable(t, l.Director, "tcp 192.0.2.10:80 rr:"+line.String()[1:])
		for name := range ask(t, l, 80, 6) {
			if !strings.Contains(strings.Join(answers, " "), name) {
				t.Errorf("%s: answer from %s, want only from %q", story, name, answers)
			}
		}
	}
	const sick, well = http.StatusServiceUnavailable, http.StatusOK
	expect("all are up", "1 1 1", "nat1", "nat2", "nat3")
	servers[0].SetHealth(sick)
	servers[1].SetHealth(sick)
	expect("weight 1 is not below quorum - hysteresis", "0 0 1", "nat3")
	servers[2].SetHealth(sick)
	expect("quorum lost", "0 0 0 1", "nat4")
	servers[0].SetHealth(well)
	servers[1].SetHealth(well)
	lab.Eventually(t, patience, func() error {
		if weight := d.status().Services[0].Weight; weight != 2 {
			return fmt.Errorf("weight of usable servers %d, want 2", weight)
		}
		return nil
	})
	expect("weight 2 is not quorum + hysteresis", "0 0 0 1", "nat4")
	servers[2].SetHealth(well)
	expect("quorum regained", "1 1 1", "nat1", "nat2", "nat3")
}

// Each kind of check tells a good server, 10.0.0.21, from a bad one.
func TestLabCheckKinds(t *testing.T) {
	l := newLVS(t)
	good, bad := l.AddServer(lab.NAT), l.AddServer(lab.NAT)
	good.ServeHTTP(":80")
	good.ServeHTTP(":81")
	good.ServeHTTPS(":443", "www.example.org")
	bad.ServeHTTP(":81").SetHealth(http.StatusServiceUnavailable)
	bad.ServeHTTPS(":443", "www.example.net")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, l.CA(), 0o644); err != nil {
		t.Fatal(err)
	}

	var config strings.Builder
	for _, service := range []struct {
		port  int
		check string
	}{
		{80, `type = "tcp"`},
		{81, `type = "http", path = "/healthz", status = ["200", "300-399"]`},
		{443, fmt.Sprintf(`type = "https", path = "/healthz", host = "www.example.org", ca_file = %q`, ca)},
	} {
		fmt.Fprintf(&config, "[[service]]\nname = \"s%d\"\nlisten = [\"192.0.2.10:%[1]d\"]\nforward = \"nat\"\n"+
			"check = { %s, interval = \"1s\" }\nserver = [{ address = \"10.0.0.21\" }, { address = \"10.0.0.22\" }]\n",
			service.port, service.check)
	}
	d := startDaemon(t, l.Director, config.String())
	d.sees("server down", "s80 10.0.0.22", "connection refused")
	d.sees("server down", "s81 10.0.0.22", "status 503")
	d.sees("server down", "s443 10.0.0.22", "certificate", "www.example.org")
	wantTable(t, l.Director,
		"tcp 192.0.2.10:80 wlc: 10.0.0.21:80 nat 1, 10.0.0.22:80 nat 0",
		"tcp 192.0.2.10:81 wlc: 10.0.0.21:81 nat 1, 10.0.0.22:81 nat 0",
		"tcp 192.0.2.10:443 wlc: 10.0.0.21:443 nat 1, 10.0.0.22:443 nat 0")
}
