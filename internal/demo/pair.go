package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/mdlayher/arp"
	"github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

// What examples/pair.toml says of the network.
const (
	pairVIP    = "192.0.2.10"
	pairRouter = "public"
	lb1Prio    = 150
	lb2Prio    = 100

	pairClientIP = "192.0.2.100"
	witnessIP    = "192.0.2.101"

	// advertInterval, and what follows from it for a backup of priority 100 and one of 150 (RFC 9568 section 6.1).
	advertInterval = time.Second
	skew2          = (256 - lb2Prio) * advertInterval / 256
	down2          = 3*advertInterval + skew2
	down1          = 3*advertInterval + (256-lb1Prio)*advertInterval/256
)

// pair is the second act's network: two directors, and a witness who only hears what the switch sends to all.
type pair struct {
	stage

	lb1, lb2 *director
	witness  *lab.Host
	wire     *lab.Capture // the witness's
	names    map[string]string
}

func (w *pair) introduce() {
	fmt.Fprintf(w, `
%s: lb1 dies, and the address lives on

               ┌── lb1  192.0.2.1, priority %d ┐ both run examples/pair.toml
               ├── lb2  192.0.2.2, priority %d ┘ and have one address, %s
  client ──────┤
  %s  ├── s1   192.0.2.21
               └── s2   192.0.2.22  dr: servers have that address too and reply directly
`, w.bold("A pair"), lb1Prio, lb2Prio, pairVIP, pairClientIP)
}

// build makes the network and its servers.
func (w *pair) build() {
	w.begin()
	w.names = map[string]string{}
	inside := w.net.Switch("inside")
	connect := func(h *lab.Host, addr string) {
		w.names[mac(h, h.Connect(inside, addr+"/24"))] = h.Name
	}
	w.lb1, w.lb2 = w.newDirector("lb1"), w.newDirector("lb2")
	connect(w.lb1.Host, "192.0.2.1")
	connect(w.lb2.Host, "192.0.2.2")
	one, two := w.examples()
	w.lb1.configure(one)
	w.lb2.configure(two)
	for _, server := range []struct{ name, addr string }{{"s1", "192.0.2.21"}, {"s2", "192.0.2.22"}} {
		s := w.net.Host(server.name)
		connect(s, server.addr)
		s.Run(w.poise, "realserver", "apply", "--mode", "dr", "--vip", pairVIP, "--runtime-dir", filepath.Join(w.dir, s.Name))
		s.ServeHTTP(":80")
	}
	w.client = w.net.Host("client")
	connect(w.client, pairClientIP)
	w.witness = w.net.Host("witness")
	connect(w.witness, witnessIP)
	w.wire = w.witness.Capture("eth0")
}

// examples are the files of both directors: the example, and what its comments make of it for the other.
func (w *pair) examples() (one, two string) {
	text, err := os.ReadFile(w.example)
	must(err)
	differs := regexp.MustCompile(`(?m)= \S+( +# on the other: )(\S+)$`)
	one, two = string(text), differs.ReplaceAllString(string(text), "= $2$1")
	if n := len(differs.FindAllString(one, -1)); n != 2 {
		must(&mismatch{w.example + " to say what differs on the other: node and priority", fmt.Sprintf("%d such lines", n)})
	}
	return one, two
}

func mac(h *lab.Host, link string) (addr string) {
	must(h.Do(func() error {
		l, err := net.InterfaceByName(link)
		if err == nil {
			addr = l.HardwareAddr.String()
		}
		return err
	}))
	return addr
}

// seen is what the wire has said since a time.
func (w *pair) seen(since time.Time) sightings {
	return look(w.wire.Frames(), netip.MustParseAddr(pairVIP), w.names).since(since)
}

// await polls the wire for the first frame of a kind by a host since a time.
func (w *pair) await(k kind, host string, since time.Time) sighting {
	for ; ; time.Sleep(10 * time.Millisecond) {
		if found := w.seen(since).of(k).by(host); len(found) > 0 {
			return found[0]
		}
		if time.Since(since) > limit {
			must(&mismatch{fmt.Sprintf("%s of %s within %v", k, host, limit), "none"})
		}
	}
}

// tableTimes are moments in the making of a director's table.
type tableTimes struct {
	empty time.Time // the last time that the kernel was seen without one
	whole time.Time // the first time that it balanced over both servers
}

// awaitTable polls the kernel of a director that is starting until its table is whole.
func (w *pair) awaitTable(d *director, since time.Time) (t tableTimes) {
	const want = "192.0.2.10:80 [192.0.2.21:80 dr 1] [192.0.2.22:80 dr 1]"
	for t.empty = since; ; time.Sleep(10 * time.Millisecond) {
		before := time.Now()
		have := ""
		for _, s := range d.IPVS() {
			have += s.Addr.String()
			for _, to := range s.Destinations {
				have += fmt.Sprintf(" [%v %s %d]", to.Addr, to.Method, to.Weight)
			}
		}
		switch t.whole = time.Now(); {
		case have == want:
			return t
		case have == "":
			t.empty = before
		}
		if t.whole.Sub(since) > limit {
			must(&mismatch{fmt.Sprintf("in the kernel of %s within %v: %s", d.Name, limit, want), have})
		}
	}
}

// heldBy judges that one host has the virtual address: of the directors' kernels its own alone, and it alone answers
// the question who does.
func (w *pair) heldBy(host string) {
	const grace = 200 * time.Millisecond // what a second answer may come later than the first
	// The former holder lets go when it hears the new one: for a moment both may have it.
	begin := time.Now()
	for !slices.Equal(w.holders(), turns{host}) {
		if time.Since(begin) > late() {
			must(&mismatch{fmt.Sprintf("%s on the interface of %s alone", pairVIP, host), w.holders().String()})
		}
	}
	begin = time.Now()
	w.whoHas()
	for len(w.seen(begin).of(answer)) == 0 && time.Since(begin) < limit {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(grace)
	if answers := w.seen(begin).of(answer).hosts(); !slices.Equal(answers, turns{host}) {
		must(&mismatch{fmt.Sprintf("who has %s? answered by %s alone", pairVIP, host), answers.String()})
	}
}

// holders are the directors whose kernel has the virtual address where it belongs.
func (w *pair) holders() (all turns) {
	for _, d := range w.directors {
		if d.has(pairVIP) {
			all = append(all, d.Name)
		}
	}
	return all
}

// whoHas has the witness ask everybody who has the virtual address.
func (w *pair) whoHas() {
	must(w.witness.Do(func() error {
		l, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, err := arp.Dial(l)
		if err != nil {
			return err
		}
		return errors.Join(c.Request(netip.MustParseAddr(pairVIP)), c.Close())
	}))
}

// keepByHand has a director answer for the virtual address, whatever poise does.
func (d *director) keepByHand(vip string) { d.AddAddr("lo", vip+"/32") }

// has tells whether the kernel has addr on eth0.
func (d *director) has(addr string) (found bool) {
	must(d.Do(func() error {
		l, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := l.Addrs()
		for _, a := range addrs {
			found = found || a.(*net.IPNet).IP.String() == addr
		}
		return err
	}))
	return found
}

// kill ends all processes on the host at once.
func (d *director) kill() {
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		pids := d.processes()
		if len(pids) == 0 {
			return
		}
		if time.Since(begin) > limit {
			must(&mismatch{"no process on " + d.Name, fmt.Sprint(pids)})
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // fails only for one that has ended
		}
	}
}

// processes are those in the host's namespace. This program is none of them, even if its first thread, by which the
// kernel tells its namespace, was the one to enter the host and had to stay.
func (d *director) processes() (pids []int) {
	own, err := os.Stat(d.namespace())
	must(err)
	entries, err := os.ReadDir("/proc")
	must(err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// An error is that of a process which has ended.
		if ns, err := os.Stat(filepath.Join("/proc", e.Name(), "ns/net")); err == nil && os.SameFile(own, ns) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (d *director) namespace() string { return filepath.Join("/run/netns", d.Namespace) }

// forget makes the host's kernel and files what they are on a machine that was without power.
func (d *director) forget() {
	kernel, err := ipvs.New(d.namespace())
	must(err)
	defer kernel.Close()
	must(kernel.Flush())
	if d.has(pairVIP) {
		d.DelAddr("eth0", pairVIP+"/32")
	}
	must(os.RemoveAll(d.runtimeDir()))
}
