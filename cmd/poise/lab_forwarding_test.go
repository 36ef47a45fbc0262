package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"poise/internal/lab"
	"poise/ipvsctl"
)

// Each method serves requests by weight, and the real servers see the client's address: ask looks.
func TestLabForwarding(t *testing.T) {
	l := newLVS(t)
	servers := make(map[lab.Method][]*lab.RealServer)
	for _, method := range []lab.Method{lab.NAT, lab.DR, lab.TUN} {
		for range 2 {
			s := l.AddServer(method)
			s.ServeHTTP(fmt.Sprintf(":%d", portOf[method]))
			servers[method] = append(servers[method], s)
		}
	}
	for _, s := range servers[lab.DR] {
		s.Run("poise", "realserver", "apply", "--vip", lab.VIP, "--runtime-dir", t.TempDir())
	}
	for _, s := range servers[lab.TUN] {
		s.AcceptTunnel(lab.VIP)
	}
	for _, s := range servers[lab.NAT] {
		s.ServeUDP(s.Addr.String() + ":53")
	}
	startDaemon(t, l.Director, forwardingConfig)

	for method, port := range portOf {
		want := map[string]int{servers[method][0].Name: 2, servers[method][1].Name: 6}
		if got := ask(t, l, port, 8); !maps.Equal(got, want) {
			t.Errorf("%s: answers %v, want %v", method, got, want)
		}
	}
	got := make(map[string]int)
	for range 4 {
		got[askUDP(t, l)]++
	}
	if want := (map[string]int{"nat1": 2, "nat2": 2}); !maps.Equal(got, want) {
		t.Errorf("UDP: answers %v, want %v", got, want)
	}
}

var portOf = map[lab.Method]int{lab.NAT: 80, lab.DR: 81, lab.TUN: 82}

const forwardingConfig = `
[[service]]
name = "nat"
listen = ["192.0.2.10:80"]
scheduler = "wrr"
forward = "nat"
server = [{ address = "10.0.0.21" }, { address = "10.0.0.22", weight = 3 }]

[[service]]
name = "dr"
listen = ["192.0.2.10:81"]
scheduler = "wrr"
forward = "dr"
server = [{ address = "192.0.2.23" }, { address = "192.0.2.24", weight = 3 }]

[[service]]
name = "tun"
listen = ["192.0.2.10:82"]
scheduler = "wrr"
forward = "tun"
server = [{ address = "192.0.2.25" }, { address = "192.0.2.26", weight = 3 }]

[[service]]
name = "dns"
listen = ["192.0.2.10:53"]
protocol = "udp"
scheduler = "rr"
forward = "nat"
server = [{ address = "10.0.0.21" }, { address = "10.0.0.22" }]
`

// askUDP sends a datagram from a new port to port 53 of the VIP and returns the name of who answers.
func askUDP(t *testing.T, l *lab.LVS) string {
	t.Helper()
	c, err := l.Client.Dial(t.Context(), "udp", "", lab.VIP+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	var a lab.Answer
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if a.Client.Addr().String() != lab.ClientAddr {
		t.Errorf("%s saw the client as %v, want %s", a.Server, a.Client, lab.ClientAddr)
	}
	return a.Server
}

// A real server that simply adds the VIP takes its packets away from the director. "realserver apply"
// silences it; the director has no VIP here, so that only the real server could answer.
func TestNetnsRealserverKeepsSilent(t *testing.T) {
	lab.NeedRoot(t)
	l := lab.NewLVS(t)
	s := l.AddServer(lab.DR)
	s.ServeHTTP(":80")
	s.AddAddr("lo", lab.VIP+"/32")
	reach := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := l.Router.Dial(ctx, "tcp", "", lab.VIP+":80")
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := reach(); err != nil {
		t.Errorf("before: %v, want an answer", err)
	}
	dir := t.TempDir()
	s.Run("poise", "realserver", "apply", "--vip", lab.VIP, "--runtime-dir", dir)
	l.Router.Run("ip", "neigh", "flush", "all")
	if err := reach(); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("after apply: %v, want no route to host", err)
	}
}

// Every scheduler the kernel has is accepted. One that it lacks is named, with its line, before anything is changed.
func TestLabSchedulers(t *testing.T) {
	l := newLVS(t)
	block := func(i int, name string) string {
		return fmt.Sprintf("[[service]]\nname = %q\nlisten = [\"%s:%d\"]\nscheduler = %q\nforward = \"nat\"\nserver = [{ address = \"10.0.0.21\" }]\n",
			name, lab.VIP, 1000+i, name)
	}
	var config, whole strings.Builder
	var want, refused []string
	for i, name := range ipvsctl.Schedulers {
		whole.WriteString(block(i, name))
		addr := fmt.Sprintf("%s:%d", lab.VIP, 1000+i)
		if l.Router.Do(exec.Command("ipvsadm", "-A", "-t", addr, "-s", name).Run) != nil {
			line := 6*i + 4
			refused = append(refused, fmt.Sprintf("poise.toml:%d: service %q: scheduler = %[2]q: this kernel has no module ip_vs_%[2]s", line, name))
			continue
		}
		config.WriteString(block(i, name))
		want = append(want, fmt.Sprintf("tcp %s %s: 10.0.0.21:%d nat 1", addr, name, 1000+i))
	}
	t.Logf("this kernel refuses %q", refused)
	d := startDaemon(t, l.Director, config.String())
	wantTable(t, l.Director, want...)
	d.reload(whole.String())
	for _, problem := range refused {
		d.sees("reload rejected", problem)
	}
	wantTable(t, l.Director, want...)
}
