package main

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"poise/internal/lab"
)

const (
	clientIP   = "203.0.113.2"
	routerIP   = "192.0.2.254"
	directorIP = "192.0.2.1"
	metricsAt  = directorIP + ":9650"

	checkInterval = time.Second
)

// methods are the ways to forward, and the names of the services: one for each, on the same servers.
var methods = []lab.Method{lab.NAT, lab.DR, lab.TUN}

var vips = map[lab.Method]string{lab.NAT: "192.0.2.10", lab.DR: "192.0.2.11", lab.TUN: "192.0.2.12"}

func serverAddr(number int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(20 + number)}) }

// world is the first act's network, the programs on it, and what the story has made of them so far.
type world struct {
	stage

	inside   *lab.Switch
	director *director
	servers  map[string]*server
	want     table // what the kernel must hold
}

// server is a host with a web server on port 80 of all its addresses.
type server struct {
	*lab.RealServer
	web *lab.Server
}

func (w *world) introduce() {
	fmt.Fprintf(w, `
%s: the story of a night

                        ┌── director  %s, runs poise
  client ──── router ───┼── s1        %s, weight 1
  %s           ├── s2        %s, weight 2
                        └── s3        %s, weight 3

  nat  %s  replies come back through the director
  dr   %s  servers have this address too (poise realserver apply) and reply directly
  tun  %s  servers take packets out of a tunnel and reply directly
`, w.bold("One director"), directorIP, serverAddr(1), clientIP, serverAddr(2), serverAddr(3), vips[lab.NAT], vips[lab.DR], vips[lab.TUN])
}

// build makes the network and its servers.
func (w *world) build() {
	w.begin()
	outside := w.net.Switch("outside")
	w.inside = w.net.Switch("inside")

	w.client = w.net.Host("client")
	w.client.Connect(outside, clientIP+"/24")
	w.client.Route("default", "203.0.113.1")

	router := w.net.Host("router")
	router.Connect(outside, "203.0.113.1/24")
	router.Connect(w.inside, routerIP+"/24")
	router.Sysctl("net/ipv4/ip_forward", "1")

	w.director = w.newDirector("director")
	w.director.Connect(w.inside, directorIP+"/24")
	w.director.Route("default", routerIP)

	w.want = table{}
	for _, m := range methods {
		w.director.AddAddr("eth0", vips[m]+"/32")
		w.want[m] = weights{"s1": 1, "s2": 2, "s3": 3}
	}
	w.servers = map[string]*server{}
	for _, number := range []int{1, 2, 3} {
		w.addServer(number)
	}
}

// addServer makes a host that can serve by every method.
func (w *world) addServer(number int) {
	s := &server{RealServer: &lab.RealServer{Host: w.net.Host(fmt.Sprintf("s%d", number)), Addr: serverAddr(number)}}
	s.Connect(w.inside, s.Addr.String()+"/24")
	// Replies from a virtual address (DR, TUN) go straight to the router; those from the server's own
	// address (NAT) go back through the director, which has to put the virtual address into them.
	s.Route("default", routerIP)
	s.Run("ip", "rule", "add", "from", s.Addr.String(), "table", "100")
	s.Run("ip", "route", "add", "default", "via", directorIP, "table", "100")
	s.Run(w.poise, "realserver", "apply", "--mode", "dr", "--vip", vips[lab.DR], "--runtime-dir", filepath.Join(w.dir, s.Name))
	s.AcceptTunnel(vips[lab.TUN])
	s.web = s.ServeHTTP(":80")
	w.servers[s.Name] = s
}

// configure writes the configuration file for t.
func (w *world) configure(t table) {
	var b strings.Builder
	onStop := "remove"
	w.cause("restart", func() { onStop = "leave" })
	fmt.Fprintf(&b, "[global]\napi = %q\non_stop = %q\n", metricsAt, onStop)
	for _, m := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, `
[[service]]
name = %[1]q
listen = ["%[2]s:80"]
scheduler = "wrr"
forward = %[1]q
check = { type = "http", path = "/healthz", interval = "%[3]v", fall = 2 }
`, m, vips[m], checkInterval)
		for _, name := range slices.Sorted(maps.Keys(t[m])) {
			weight := 1
			w.cause("spread", func() { weight = t[m][name] })
			fmt.Fprintf(&b, "\n  [[service.server]]\n  address = %q\n  weight = %d\n", w.servers[name].Addr, weight)
		}
	}
	w.director.configure(b.String())
}

// tell gives poise a command about one server of a service.
func (w *world) tell(verb string, m lab.Method, server string, more ...string) {
	addr := netip.AddrPortFrom(w.servers[server].Addr, 80).String()
	w.director.tell(append([]string{verb, string(m), addr}, more...)...)
}

func (w *world) newVisitor(m lab.Method) *visitor { return newVisitor(w.client, clientIP, vips[m]) }

func (w *world) keepAsking(services ...lab.Method) (stop func() tally) {
	var addrs []string
	for _, m := range services {
		addrs = append(addrs, vips[m])
	}
	return keepAsking(w.client.HTTPClient(), clientIP, addrs...)
}
