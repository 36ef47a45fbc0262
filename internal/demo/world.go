package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// world is the network, the programs on it, and what the story has made of them so far.
type world struct {
	screen
	poise    string // the binary
	sabotage string // the step whose cause is left out

	dir              string // of all files
	net              *lab.Network
	inside           *lab.Switch
	client, director *lab.Host
	servers          map[string]*server
	want             table // what the kernel must hold
	daemon           *lab.Process
	log              *os.File // the daemon's
}

// server is a host with a web server on port 80 of all its addresses.
type server struct {
	*lab.RealServer
	web *lab.Server
}

// build makes the network and its servers; poise does not run yet.
func (w *world) build() {
	var err error
	w.dir, err = os.MkdirTemp("", "poise-demo-")
	must(err)
	w.log, err = os.Create(filepath.Join(w.dir, "log"))
	must(err)
	w.net = lab.NewNetwork()
	outside := w.net.Switch("outside")
	w.inside = w.net.Switch("inside")

	w.client = w.net.Host("client")
	w.client.Connect(outside, clientIP+"/24")
	w.client.Route("default", "203.0.113.1")

	router := w.net.Host("router")
	router.Connect(outside, "203.0.113.1/24")
	router.Connect(w.inside, routerIP+"/24")
	router.Sysctl("net/ipv4/ip_forward", "1")

	w.director = w.net.Host("director")
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

// cause lets happen what a step is about, unless that is sabotaged.
func (w *world) cause(step string, happen func()) {
	if w.sabotage != step {
		happen()
	}
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
	must(os.WriteFile(w.configFile(), []byte(b.String()), 0o644))
}

func (w *world) configFile() string { return filepath.Join(w.dir, "poise.toml") }
func (w *world) runtimeDir() string { return filepath.Join(w.dir, "run") }

// startPoise starts the daemon, as a user would.
func (w *world) startPoise() {
	cmd := exec.Command(w.poise, "run", "-c", w.configFile(), "--runtime-dir", w.runtimeDir())
	cmd.Stdout, cmd.Stderr = w.log, w.log
	w.daemon = w.director.Start(cmd)
}

// stopPoise ends the daemon, as systemctl stop would.
func (w *world) stopPoise() {
	must(w.daemon.Signal(syscall.SIGTERM))
	select {
	case <-w.daemon.Done():
		must(w.daemon.Wait())
	case <-time.After(limit):
		must(&mismatch{fmt.Sprintf("poise to end within %v of SIGTERM", limit), "it still runs"})
	}
}

// tell gives poise a command about one server of a service.
func (w *world) tell(verb string, m lab.Method, server string, more ...string) {
	addr := netip.AddrPortFrom(w.servers[server].Addr, 80).String()
	w.director.Run(w.poise, append([]string{verb, string(m), addr, "--runtime-dir", w.runtimeDir()}, more...)...)
}

// lastWords is the end of the daemon's log.
func (w *world) lastWords() string {
	const lines = 12
	text, err := os.ReadFile(w.log.Name())
	if err != nil {
		return err.Error()
	}
	all := slices.Collect(strings.Lines(string(text)))
	return strings.Join(all[max(0, len(all)-lines):], "")
}

func (w *world) close() error {
	var errs []error
	if w.net != nil {
		errs = append(errs, w.net.Close())
	}
	if w.log != nil {
		errs = append(errs, w.log.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
