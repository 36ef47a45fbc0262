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
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
	"poise/vrrp"
)

// duel is a pair with poise on one node and Debian's keepalived on the other.
type duel struct {
	*pair
	keepalived map[*node]bool // who runs it
	version    int
	interval   time.Duration
	vips       []string
	sources    map[*node]netip.Addr   // of adverts
	wires      map[*node]*lab.Capture // what each node sends and hears
}

// flavour is what the two nodes agree on.
type flavour struct {
	name     string
	version  int
	interval time.Duration
	vips     []string
	more     keys
	a, b     keys // of one node
}

var (
	version2         = flavour{name: "v2", version: 2, interval: time.Second, vips: []string{vip}}
	version2Password = flavour{name: "v2 password", version: 2, interval: time.Second, vips: []string{vip}, more: keys{"password": "1111"}}
	version3         = flavour{name: "v3", version: 3, interval: 100 * time.Millisecond, vips: []string{vip}}
	version3IPv6     = flavour{name: "v3 IPv6", version: 3, interval: 100 * time.Millisecond, vips: []string{"fe80::10", "2001:db8::10"}}
	version3Unicast  = flavour{
		name: "v3 unicast", version: 3, interval: 100 * time.Millisecond, vips: []string{vip},
		a: keys{"source": "192.0.2.1", "peers": []string{"192.0.2.2"}},
		b: keys{"source": "192.0.2.2", "peers": []string{"192.0.2.1"}},
	}
	version3IPv6Unicast = flavour{
		name: "v3 IPv6 unicast", version: 3, interval: 100 * time.Millisecond, vips: []string{"2001:db8::10"},
		a: keys{"source": "2001:db8::1", "peers": []string{"2001:db8::2"}},
		b: keys{"source": "2001:db8::2", "peers": []string{"2001:db8::1"}},
	}
)

// role is a flavour, and the program on node a, which has the higher priority; the other one is on b.
type role struct {
	flavour
	program string
}

// roles has each program play each role.
func roles(flavours ...flavour) (all []role) {
	for _, f := range flavours {
		all = append(all, role{f, "poise"}, role{f, "keepalived"})
	}
	return all
}

func (r role) String() string { return r.name + ", " + r.program + " better" }

func newDuel(t *testing.T, r role) *duel {
	t.Helper()
	if _, err := exec.LookPath("keepalived"); err != nil {
		lab.Lacks(t, "needs keepalived")
	}
	more := keys{"version": r.version, "advert_interval": r.interval.String(), "addresses": r.vips}
	maps.Copy(more, r.more)
	d := &duel{
		pair: newPair(t, more), version: r.version, interval: r.interval, vips: r.vips,
		sources: make(map[*node]netip.Addr), wires: make(map[*node]*lab.Capture),
	}
	d.keepalived = map[*node]bool{d.a: r.program == "keepalived", d.b: r.program == "poise"}
	maps.Copy(d.a.routers[0], r.a)
	maps.Copy(d.b.routers[0], r.b)
	for _, n := range []*node{d.a, d.b} {
		d.sources[n] = d.source(n)
		d.wires[n] = n.Capture("eth0")
	}
	return d
}

// source is where the node's adverts come from.
func (d *duel) source(n *node) netip.Addr {
	d.t.Helper()
	if source, ok := n.routers[0]["source"]; ok {
		return netip.MustParseAddr(source.(string))
	}
	if !netip.MustParseAddr(d.vips[0]).Is6() {
		return n.addr
	}
	all, err := addrs(n.Host)
	i := slices.IndexFunc(all, netip.Addr.IsLinkLocalUnicast)
	if err != nil || i < 0 {
		d.t.Fatalf("%s: no link-local address among %v (%v)", n.Name, all, err)
	}
	return all[i]
}

// run starts the node's program.
func (d *duel) run(n *node) {
	d.t.Helper()
	if d.keepalived[n] {
		d.runKeepalived(n, d.keepalivedConf(n))
	} else {
		n.start()
	}
}

func (d *duel) runKeepalived(n *node, conf string) {
	d.t.Helper()
	command := []string{
		"keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file", d.writeKeepalived(n, conf),
		"--pid", filepath.Join(n.dir, "keepalived.pid"), "--vrrp_pid", filepath.Join(n.dir, "vrrp.pid"),
	}
	// As poise's elector: else its lateness on a busy machine is what is measured. Asked for real time in its own words it
	// may die of a reload.
	if realtime := []string{"chrt", "--rr", "40"}; exec.Command(realtime[0], append(realtime[1:], "true")...).Run() == nil {
		command = append(realtime, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = d.t.Output(), d.t.Output()
	n.Process = n.Host.Start(cmd)
}

// writeKeepalived writes the node's configuration of keepalived, and returns the file.
func (d *duel) writeKeepalived(n *node, conf string) (file string) {
	d.t.Helper()
	file = filepath.Join(n.dir, "keepalived.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		d.t.Fatal(err)
	}
	return file
}

// keepalivedConf says in keepalived's words what the node's router says in ours.
func (d *duel) keepalivedConf(n *node) string {
	d.t.Helper()
	router := n.routers[0]
	var b strings.Builder
	block := func(name string, lines ...string) {
		fmt.Fprintf(&b, "%s {\n%s\n}\n", name, strings.Join(lines, "\n"))
	}
	fmt.Fprintf(&b, "vrrp_instance %v {\nstate BACKUP\n", router["name"])
	for key, value := range router {
		switch key {
		case "name":
		case "interface", "priority", "version":
			fmt.Fprintln(&b, key, value)
		case "vrid":
			fmt.Fprintln(&b, "virtual_router_id", value)
		case "advert_interval":
			fmt.Fprintln(&b, "advert_int", d.interval.Seconds())
		case "addresses":
			block("virtual_ipaddress", value.([]string)...)
		case "password":
			block("authentication", "auth_type PASS", fmt.Sprint("auth_pass ", value))
		case "peers":
			block("unicast_peer", value.([]string)...)
		case "source":
			fmt.Fprintln(&b, "unicast_src_ip", value)
		case "preempt":
			fmt.Fprintln(&b, "nopreempt")
		default:
			d.t.Fatalf("keepalived has no word for %s", key)
		}
	}
	return b.String() + "}\n"
}

// adverts are those that a node has sent since a time, releases included.
func (d *duel) adverts(n *node, since time.Time) []advert {
	return slices.DeleteFunc(adverts(d.wires[n], d.sources[n]), func(a advert) bool { return a.at.Before(since) })
}

// released waits until a node says that it leaves, and returns when it did first.
func (d *duel) released(n *node, since time.Time) time.Time {
	d.t.Helper()
	return d.first(n, since, "released the addresses", func(a advert) bool { return a.Priority == vrrp.PriorityRelease })
}

// took waits until a node says that it is master, and returns when it did first.
func (d *duel) took(n *node, since time.Time) time.Time {
	d.t.Helper()
	return d.first(n, since, "sent an advert", func(a advert) bool { return a.Priority != vrrp.PriorityRelease })
}

func (d *duel) first(n *node, since time.Time, what string, is func(advert) bool) (at time.Time) {
	d.t.Helper()
	lab.Eventually(d.t, patience, func() error {
		all := d.adverts(n, since)
		i := slices.IndexFunc(all, is)
		if i < 0 {
			return fmt.Errorf("%s has not %s", n.Name, what)
		}
		at = all[i].at
		return nil
	})
	return at
}

// serves waits until a node alone has the addresses.
func (d *duel) serves(n *node) {
	d.t.Helper()
	lab.Eventually(d.t, patience, func() error {
		for _, addr := range d.vips {
			if !n.has(addr) {
				return fmt.Errorf("%s has not %s", n.Name, addr)
			}
			if !n.other().off && n.other().has(addr) {
				return fmt.Errorf("%s has %s", n.other().Name, addr)
			}
		}
		return nil
	})
}

// lag is how late a node may act on a busy machine.
const lag = 100 * time.Millisecond

// within checks a time that was measured.
func within(t *testing.T, what string, got, least, most time.Duration) {
	t.Helper()
	// Captures stamp what is sent before, and what is received after it passed the wire; keepalived counts microseconds.
	if got < least-time.Millisecond || got > most {
		t.Errorf("%s: %v, want %v..%v", what, got, least, most)
	}
	t.Logf("%s: %v (%v..%v)", what, got.Round(10*time.Microsecond), least, most)
}

// quiet checks that a node sent no advert between two times.
func (d *duel) quiet(n *node, from, to time.Time) {
	d.t.Helper()
	for _, a := range d.adverts(n, from) {
		if a.at.Before(to) {
			d.t.Errorf("%s sent an advert of priority %d, %v after it became silent", n.Name, a.Priority, a.at.Sub(from))
		}
	}
}

func (d *duel) masterDown(n *node) time.Duration {
	return vrrp.MasterDown(d.version, d.interval, uint8(n.routers[0]["priority"].(int)))
}

func (d *duel) skew(n *node) time.Duration {
	return vrrp.Skew(d.version, d.interval, uint8(n.routers[0]["priority"].(int)))
}

// starting is how long a program may take from its start to the first look at the network.
const starting = 5 * time.Second

// comes starts a node that is alone, or better than the other, and returns when it took over.
func (d *duel) comes(n *node) time.Time {
	d.t.Helper()
	start := time.Now()
	d.run(n)
	at := d.took(n, start)
	within(d.t, n.Name+"'s start to its advert", at.Sub(start), d.masterDown(n), d.masterDown(n)+starting)
	d.serves(n)
	d.quiet(n.other(), at.Add(lag), time.Now())
	return at
}

// waits starts a node that must not take over, and sees that it does not.
func (d *duel) waits(n *node) {
	d.t.Helper()
	start := time.Now()
	d.run(n)
	time.Sleep(d.masterDown(n) + lag) // what is looked for is that nothing happens
	d.quiet(n, start, time.Now())
}

// together runs six tests at a time, and no others beside them. They wait most of it, so there may be more than processors.
func together[C fmt.Stringer](t *testing.T, cases []C, test func(*testing.T, C)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, 6)
	for _, c := range cases {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			t.Run(c.String(), func(t *testing.T) { test(t, c) })
		})
	}
	all.Wait()
}

// TestNetnsKeepalivedRoles has each program be the better node, in each flavour of the protocol: it preempts, leaves, comes back,
// is cut off from the other, and dies.
func TestNetnsKeepalivedRoles(t *testing.T) {
	together(t, roles(version2, version2Password, version3, version3IPv6, version3Unicast, version3IPv6Unicast), func(t *testing.T, r role) {
		d := newDuel(t, r)
		better, worse := d.a, d.b
		d.comes(worse)
		d.comes(better)
		d.leaves(better, worse)
		d.comes(better)
		d.heals(better, worse)
		d.dies(better, worse)
	})
}

// leaves stops the master as planned.
func (d *duel) leaves(better, worse *node) {
	d.t.Helper()
	addr := d.vips[len(d.vips)-1]
	begin := time.Now()
	client := d.probe(addr)
	lab.Eventually(d.t, patience, func() error {
		if asked, lost := d.pings(begin); asked == len(lost) {
			return fmt.Errorf("no answer from %s", addr)
		}
		return nil
	})
	start := time.Now()
	better.Signal(syscall.SIGTERM)
	released := d.released(better, start)
	took := d.took(worse, released)
	better.wantAddr(addr, false)
	gone := time.Now()
	if err := better.Wait(); err != nil {
		d.t.Errorf("%s stops: %v", better.Name, err)
	}
	d.serves(worse)
	client.stop()
	d.quiet(worse, start, released)
	d.quiet(better, took.Add(lag), time.Now())
	asked, lost := d.pings(begin)
	d.t.Logf("%d of %d pings lost", len(lost), asked)
	if d.keepalived[better] {
		within(d.t, "keepalived's release to our advert", took.Sub(released), d.skew(worse), d.skew(worse)+lag)
		return
	}
	// Each copy of the release has keepalived wait anew.
	again := min(5*time.Millisecond, d.interval/10)
	within(d.t, "our release to keepalived's advert", took.Sub(released), d.skew(worse), d.skew(worse)+again+lag)
	if copies := len(d.adverts(better, released)); copies != 2 {
		d.t.Errorf("%d adverts of poise from its release on, want two", copies)
	}
	within(d.t, "keepalived's advert to the end of our addresses", gone.Sub(took), 0, 500*time.Millisecond)
	// We serve until its advert. From there to its announcement the address is on its way.
	all := gratuitous(d.seen, addr)
	i := slices.IndexFunc(all, func(a arp) bool { return a.MAC == worse.mac && a.at.After(took) })
	if i < 0 {
		d.t.Fatalf("keepalived has not announced %s", addr)
	}
	d.t.Logf("keepalived announced %v after its advert", all[i].at.Sub(took))
	// A ping takes its time; and an IPv6 address is of use only when a worker of the kernel has had its turn.
	const before, after = 10 * time.Millisecond, 100 * time.Millisecond
	for _, at := range lost {
		if at.Before(took.Add(-before)) || at.After(all[i].at.Add(after)) {
			d.t.Errorf("a ping was lost %v after keepalived's advert, which was announced after %v", at.Sub(took), all[i].at.Sub(took))
		}
	}
}

// pings counts the pings that the client has sent since a time, and tells when those without an answer were.
func (d *duel) pings(since time.Time) (asked int, lost []time.Time) {
	answered := make(map[string]bool)
	type ping struct {
		at   time.Time
		data string
	}
	var all []ping
	for _, f := range d.seen.Frames() {
		var icmp []byte
		switch b := f.Data[14:]; {
		case f.Time.Before(since):
			continue
		case f.Data[12] == 0x08 && b[9] == unix.IPPROTO_ICMP:
			icmp = b[20:]
		case f.Data[12] == 0x86 && b[6] == unix.IPPROTO_ICMPV6:
			icmp = b[40:]
		default:
			continue
		}
		const head = 8 // type, code, checksum, identifier, sequence number
		switch icmp[0] {
		case 8, 128:
			all = append(all, ping{f.Time, string(icmp[head:])})
		case 0, 129:
			answered[string(icmp[head:])] = true
		}
	}
	for _, p := range all {
		if !answered[p.data] {
			lost = append(lost, p.at)
		}
	}
	return len(all), lost
}

// heals cuts the nodes off from each other until both are masters, and then no more.
func (d *duel) heals(better, worse *node) {
	d.t.Helper()
	d.partition(true)
	lab.Eventually(d.t, patience, func() error {
		for _, n := range []*node{better, worse} {
			if !n.has(d.vips[0]) {
				return fmt.Errorf("%s has not %s", n.Name, d.vips[0])
			}
		}
		return nil
	})
	stop := func() {}
	if d.vips[0] == vip {
		stop = d.askARP(vip)
	}
	slowest := d.slowness()
	// After our advert keepalived's is the first to be heard: so the better of us is told, and the worse has to tell.
	poise := better
	if d.keepalived[better] {
		poise = worse
	}
	d.took(poise, time.Now())
	begin := time.Now()
	d.partition(false)
	one := time.Now().Add(d.interval + 100*time.Millisecond)
	const look = 300 * time.Millisecond
	time.Sleep(time.Until(one.Add(look))) // what is looked for is that nothing happens
	slow := slowest()
	time.Sleep(slow)
	stop()
	d.serves(better)
	silent := one
	if d.keepalived[better] { // it may be late itself, and until it is heard we cannot know
		if heard := d.took(better, begin).Add(lag); heard.After(silent) {
			silent = heard
		}
	}
	d.quiet(worse, silent, time.Now())
	if d.vips[0] != vip {
		return
	}
	macs := make(map[string]int)
	for _, a := range answers(d.seen, vip) {
		if a.at.After(one.Add(slow)) {
			macs[a.MAC]++
		}
	}
	if len(macs) != 1 || macs[better.mac] == 0 {
		d.t.Errorf("answers from %v after the heal, want them from %s only (the kernel took %v for an address)", macs, better.mac, slow)
	}
	// Who was told that neighbours may believe another has the last word with them.
	told := len(d.adverts(worse, begin)) > 0
	if poise == worse && !told {
		d.t.Error("poise left without a word")
	}
	if all := gratuitous(d.seen, vip); told && all[len(all)-1].MAC != better.mac {
		d.t.Errorf("%s announced the address last, want %s", all[len(all)-1].MAC, better.mac)
	}
}

// slowness measures how long the kernel takes to change addresses until it is asked for the longest. There is one lock for that
// in all namespaces, which other tests hold while they make and remove theirs.
func (d *duel) slowness() (longest func() time.Duration) {
	end := make(chan struct{})
	var most time.Duration
	var prober sync.WaitGroup
	prober.Go(func() {
		for {
			start := time.Now()
			d.c.AddAddr("lo", "198.51.100.1/32")
			d.c.DelAddr("lo", "198.51.100.1/32")
			most = max(most, time.Since(start))
			select {
			case <-time.After(time.Millisecond):
			case <-end:
				return
			}
		}
	})
	stop := sync.OnceFunc(func() {
		close(end)
		prober.Wait()
	})
	d.t.Cleanup(stop)
	return func() time.Duration {
		stop()
		return most
	}
}

// dies has the master vanish.
func (d *duel) dies(better, worse *node) {
	d.t.Helper()
	start := time.Now()
	better.powerOff()
	took := d.took(worse, start)
	last := d.adverts(better, time.Time{})
	within(d.t, "last advert of the dead to that of the worse", took.Sub(last[len(last)-1].at), d.masterDown(worse), d.masterDown(worse)+lag)
	d.serves(worse)
}

// TestNetnsKeepalivedEqual has two nodes of one priority. Whoever is master stays it, but of two masters the one with the
// higher address does.
func TestNetnsKeepalivedEqual(t *testing.T) {
	together(t, roles(version3, version3IPv6Unicast), func(t *testing.T, r role) {
		d := newDuel(t, r)
		d.a.routers[0]["priority"] = d.b.routers[0]["priority"]
		lower, higher := d.a, d.b
		d.comes(lower)
		d.waits(higher)
		d.heals(higher, lower)
	})
}

// TestNetnsKeepalivedNoPreempt has a better node that leaves a living master alone.
func TestNetnsKeepalivedNoPreempt(t *testing.T) {
	together(t, roles(version3), func(t *testing.T, r role) {
		d := newDuel(t, r)
		d.a.routers[0]["preempt"] = false
		d.comes(d.b)
		d.waits(d.a)
		d.leaves(d.b, d.a)
		d.waits(d.b)
		d.leaves(d.a, d.b)
		d.waits(d.a)
		// Two masters are something else: now the better one asserts itself.
		d.heals(d.a, d.b)
		d.dies(d.a, d.b)
	})
}

// TestNetnsKeepalivedOtherAddresses has nodes that disagree on the addresses: for that keepalived before 2.3.3 rejects our adverts.
func TestNetnsKeepalivedOtherAddresses(t *testing.T) {
	const only = "192.0.2.11" // poise has
	together(t, roles(version3), func(t *testing.T, r role) {
		d := newDuel(t, r)
		poise, keepalived := d.a, d.b
		if d.keepalived[d.a] {
			poise, keepalived = d.b, d.a
		}
		poise.routers[0]["addresses"] = []string{vip, only}
		d.comes(d.a)
		start := time.Now()
		d.run(d.b)
		if poise == d.a {
			// Each believes that it is alone, or better.
			d.took(keepalived, start)
			lab.Eventually(t, patience, func() error {
				if !poise.has(vip) || !keepalived.has(vip) {
					return errors.New("one of two masters has no address")
				}
				return nil
			})
		} else {
			time.Sleep(d.masterDown(poise) + lag) // what is looked for is that nothing happens
			d.quiet(poise, start, time.Now())
		}
		says := func(words string, want bool) {
			t.Helper()
			lab.Eventually(t, patience, func() error {
				if text := poise.must("status"); strings.Contains(text, words) != want {
					return fmt.Errorf("%q in the status: want %v:\n%s", words, want, text)
				}
				return nil
			})
		}
		says("! router public: "+keepalived.addr.String(), true)
		says("lacks ["+only+"]: keepalived before 2.3.3 rejects our adverts for that, and may be master too", true)
		poise.routers[0]["addresses"] = []string{vip}
		poise.reload()
		d.serves(d.a)
		says("!", false)
		d.leaves(d.a, d.b)
	})
}

// TestNetnsKeepalivedJunk has a stranger send adverts of the router's number that neither program accepts. Each has keepalived
// start its beat anew, so that it sends none; ours is not moved.
func TestNetnsKeepalivedJunk(t *testing.T) {
	const ttl = 255
	stranger := netip.MustParseAddr("192.0.2.3")
	build := func(a vrrp.Advert) []byte { return a.Append(nil, stranger, vrrp.GroupIPv4, vrrp.PseudoHeader) }
	type junk struct {
		name    string
		version int // of the router
		ttl     int
		message func(vrrp.Advert) []byte
	}
	all := []junk{
		{"another version", 3, ttl, func(a vrrp.Advert) []byte { a.Version = 2; return build(a) }},
		{"another type", 3, ttl, func(a vrrp.Advert) []byte { b := build(a); b[0]++; return b }},
		{"a wrong checksum", 3, ttl, func(a vrrp.Advert) []byte { b := build(a); b[6]++; return b }},
		{"too long", 3, ttl, func(a vrrp.Advert) []byte { return append(build(a), 0, 0, 0, 0) }},
		{"from afar", 3, ttl - 1, build},
		{"another password", 2, ttl, func(a vrrp.Advert) []byte { a.AuthData[0]++; return build(a) }},
	}
	together(t, roles(version3, version2Password), func(t *testing.T, r role) {
		d := newDuel(t, r)
		config := vrrp.Config{VRID: 51, Version: r.version, Interval: r.interval, Addresses: []netip.Addr{netip.MustParseAddr(vip)}}
		if r.version == 2 {
			config.Password = "1111"
		}
		d.comes(d.a)
		for _, junk := range all {
			if junk.version != r.version {
				continue
			}
			for _, rate := range []int{2, 10} {
				what := fmt.Sprintf("adverts %s, %d times the rate", junk.name, rate)
				shout := func() (begin, end time.Time) {
					begin = time.Now()
					d.shout(junk.message(config.Advert(1)), junk.ttl, rate*5, d.interval/time.Duration(rate))
					return begin, time.Now()
				}
				if d.keepalived[d.a] {
					begin, end := shout()
					d.silenced(what, begin, end)
					continue
				}
				for attempt := 1; ; attempt++ {
					begin, end := shout()
					d.took(d.a, end)
					gap := d.gap(begin)
					if gap <= d.interval+20*time.Millisecond {
						break
					}
					if attempt == 3 { // a busy machine is late now and then; junk would make us late each time
						t.Errorf("%s: ours had a gap of %v", what, gap)
						break
					}
				}
			}
		}
		if d.keepalived[d.a] {
			return
		}
		dropped := d.a.router("public").Dropped
		if r.version == 3 && len(dropped) != len(all)-1 || r.version == 2 && dropped[vrrp.DropAuth] == 0 {
			t.Errorf("dropped %v: not all of the junk arrived, or it was dropped for other reasons", dropped)
		}
	})
}

// gap is the longest between the master's adverts since begin.
func (d *duel) gap(begin time.Time) (longest time.Duration) {
	last := begin
	for _, a := range d.adverts(d.a, begin) {
		longest = max(longest, a.at.Sub(last))
		last = a.at
	}
	return longest
}

// silenced checks that the master sent an advert only where it had heard nothing for an interval, which a busy machine makes
// happen. It is about keepalived: why we are different.
func (d *duel) silenced(what string, begin, end time.Time) {
	var heard time.Time
	for _, f := range d.wires[d.a].Frames() {
		p, ok := vrrpPacket(f.Data)
		switch {
		case !ok || f.Time.Before(begin) || f.Time.After(end):
		case p.Src != d.sources[d.a]:
			heard = f.Time
		case !heard.IsZero() && f.Time.Sub(heard) < d.interval-time.Millisecond:
			d.t.Errorf("%s: keepalived sent an advert %v after it heard one", what, f.Time.Sub(heard))
		}
	}
	if heard.IsZero() {
		d.t.Errorf("%s: keepalived heard none", what)
	}
}

// shout has the client send a message to the group again and again.
func (d *duel) shout(message []byte, ttl, count int, every time.Duration) {
	d.t.Helper()
	err := d.c.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, vrrp.Protocol)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl); err != nil {
			return err
		}
		if err := unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, [4]byte{192, 0, 2, 3}); err != nil {
			return err
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for range count {
			if err := unix.Sendto(fd, message, 0, &unix.SockaddrInet4{Addr: vrrp.GroupIPv4.As4()}); err != nil {
				return err
			}
			<-tick.C
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// TestNetnsKeepalivedReplaced replaces a pair of keepalived, one node at a time, as docs/keepalived.md tells; meanwhile the client
// asks who has the address.
func TestNetnsKeepalivedReplaced(t *testing.T) {
	together(t, []role{{version2Password, "keepalived"}, {version3, "keepalived"}}, func(t *testing.T, r role) {
		d := newDuel(t, r)
		d.keepalived[d.b] = true
		d.comes(d.a)
		d.waits(d.b)
		defer d.askARP(vip)()
		step := func(what string, master *node, do func(start time.Time)) {
			slowest := d.slowness()
			start := time.Now()
			do(start)
			d.serves(master)
			outage, double := d.answered(start)
			most := 100*time.Millisecond + slowest() // an asker that is late is part of it
			t.Logf("%s: %v without an answer, %v with two; of %v", what, outage, double, most)
			if outage > most || double > most {
				t.Errorf("%s: %v without an answer, %v with two; want at most %v", what, outage, double, most)
			}
		}
		step("keepalived stops on the backup", d.a, func(time.Time) {
			d.b.stop()
		})
		step("poise starts on the backup", d.a, func(time.Time) {
			d.keepalived[d.b] = false
			d.waits(d.b)
			if s := d.b.router("public"); s.State != vrrp.Backup || s.Master != d.a.addr || s.MasterPriority != 150 || s.Dropped != nil {
				t.Errorf("status %+v, want a backup of %v with priority 150 that dropped nothing", s, d.a.addr)
			}
		})
		step("keepalived is told a lower priority", d.b, func(start time.Time) {
			d.a.routers[0]["priority"] = 50
			d.writeKeepalived(d.a, d.keepalivedConf(d.a))
			d.a.Signal(syscall.SIGHUP)
			d.took(d.b, start)
		})
		step("poise hands over to keepalived", d.a, func(start time.Time) {
			d.b.must("failover", "public")
			d.took(d.a, start)
		})
		step("poise takes part again", d.b, func(start time.Time) {
			d.b.must("failover", "public", "--undo")
			d.took(d.b, start)
		})
		step("keepalived stops on the other node", d.b, func(time.Time) {
			d.a.stop()
		})
		step("poise starts there", d.a, func(time.Time) {
			d.keepalived[d.a] = false
			d.a.routers[0]["priority"] = 150
			d.comes(d.a)
		})
		step("poise hands over to poise", d.b, func(start time.Time) {
			d.a.must("failover", "public")
			d.took(d.b, start)
		})
		step("and back", d.a, func(start time.Time) {
			d.a.must("failover", "public", "--undo")
			d.took(d.a, start)
		})
	})
}

// answered tells how long questions about the VIP had no answer, and how long they had those of both nodes, at the longest.
func (d *duel) answered(since time.Time) (outage, double time.Duration) {
	d.t.Helper()
	time.Sleep(200 * time.Millisecond) // for a few questions more
	type question struct {
		at   time.Time
		macs map[string]bool // of the answers
	}
	var all []question
	for _, a := range arps(d.seen, func(a arp) bool { return a.at.After(since) && !a.Gratuitous && a.Addr == netip.MustParseAddr(vip) }) {
		switch {
		case !a.Reply:
			all = append(all, question{a.at, make(map[string]bool)})
		case len(all) > 0:
			all[len(all)-1].macs[a.MAC] = true
		}
	}
	if len(all) < 2 {
		d.t.Fatalf("only %d questions in %v", len(all), time.Since(since))
	}
	all = all[:len(all)-1] // the last may have its answer yet to come
	longest := func(bad func(answers int) bool) (longest time.Duration) {
		var begin time.Time
		for _, q := range all {
			switch {
			case begin.IsZero() && bad(len(q.macs)):
				begin = q.at
			case !begin.IsZero():
				longest = max(longest, q.at.Sub(begin))
				if !bad(len(q.macs)) {
					begin = time.Time{}
				}
			}
		}
		return longest
	}
	return longest(func(n int) bool { return n == 0 }), longest(func(n int) bool { return n > 1 })
}

// TestNetnsKeepalivedFirstLook has poise held from its start on, beside a keepalived that it does not understand: it says
// what is the matter, and takes nothing.
func TestNetnsKeepalivedFirstLook(t *testing.T) {
	looks := []firstLook{
		{"right", nil, "last heard 192.0.2.1, priority 150"},
		{"version", keys{"version": 3, "password": nil}, "adverts of version 2 instead of 3"},
		{"password", keys{"password": "2222"}, "adverts with another password"},
		{"no password", keys{"password": nil}, "adverts with authentication type 1 instead of 0"},
		{"interval", keys{"advert_interval": "2s"}, "adverts with interval 1s instead of 2s"},
		{"peers", keys{"peers": []string{"192.0.2.1"}}, "no other node was heard"},
		{"addresses", keys{"addresses": []string{vip, "192.0.2.11"}}, "lacks [192.0.2.11]"},
		{"vrid", keys{"vrid": 52}, "adverts of [192.0.2.10] with VRID 51 instead of 52"},
	}
	together(t, looks, func(t *testing.T, l firstLook) {
		d := newDuel(t, role{version2Password, "keepalived"})
		d.comes(d.a)
		maps.Copy(d.b.routers[0], l.wrong)
		maps.DeleteFunc(d.b.routers[0], func(_ string, value any) bool { return value == nil })
		start := time.Now()
		d.run(d.b)
		d.b.must("failover", "public", "--reason", "first look")
		time.Sleep(d.masterDown(d.b) + lag) // what is looked for is that nothing happens
		d.quiet(d.b, start, time.Now())
		d.serves(d.a)
		if text := d.b.must("status"); !strings.Contains(text, l.want) {
			t.Errorf("status without %q:\n%s", l.want, text)
		}
	})
}

type firstLook struct {
	name  string
	wrong keys
	want  string // in status
}

func (l firstLook) String() string { return l.name }

// TestNetnsKeepalivedPage has the two files of docs/keepalived.md agree.
func TestNetnsKeepalivedPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/keepalived.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) string {
		_, rest, _ := strings.Cut(string(text), "\n```"+kind+"\n")
		block, _, ok := strings.Cut(rest, "```\n")
		if !ok {
			t.Fatalf("docs/keepalived.md has no block %q", kind)
		}
		return block
	}
	d := newDuel(t, role{version2Password, "keepalived"})
	start := time.Now()
	d.runKeepalived(d.a, block("text"))
	d.took(d.a, start)
	d.serves(d.a)
	start = time.Now()
	d.b.write(block("toml"))
	d.b.daemon.start()
	time.Sleep(d.masterDown(d.b) + lag) // what is looked for is that nothing happens
	d.quiet(d.b, start, time.Now())
	status := d.b.must("status")
	if !strings.Contains(status, "master 192.0.2.1, priority 150") || strings.Contains(status, "!") {
		t.Errorf("status of poise beside keepalived:\n%s", status)
	}
}
