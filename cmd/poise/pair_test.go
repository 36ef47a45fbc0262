package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"poise/internal/lab"
	"poise/internal/status"
	"poise/vrrp"
)

// The harness for pairs of directors:
//
//	a  192.0.2.1  priority 150 ┐
//	b  192.0.2.2  priority 100 ┼ switch ── c  192.0.2.3, the client
//
//	p := newPair(t, keys{"advert_interval": "100ms"})
//	p.a.start()
//	p.b.start()
//	p.wantMaster(p.a)
//	p.a.powerOff()
//	p.wantMaster(p.b)
//	adverts(p.seen, p.b.addr)[0].at  // what the client's kernel saw, and when
//
// A node is a host that may run a daemon; what keys its router has is up to the test until it starts. A node
// without a daemon may run something else.

// vip is the virtual address that the routers of newPair have.
const vip = "192.0.2.10"

// keys are what [[router]] says: a name and a value that JSON writes as TOML does.
type keys map[string]any

// pair is two directors and a client on one switch.
type pair struct {
	*lab.Network
	t    *testing.T
	vip  string // what the client wants, the last of the routers' addresses
	a, b *node
	c    *lab.Host
	seen *lab.Capture // by c
	sw   *lab.Switch
}

// node is a director.
type node struct {
	*daemon
	*lab.Host
	pair    *pair
	addr    netip.Addr
	mac     string
	port    int    // of the switch
	off     bool   // powerOff
	routers []keys // of its configuration
	more    string // of its configuration
}

// newPair builds the network, with a configuration of one router for each node. more is for both.
func newPair(t *testing.T, more keys) *pair {
	t.Helper()
	lab.NeedRoot(t)
	n := lab.New(t)
	p := &pair{Network: n, t: t, vip: vip, sw: n.Switch("switch")}
	if all, ok := more["addresses"].([]string); ok {
		p.vip = all[len(all)-1]
	}
	p.a = p.newNode("a", "192.0.2.1", 150, more)
	p.b = p.newNode("b", "192.0.2.2", 100, more)
	p.c = n.Host("c")
	p.c.Connect(p.sw, "192.0.2.3/24", "2001:db8::3/64")
	// Its ports open a while after they are plugged in.
	for _, n := range []*node{p.a, p.b} {
		lab.Eventually(t, patience, func() error { return p.c.Start(exec.Command("ping", "-c1", "-W1", n.addr.String())).Wait() })
	}
	p.seen = p.c.Capture("eth0")
	return p
}

func (p *pair) newNode(name, addr string, priority int, more keys) *node {
	p.t.Helper()
	n := &node{pair: p, Host: p.Host(name), addr: netip.MustParseAddr(addr), port: int(name[0] - 'a')}
	n.Connect(p.sw, addr+"/24", fmt.Sprintf("2001:db8::%d/64", n.port+1))
	err := n.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			n.mac = link.HardwareAddr.String()
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	dir := p.t.TempDir()
	n.daemon = &daemon{t: p.t, host: n.Host, dir: dir, file: filepath.Join(dir, "poise.toml")}
	router := keys{"name": "public", "interface": "eth0", "vrid": 51, "priority": priority, "addresses": []string{vip}}
	maps.Copy(router, more)
	n.routers = []keys{router}
	p.t.Cleanup(n.killAll) // before the network ends: an elector that loses its daemon first would hand over
	return n
}

// config is the node's configuration file.
func (n *node) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[global]\nnode = %q\napi = \"127.0.0.1:9650\"\n", n.Name)
	for _, router := range n.routers {
		b.WriteString("[[router]]\n")
		for _, key := range slices.Sorted(maps.Keys(router)) {
			value, err := json.Marshal(router[key])
			if err != nil {
				n.t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s = %s\n", key, value)
		}
	}
	return b.String() + n.more
}

// start writes the configuration and starts the daemon.
func (n *node) start() {
	n.t.Helper()
	n.write(n.config())
	n.daemon.start()
}

// reload has the daemon take the configuration, which must be a good one.
func (n *node) reload() {
	n.t.Helper()
	n.daemon.reload(n.config())
	if s := n.status(); s.Config.Rejected != "" {
		n.t.Fatalf("reload: %s", s.Config.Rejected)
	}
}

// router is what the daemon says of a router. It may have nothing to say while an elector starts.
func (n *node) router(name string) (r status.Router) {
	n.t.Helper()
	lab.Eventually(n.t, patience, func() error {
		routers := n.status().Routers
		i := slices.IndexFunc(routers, func(r status.Router) bool { return r.Name == name })
		if i < 0 {
			return fmt.Errorf("%s has no router %q: %+v", n.Name, name, routers)
		}
		r = routers[i]
		return nil
	})
	return r
}

// wantRouter waits until the daemon says so of the router "public".
func (n *node) wantRouter(what string, is func(status.Router) bool) {
	n.t.Helper()
	lab.Eventually(n.t, patience, func() error {
		if r := n.router("public"); !is(r) {
			return fmt.Errorf("%s: want %s: %s", n.Name, what, r.Line())
		}
		return nil
	})
}

// addrs are the addresses that the kernel of a host has on eth0; none when there is no eth0.
func addrs(h *lab.Host) (all []netip.Addr, err error) {
	err = h.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
			return nil
		}
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		for _, a := range list {
			addr, _ := netip.AddrFromSlice(a.IP)
			all = append(all, addr.Unmap())
		}
		return err
	})
	return all, err
}

// has tells whether the node's kernel has an address.
func (n *node) has(addr string) bool {
	n.t.Helper()
	all, err := addrs(n.Host)
	if err != nil {
		n.t.Fatal(err)
	}
	return slices.Contains(all, netip.MustParseAddr(addr))
}

// wantAddr waits until the node's kernel has an address, or has it no more. How long that took is for the capture to say.
func (n *node) wantAddr(addr string, want bool) {
	n.t.Helper()
	lab.Eventually(n.t, patience, func() error {
		if n.has(addr) != want {
			return fmt.Errorf("%s has %s: %v", n.Name, addr, !want)
		}
		return nil
	})
}

// wantMaster waits until m has the VIP and the other node, if it is on, has not.
func (p *pair) wantMaster(m *node) {
	p.t.Helper()
	m.wantAddr(p.vip, true)
	if !m.other().off {
		m.other().wantAddr(p.vip, false)
	}
}

func (n *node) other() *node {
	if n == n.pair.a {
		return n.pair.b
	}
	return n.pair.a
}

// plug puts the node's port of the switch up or down.
func (n *node) plug(in bool) { n.pair.sw.SetPort(n.port, in) }

// partition keeps the nodes from hearing each other, or ends that. The client hears both.
func (p *pair) partition(on bool) {
	p.sw.Isolate(p.a.port, on)
	p.sw.Isolate(p.b.port, on)
}

// promptly runs f, and returns when it began: nothing else runs in between, where that is permitted.
func promptly(f func()) (begin time.Time) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 40}, 0)
		begin = time.Now()
		f()
	}()
	<-done
	return begin
}

// lastEvent is the latest event that begins like this.
func (n *node) lastEvent(what string) (last status.Event) {
	n.t.Helper()
	for line := range strings.Lines(n.must("events", "--json")) {
		var e status.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			n.t.Fatalf("%s: %v", line, err)
		}
		if strings.HasPrefix(e.What, what) {
			last = e
		}
	}
	return last
}

// child waits for the daemon's child of this name, "poise-elector" or "poise-balancer", and returns its pid.
func (n *node) child(name string) (pid int) {
	n.t.Helper()
	lab.Eventually(n.t, patience, func() error {
		for _, pid = range children(n.Pid()) {
			if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(comm) == name+"\n" {
				return nil
			}
		}
		return fmt.Errorf("%s: the daemon has no child %s", n.Name, name)
	})
	return pid
}

func (n *node) elector() int { n.t.Helper(); return n.child("poise-elector") }

// children are the processes that a process has started.
func children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is good
	for _, list := range lists {
		data, _ := os.ReadFile(list) // the thread may have ended
		for _, field := range strings.Fields(string(data)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// freeze stops all of the daemon's processes and returns them.
func (n *node) freeze() []int {
	if n.Process == nil {
		return nil // never started
	}
	select {
	case <-n.Done():
		return nil
	default:
	}
	pids := []int{n.Pid()}
	for i := 0; i < len(pids); i++ {
		syscall.Kill(pids[i], syscall.SIGSTOP) // its end is seen below
		pids = append(pids, children(pids[i])...)
	}
	return pids
}

// killAll ends all of the daemon's processes at once and waits for that.
func (n *node) killAll() {
	if pids := n.freeze(); pids != nil {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		<-n.Done()
	}
}

// powerOff has the node vanish from the network and ends what runs there. What its kernel still has is of no interest.
func (n *node) powerOff() {
	n.off = true
	n.freeze()
	n.plug(false)
	n.SetLink("eth0", false)
	n.killAll()
}

// advert is a VRRP advert on the wire.
type advert struct {
	at       time.Time
	from, to netip.Addr
	ttl      int
	vrrp.Advert
}

// adverts are the VRRP adverts that were captured, of one source or, if that is invalid, all. What nobody could decode
// is not among them.
func adverts(c *lab.Capture, from netip.Addr) (all []advert) {
	for _, f := range c.Frames() {
		p, ok := vrrpPacket(f.Data)
		if !ok || from.IsValid() && p.Src != from {
			continue
		}
		if a, _, err := vrrp.Decode(p.Payload, p.Src, p.Dst); err == nil {
			all = append(all, advert{f.Time, p.Src, p.Dst, p.TTL, a})
		}
	}
	return all
}

func vrrpPacket(frame []byte) (vrrp.Packet, bool) {
	const ethernet, ipv6 = 14, 40
	if len(frame) < ethernet {
		return vrrp.Packet{}, false
	}
	b := frame[ethernet:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		p, err := vrrp.ParseIPv4(b)
		return p, err == nil
	case unix.ETH_P_IPV6:
		if len(b) < ipv6 || b[6] != vrrp.Protocol {
			return vrrp.Packet{}, false
		}
		src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		return vrrp.Packet{Src: src, Dst: dst, TTL: int(b[7]), Payload: b[ipv6:][:binary.BigEndian.Uint16(b[4:])]}, true
	}
	return vrrp.Packet{}, false
}

// arp is ARP or a neighbour advertisement on the wire.
type arp struct {
	at time.Time
	lab.ARP
}

// gratuitous are the announcements of an address that were captured: gratuitous ARP and advertisements to all.
func gratuitous(c *lab.Capture, addr string) []arp {
	return arps(c, func(a arp) bool { return a.Gratuitous && a.Addr == netip.MustParseAddr(addr) })
}

// answers are the captured answers to questions about an address.
func answers(c *lab.Capture, addr string) []arp {
	return arps(c, func(a arp) bool { return a.Reply && !a.Gratuitous && a.Addr == netip.MustParseAddr(addr) })
}

func arps(c *lab.Capture, want func(arp) bool) (all []arp) {
	for _, f := range c.Frames() {
		if a, ok := f.ARP(); ok && want(arp{f.Time, a}) {
			all = append(all, arp{f.Time, a})
		}
	}
	return all
}

// neighbour is the MAC that the client's kernel has for an address.
func (p *pair) neighbour(addr string) (mac string) {
	p.t.Helper()
	err := p.c.Do(func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, n := range list {
			if n.IP.String() == addr {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return mac
}

// inject has the client's host send a VRRP message to the group, from an address that need not be its own.
func (p *pair) inject(from string, message []byte) {
	p.t.Helper()
	group := &unix.SockaddrInet4{Addr: vrrp.GroupIPv4.As4()}
	packet := vrrp.AppendIPv4(nil, netip.MustParseAddr(from), vrrp.GroupIPv4, 1, message)
	err := p.c.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return errors.Join(unix.BindToDevice(fd, "eth0"), unix.Sendto(fd, packet, 0, group))
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// askARP has the client ask who has an address, every 5 ms, until stop. Who answers is in the capture.
func (p *pair) askARP(addr string) (stop func()) {
	p.t.Helper()
	var fd, index int
	var me net.HardwareAddr
	err := p.c.Do(func() (err error) {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		index, me = link.Index, link.HardwareAddr
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	question := slices.Concat(bytes.Repeat([]byte{0xff}, 6), me, []byte{8, 6}, // broadcast
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, me, []byte{192, 0, 2, 3}, make([]byte, 6), netip.MustParseAddr(addr).AsSlice())
	end := make(chan struct{})
	var asker sync.WaitGroup
	asker.Go(func() {
		defer unix.Close(fd)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := unix.Sendto(fd, question, 0, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
				p.t.Error(err)
			}
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	stop = sync.OnceFunc(func() {
		close(end)
		asker.Wait()
	})
	p.t.Cleanup(stop)
	return stop
}

// overlap is the longest time for which two nodes answered the client's questions for an address, from a time on. It fails
// the test when there were hardly any answers.
func (p *pair) overlap(addr string, from time.Time) (longest time.Duration) {
	p.t.Helper()
	const together = 20 * time.Millisecond // four questions
	var (
		begin time.Time // of the current overlap, zero outside of any
		seen  = make(map[string]time.Time)
		count int
	)
	for _, a := range answers(p.seen, addr) {
		if a.at.Before(from) {
			continue
		}
		count++
		seen[a.MAC] = a.at
		both := false
		for mac, at := range seen {
			both = both || mac != a.MAC && a.at.Sub(at) < together
		}
		switch {
		case !both:
			begin = time.Time{}
		case begin.IsZero():
			begin = a.at
		}
		if both {
			longest = max(longest, a.at.Sub(begin))
		}
	}
	if count < 20 {
		p.t.Errorf("only %d answers for %s", count, addr)
	}
	return longest
}

// unanswered is how many questions for an address, from a time on, were left without an answer in a row.
func (p *pair) unanswered(addr string, from time.Time) (longest int) {
	n, target := 0, netip.MustParseAddr(addr)
	for _, f := range p.seen.Frames() {
		switch a, ok := f.ARP(); {
		case !ok || a.Gratuitous || a.Addr != target || f.Time.Before(from):
		case a.Reply:
			n = 0
		case f.Sent:
			n++
			longest = max(longest, n)
		}
	}
	return longest
}

// lastAnswer is when a node last said that it has an address. There must be questions after that.
func (p *pair) lastAnswer(addr string, n *node) time.Time {
	p.t.Helper()
	for _, a := range slices.Backward(answers(p.seen, addr)) {
		if a.MAC == n.mac {
			return a.at
		}
	}
	p.t.Fatalf("%s never said that it has %s", n.Name, addr)
	return time.Time{}
}

// servedBy is the MAC that answered the client's last ping.
func (p *pair) servedBy() string {
	for _, f := range slices.Backward(p.seen.Frames()) {
		if !f.Sent && len(f.Data) > 34 && f.Data[12] == 8 && f.Data[13] == 0 && f.Data[23] == 1 && f.Data[34] == 0 {
			return net.HardwareAddr(f.Data[6:12]).String()
		}
	}
	return ""
}

// probe is a client that pings an address every millisecond.
type probe struct {
	t    *testing.T
	conn net.PacketConn
	work sync.WaitGroup
	end  chan struct{}

	mu       sync.Mutex
	sent     []time.Time
	answered []bool
}

// probed is what a probe has seen.
type probed struct {
	sent, lost int
	outage     time.Duration // the longest, from the first probe that was lost to the next that was not
	at         time.Time     // when that began
}

func (p probed) String() string {
	return fmt.Sprintf("%d of %d probes lost, the longest outage %v", p.lost, p.sent, p.outage.Round(100*time.Microsecond))
}

// probe starts to ping an address from the client.
func (p *pair) probe(addr string) *probe {
	p.t.Helper()
	to := netip.MustParseAddr(addr)
	network, from := "ip4:icmp", "0.0.0.0"
	if to.Is6() {
		network, from = "ip6:ipv6-icmp", "::"
	}
	pr := &probe{t: p.t, end: make(chan struct{})}
	err := p.c.Do(func() (err error) {
		pr.conn, err = net.ListenPacket(network, from)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { pr.conn.Close() })
	go pr.receive()
	pr.work.Go(func() { pr.send(to) })
	return pr
}

// send sends a probe each millisecond by the clock. What is late already when its turn comes is left out.
func (p *probe) send(to netip.Addr) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for next := time.Now(); ; next = next.Add(time.Millisecond) {
		select {
		case <-p.end:
			return
		default:
		}
		wait := time.Until(next)
		if wait < -time.Millisecond {
			continue
		}
		nap := unix.NsecToTimespec(int64(max(wait, 0)))
		unix.Nanosleep(&nap, nil)
		p.mu.Lock()
		n := len(p.sent)
		p.sent, p.answered = append(p.sent, time.Now()), append(p.answered, false)
		p.mu.Unlock()
		// That the network is unreachable is a probe without an answer.
		p.conn.WriteTo(echo(to, n), &net.IPAddr{IP: to.AsSlice()})
	}
}

// echo is the n-th request (RFC 792, RFC 4443 section 4.1). The checksum of ICMPv6 is the kernel's business.
func echo(to netip.Addr, n int) []byte {
	b := make([]byte, 8, 16)
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	if to.Is6() {
		b[0] = 128
		return b
	}
	b[0] = 8
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum>>16+sum))
	return b
}

func (p *probe) receive() {
	b := make([]byte, 1<<10)
	for {
		n, _, err := p.conn.ReadFrom(b)
		if err != nil {
			return // closed
		}
		if n != 16 || b[0] != 0 && b[0] != 129 {
			continue
		}
		p.mu.Lock()
		if i := binary.BigEndian.Uint64(b[8:]); i < uint64(len(p.answered)) {
			p.answered[i] = true
		}
		p.mu.Unlock()
	}
}

// stop ends the probing and tells how it went. Answers have a quarter of a second.
func (p *probe) stop() (r probed) {
	close(p.end)
	p.work.Wait()
	time.Sleep(250 * time.Millisecond)
	p.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	r.sent = len(p.sent)
	for begin := 0; begin < r.sent; begin++ {
		end := begin
		for end < r.sent && !p.answered[end] {
			end++
		}
		if end == begin {
			continue
		}
		r.lost += end - begin
		if d := p.sent[min(end, r.sent-1)].Sub(p.sent[begin]); d >= r.outage {
			r.outage, r.at = d, p.sent[begin]
		}
		begin = end
	}
	return r
}

// killBalancers kills the balancer of a, which is master, five times, and returns the largest gap between two adverts. Only a
// may have sent any, from the same elector all the time.
func killBalancers(p *pair) (largest time.Duration) {
	p.t.Helper()
	begin := time.Now()
	for i := range uint64(5) {
		syscall.Kill(p.a.child("poise-balancer"), syscall.SIGKILL)
		if i == 4 {
			break
		}
		lab.Eventually(p.t, patience, func() error {
			if s := p.a.status(); s.Balancer.Restarts != i+1 || s.Balancer.Stale {
				return fmt.Errorf("balancer %+v, want it restarted", s.Balancer)
			}
			return nil
		})
	}
	sent := len(adverts(p.seen, p.a.addr))
	var heard []advert
	lab.Eventually(p.t, patience, func() error {
		if heard = adverts(p.seen, netip.Addr{}); len(heard) < sent+2 {
			return errors.New("no adverts")
		}
		return nil
	})
	for i, a := range heard[1:] {
		if a.from != p.a.addr {
			p.t.Errorf("advert of %v", a.from)
		}
		if a.at.After(begin) {
			largest = max(largest, a.at.Sub(heard[i].at))
		}
	}
	if n := p.a.status().Elector.Restarts; n != 0 {
		p.t.Errorf("the elector was restarted %d times", n)
	}
	p.t.Logf("largest gap between adverts: %v", largest)
	return largest
}
