package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"poise/internal/lab"
)

const api = `
[global]
api = "192.0.2.1:9650"
`

// metrics is the page that Prometheus gets.
func metrics(t *testing.T, l *lab.LVS) string {
	t.Helper()
	r, err := l.Director.HTTPClient().Get("http://192.0.2.1:9650/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	page, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// What others change of ours is put back within a tick. What they add stays.
func TestLabDrift(t *testing.T) {
	const twoTicks = 10 * time.Second
	l := newLVS(t)
	d := startDaemon(t, l.Director, api+web+weighted)
	wantTable(t, l.Director, webLine, weightedLine)

	changed := time.Now()
	l.Director.Run("ipvsadm", "-C")
	wantTable(t, l.Director, webLine, weightedLine)
	if took := time.Since(changed); took > twoTicks {
		t.Errorf("ipvsadm -C was healed after %v", took)
	}
	d.sees("drift", "web", "added, scheduler rr", "10.0.0.22:80 added, weight 1")

	l.Director.Run("ipvsadm", "-e", "-t", "192.0.2.10:80", "-r", "10.0.0.21", "-m", "-w", "9")
	l.Director.Run("ipvsadm", "-d", "-t", "192.0.2.10:83", "-r", "10.0.0.22")
	l.Director.Run("ipvsadm", "-A", "-t", "192.0.2.10:999", "-s", "rr")
	l.Director.Sysctl("net/ipv4/ip_forward", "0")
	wantTable(t, l.Director, webLine, weightedLine, "tcp 192.0.2.10:999 rr:")
	lab.Eventually(t, patience, func() error {
		if got := l.Director.ReadSysctl("net/ipv4/ip_forward"); got != "1" {
			return fmt.Errorf("ip_forward %s", got)
		}
		return nil
	})
	d.sees("drift", "10.0.0.21:80 weight 9 → 1")
	d.sees("drift", "10.0.0.22:83 added, weight 1")
	d.sees("foreign entry found", "192.0.2.10:999")
	d.sees("drift", "net.ipv4.ip_forward = 1 (was 0)")
	// Two services with two servers each, then one weight, one server and one setting.
	lab.Eventually(t, patience, func() error { // a page may be a second old
		if page := metrics(t, l); !strings.Contains(page, "\npoise_drift_total 9\n") {
			return fmt.Errorf("poise_drift_total is not 9 in:\n%s", page)
		}
		return nil
	})
	if text := d.must("status"); !strings.Contains(text, "service 192.0.2.10:999 was added by somebody else") {
		t.Errorf("status does not show the foreign service:\n%s", text)
	}
}

// A check's verdict on a server that somebody has just taken out of the table is refused by the kernel.
// Poise puts the server back as it should be by now, and has no complaint left.
func TestLabVerdictMeetsDrift(t *testing.T) {
	l := newLVS(t)
	servers := natServers(l, 2)
	d := startDaemon(t, l.Director, checkedWeb)
	wantTable(t, l.Director, webLine)
	l.Director.Run("ipvsadm", "-d", "-t", "192.0.2.10:80", "-r", "10.0.0.21")
	servers[0].SetHealth(http.StatusServiceUnavailable)
	wantTable(t, l.Director, "tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 0, 10.0.0.22:80 nat 1")
	lab.Eventually(t, patience, func() error {
		if problem := d.status().Services[0].Problem; problem != "" {
			return fmt.Errorf("status shows the problem %q, which is over", problem)
		}
		return nil
	})
}

// A server that the kernel refuses, here because its address is a broadcast address, stops no other. It is
// said once, and accepted when it can be.
func TestLabRefusedServer(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	l.Director.AddAddr("eth1", "10.0.9.1/24")
	d := startDaemon(t, l.Director, strings.Replace(web, "server = [", `server = [{ address = "10.0.9.255" }, `, 1))
	wantTable(t, l.Director, webLine)
	if got := ask(t, l, 80, 4); got["nat1"] != 2 || got["nat2"] != 2 {
		t.Errorf("answers %v, want 2 from each", got)
	}
	const refusal = "add 192.0.2.10:80 10.0.9.255:80 nat weight 1: invalid argument"
	d.sees("kernel refuses", refusal)
	if text := d.must("status"); !strings.Contains(text, "! service web: the kernel refuses: "+refusal) {
		t.Errorf("status does not show the refusal:\n%s", text)
	}
	watch := l.Director.WatchIPVS()
	lab.Eventually(t, patience, func() error {
		if watch.Writes() == 0 {
			return fmt.Errorf("not tried again")
		}
		return nil
	})
	if said := d.events("kernel refuses"); len(said) != 1 {
		t.Errorf("said %d times: %q", len(said), said)
	}

	l.Director.DelAddr("eth1", "10.0.9.1/24")
	wantTable(t, l.Director, webLine+", 10.0.9.255:80 nat 1")
	d.sees("kernel accepts", "10.0.9.255:80")
}
