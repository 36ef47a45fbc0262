package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// The pair with servers for each forwarding method:
//
//	c, dr1, dr2, tun1, tun2 ── switch ┬ a ┬ inside ── nat1, nat2
//	192.0.2.3, .23 to .26             └ b ┘           10.0.0.21, .22

// gateway moves with the VIP: through it the replies of NAT servers find the master.
const gateway = "10.0.0.254"

// pairServices are for servers that never fail, however slow the machine is.
const pairServices = `
[[service]]
name = "nat"
listen = ["192.0.2.10:80"]
scheduler = "rr"
forward = "nat"
check = { type = "http", path = "/healthz", timeout = "2s", fall = 100 }
server = [{ address = "10.0.0.21" }, { address = "10.0.0.22" }]

[[service]]
name = "dr"
listen = ["192.0.2.10:81"]
scheduler = "rr"
forward = "dr"
check = { type = "http", path = "/healthz", timeout = "2s", fall = 100 }
server = [{ address = "192.0.2.23" }, { address = "192.0.2.24" }]

[[service]]
name = "tun"
listen = ["192.0.2.10:82"]
scheduler = "rr"
forward = "tun"
check = { type = "http", path = "/healthz", timeout = "2s", fall = 100 }
server = [{ address = "192.0.2.25" }, { address = "192.0.2.26" }]
`

// pairTable is the kernel's table when all of these servers are up.
var pairTable = []string{
	"tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 1, 10.0.0.22:80 nat 1",
	"tcp 192.0.2.10:81 rr: 192.0.2.23:81 dr 1, 192.0.2.24:81 dr 1",
	"tcp 192.0.2.10:82 rr: 192.0.2.25:82 tun 1, 192.0.2.26:82 tun 1",
}

// newLabPair is the pair with its servers.
func newLabPair(t *testing.T) *pair {
	t.Helper()
	lab.NeedIPVS(t)
	p := newPair(t, keys{"excluded_addresses": []string{gateway}, "excluded_interface": "eth1"})
	inside := p.Switch("inside")
	for _, n := range []*node{p.a, p.b} {
		n.Connect(inside, fmt.Sprintf("10.0.0.%d/24", n.port+1))
		n.more = pairServices
	}
	for i, method := range []lab.Method{lab.NAT, lab.DR, lab.TUN} {
		for k := range 2 {
			h := p.Host(fmt.Sprintf("%s%d", method, k+1))
			to, addr := p.sw, fmt.Sprintf("192.0.2.%d", 21+2*i+k)
			if method == lab.NAT {
				to, addr = inside, fmt.Sprintf("10.0.0.%d", 21+k)
			}
			h.Connect(to, addr+"/24")
			switch method {
			case lab.NAT:
				h.Route("default", gateway)
			case lab.DR:
				h.Run("poise", "realserver", "apply", "--vip", vip, "--runtime-dir", t.TempDir())
			case lab.TUN:
				(&lab.RealServer{Host: h, Addr: netip.MustParseAddr(addr)}).AcceptTunnel(vip)
			}
			h.ServeHTTP(fmt.Sprintf(":%d", portOf[method]))
		}
	}
	return p
}

// emulated is what a bound becomes where the processor is emulated.
func emulated(bound, there time.Duration) time.Duration {
	if lab.Emulated() {
		return there
	}
	return bound
}

// announcement waits until the client has heard m announce the VIP after a time, and returns when that was.
func announcement(m *node, after time.Time) time.Time {
	m.t.Helper()
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(50 * time.Millisecond) {
		for _, a := range gratuitous(m.pair.seen, vip) {
			if a.MAC == m.mac && a.at.After(after) {
				m.pair.wantMaster(m)
				return a.at
			}
		}
	}
	m.t.Fatalf("after %v: %s does not announce %s", patience, m.Name, vip)
	return time.Time{}
}

// startPair starts both nodes and returns when a serves and both tables are whole.
func startPair(p *pair) {
	p.t.Helper()
	begin := time.Now()
	p.a.start()
	announcement(p.a, begin)
	p.b.start()
	for _, n := range []*node{p.a, p.b} {
		wantTable(p.t, n.Host, pairTable...)
	}
}

// load is a client of all services in turn: a request every few milliseconds, each over a connection of its own and
// whether or not the ones before are answered.
type load struct {
	t    *testing.T
	end  chan struct{}
	work sync.WaitGroup

	mu       sync.Mutex
	requests []attempt
	moves    []move
}

// attempt is one request.
type attempt struct {
	port         int
	begun, ended time.Time
	err          error
}

// move is a time in which the VIP went from one node to the other. Requests that are under way then may fail: the other
// does not know their connections.
type move struct {
	what     string
	from, to time.Time
}

// during tells whether a request was under way in the time of a move.
func (a attempt) during(m move) bool { return !a.begun.After(m.to) && !a.ended.Before(m.from) }

// newLoad begins to make requests from a host, and returns when each service has answered.
func newLoad(t *testing.T, from *lab.Host) *load {
	t.Helper()
	l := &load{t: t, end: make(chan struct{})}
	l.work.Go(func() {
		err := from.Do(func() error { // all of it on one thread: a thread for each connection is slow
			tick := time.NewTicker(emulated(5*time.Millisecond, 50*time.Millisecond))
			defer tick.Stop()
			for {
				for _, port := range portOf {
					if err := l.begin(port); err != nil {
						return err
					}
					select {
					case <-tick.C:
					case <-l.end:
						return nil
					}
				}
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.stop)
	l.goesOn()
	return l
}

// begin begins a request to a port of the VIP.
func (l *load) begin(port int) error {
	a := attempt{port: port, begun: time.Now()}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(vip).As4(), Port: port})
	conn := os.NewFile(uintptr(fd), "connection")
	l.work.Go(func() {
		defer conn.Close()
		if a.err = err; err == unix.EINPROGRESS {
			a.err = converse(conn)
		}
		a.ended = time.Now()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.requests = append(l.requests, a)
	})
	return nil
}

// converse makes a request over a connection that is being opened.
func converse(conn *os.File) error {
	// A SYN is repeated after 1 s and after 3.
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && !strings.HasPrefix(string(answer), "HTTP/1.0 200 OK\r\n") {
		err = fmt.Errorf("answer %q", answer)
	}
	return err
}

// goesOn waits until requests that begin now have been answered, some of each service.
func (l *load) goesOn() {
	l.t.Helper()
	const some = 5
	now := time.Now()
	lab.Eventually(l.t, patience, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		answered := make(map[int]int)
		for _, a := range l.requests {
			if a.err == nil && a.begun.After(now) {
				answered[a.port]++
			}
		}
		for _, port := range portOf {
			if answered[port] < some {
				return fmt.Errorf("answered by port: %v, want %d each", answered, some)
			}
		}
		return nil
	})
}

// moved takes note that the VIP moved between two times, and waits until requests are answered again.
func (l *load) moved(what string, from, to time.Time) {
	l.t.Helper()
	// How long a packet may be under way, and how late its time is taken.
	grace := emulated(50*time.Millisecond, 500*time.Millisecond)
	l.moves = append(l.moves, move{what, from.Add(-grace), to.Add(grace)})
	l.goesOn()
}

// stop ends the requests and waits until each is answered or has failed.
func (l *load) stop() {
	select {
	case <-l.end:
	default:
		close(l.end)
	}
	l.work.Wait()
}

// judge ends the requests. Each that failed must have been under way in the time of a move.
func (l *load) judge() {
	l.t.Helper()
	l.stop()
	const clock = "15:04:05.000"
	for _, a := range l.requests {
		if a.err != nil && !slices.ContainsFunc(l.moves, a.during) {
			l.t.Errorf("request to port %d from %s to %s failed: %v", a.port, a.begun.Format(clock), a.ended.Format(clock), a.err)
		}
	}
	for _, m := range l.moves {
		requests, failed, slowest := 0, 0, time.Duration(0)
		for _, a := range l.requests {
			switch {
			case !a.during(m):
				continue
			case a.err != nil:
				failed++
			default:
				slowest = max(slowest, a.ended.Sub(a.begun))
			}
			requests++
		}
		l.t.Logf("%s, %s to %s: of %d requests under way %d failed, the slowest other took %v",
			m.what, m.from.Format(clock), m.to.Format(clock), requests, failed, slowest.Round(time.Millisecond))
	}
	l.t.Logf("%d requests", len(l.requests))
}

// A hand-over and the way back cost no request but those that are under way; when the master's power fails, requests wait
// until the backup takes over, and no longer; a better node that comes back takes over with its table.
func TestLabPairLoad(t *testing.T) {
	p := newLabPair(t)
	startPair(p)
	l := newLoad(t, p.c)

	begin := time.Now()
	p.a.must("failover", "public")
	at := announcement(p.b, begin)
	l.moved("hand-over", at, at)

	begin = time.Now()
	p.a.must("failover", "public", "--undo")
	at = announcement(p.a, begin)
	l.moved("and back", at, at)

	begin = time.Now()
	p.a.powerOff()
	p.a.SetLink("eth1", false)
	at = announcement(p.b, begin)
	last := slices.MaxFunc(adverts(p.seen, p.a.addr), func(a, b advert) int { return a.at.Compare(b.at) })
	limit := vrrp.MasterDown(3, time.Second, 100) + emulated(50*time.Millisecond, time.Second)
	if took := at.Sub(last.at); took > limit {
		t.Errorf("taken over %v after the last advert, want at most %v", took, limit)
	}
	l.moved("power-off", begin, at)

	p.askARP(vip)
	begin = time.Now()
	// Its servers are up after two intervals: later than it would take over if it did not wait.
	p.a.more = strings.ReplaceAll(pairServices, `path = "/healthz"`, `path = "/healthz", rise = 3`)
	powerOn(p.a)
	wantTable(t, p.a.Host, pairTable...)
	whole := time.Now()
	at = announcement(p.a, begin)
	said := append(gratuitous(p.seen, vip), answers(p.seen, vip)...)
	for _, a := range said {
		if a.MAC == p.a.mac && a.at.After(begin) && a.at.Before(whole) {
			t.Errorf("answers for %s %v before its table is whole", vip, whole.Sub(a.at))
		}
	}
	l.moved("return", at, at)
	l.judge()
}

// powerOn boots a node that was without power: neither its kernel nor its files know what was before.
func powerOn(n *node) {
	n.t.Helper()
	n.Run("ipvsadm", "-C")
	n.Run("ip", "address", "flush", "dev", "eth0", "to", vip)
	n.Run("ip", "address", "flush", "dev", "eth1", "to", gateway)
	entries, err := filepath.Glob(filepath.Join(n.dir, "*"))
	for _, entry := range entries {
		err = errors.Join(err, os.Remove(entry))
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.off = false
	n.SetLink("eth0", true)
	n.SetLink("eth1", true)
	n.plug(true)
	n.start()
}

// A better node whose table takes long waits for it, but not for ever.
func TestLabPairWaitsForTable(t *testing.T) {
	p := newLabPair(t)
	down := vrrp.MasterDown(3, time.Second, 150)
	margin := emulated(200*time.Millisecond, 4*time.Second)

	begin := time.Now()
	p.b.start()
	stopped, balancer := startStopped(p.a)
	announcement(p.b, begin)
	wait := announcement(p.a, stopped).Sub(stopped)
	t.Logf("without a table: takes over after %v", wait)
	if least := 10*time.Second + down; wait < least || wait > least+margin {
		t.Errorf("without a table: takes over after %v, want %v to %v", wait, least, least+margin)
	}
	syscall.Kill(balancer, syscall.SIGCONT)
	p.a.await("READY=1")
	wantTable(t, p.a.Host, pairTable...)

	begin = time.Now()
	p.a.stop()
	announcement(p.b, begin)
	_, balancer = startStopped(p.a)
	time.Sleep(2 * time.Second) // that long the table takes
	begin = time.Now()
	syscall.Kill(balancer, syscall.SIGCONT)
	p.a.await("READY=1")
	wantTable(t, p.a.Host, pairTable...)
	whole := time.Now()
	at := announcement(p.a, begin)
	t.Logf("table whole after %v, takes over after %v", whole.Sub(begin), at.Sub(begin))
	if at.Before(begin.Add(down)) || at.After(whole.Add(down+margin)) {
		t.Errorf("takes over %v after the balancer went on and %v after the table was whole, want %v", at.Sub(begin), at.Sub(whole), down)
	}
}

// startStopped starts a daemon, and stops its balancer before that has made the first table. It returns when that was, and
// the balancer.
func startStopped(n *node) (time.Time, int) {
	n.t.Helper()
	record := filepath.Join(n.dir, "routers.json")
	for range 10 {
		n.Run("ipvsadm", "-C")
		os.Remove(record)
		launch(n)
		balancer := n.child("poise-balancer")
		for begin := time.Now(); time.Since(begin) < patience; time.Sleep(100 * time.Microsecond) {
			if _, err := os.Stat(record); err == nil { // the children are prepared, and to be told to begin
				break
			}
		}
		syscall.Kill(balancer, syscall.SIGSTOP)
		at := time.Now()
		if table(n.Host) == "" {
			return at, balancer
		}
		syscall.Kill(balancer, syscall.SIGCONT)
		n.await("READY=1")
		n.stop()
	}
	n.t.Fatal("the balancer was faster, again and again")
	return time.Time{}, 0
}

// launch starts the daemon as daemon.start does, and does not wait until it is ready.
func launch(n *node) {
	n.t.Helper()
	n.write(n.config())
	path := filepath.Join(n.dir, "notify")
	os.Remove(path) // of an earlier start
	var err error
	if n.notify, err = net.ListenPacket("unixgram", path); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { n.notify.Close() })
	cmd := exec.Command("poise", "run", "-c", n.file, "--runtime-dir", n.dir)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	cmd.Stderr = n.t.Output()
	n.Process = n.Host.Start(cmd)
}

// Services and routers come and go, and leave each other alone.
func TestLabPairReload(t *testing.T) {
	lab.NeedIPVS(t)
	p := newPair(t, keys{"advert_interval": "100ms"})
	n := p.a
	routers := n.routers
	n.routers, n.more = nil, web
	n.start()
	wantTable(t, n.Host, webLine)
	if s := n.status(); s.Elector.PID != 0 || len(s.Services[0].NoVIP) == 0 {
		t.Errorf("with services only: elector %+v, missing VIP said: %v", s.Elector, s.Services[0].NoVIP)
	}
	changes := addressChanges(n)

	n.routers = routers
	n.reload()
	n.wantAddr(vip, true)
	wantTable(t, n.Host, webLine)
	if s := n.status(); s.Elector.PID == 0 || len(s.Services[0].NoVIP) > 0 {
		t.Errorf("with a router for the VIP: elector %+v, missing VIP said: %v", s.Elector, s.Services[0].NoVIP)
	}

	n.more = ""
	n.reload()
	if left := table(n.Host); left != "" {
		t.Errorf("with routers only, in the kernel:\n%s", left)
	}
	if s := n.status(); s.Balancer.PID != 0 || s.Services != nil {
		t.Errorf("with routers only: balancer %+v, services %v", s.Balancer, s.Services)
	}

	n.more = web
	n.reload()
	wantTable(t, n.Host, webLine)

	before := time.Now()
	n.routers = nil
	n.reload()
	if n.has(vip) {
		t.Errorf("without routers, the VIP is there")
	}
	wantTable(t, n.Host, webLine)
	if s := n.status(); s.Elector.PID != 0 || s.Routers != nil || len(s.Services[0].NoVIP) == 0 {
		t.Errorf("without routers: elector %+v, routers %v, missing VIP said: %v", s.Elector, s.Routers, s.Services[0].NoVIP)
	}
	if got, want := changes(), []string{"+" + vip, "-" + vip}; !slices.Equal(got, want) {
		t.Errorf("addresses came and went: %v, want %v", got, want)
	}
	for _, a := range adverts(p.seen, n.addr) {
		if a.Priority == 0 && a.at.Before(before) {
			t.Errorf("released %v before it had to", before.Sub(a.at))
		}
	}
	for _, want := range [][]string{
		{"VIP is not on this host", vip},
		{"router is backup: public", "started"},
		{"router is master: public", "nobody else was heard"},
		{"table changed", vip, "removed"},
		{"table changed: web", "added"},
		{"router leaves the election: public", "stopped"},
		{"reloaded", "epoch 5"},
	} {
		n.sees(want...)
	}
}

// addressChanges follows the IPv4 addresses of a node from now on. changes ends that, and tells which came, "+", and which
// went, "-".
func addressChanges(n *node) (changes func() []string) {
	n.t.Helper()
	updates, done := make(chan netlink.AddrUpdate, 100), make(chan struct{})
	if err := n.Do(func() error { return netlink.AddrSubscribe(updates, done) }); err != nil {
		n.t.Fatal(err)
	}
	const last = "192.0.2.99"
	return func() (all []string) {
		n.AddAddr("eth0", last+"/32") // what happened before is told before
		for u := range updates {
			switch addr := u.LinkAddress.IP; {
			case addr.String() == last:
				close(done)
				return all
			case addr.To4() == nil: // the kernel's own come by themselves
			case u.NewAddr:
				all = append(all, "+"+addr.String())
			default:
				all = append(all, "-"+addr.String())
			}
		}
		return append(all, "end")
	}
}

// That the master's balancer dies again and again does not disturb the election.
func TestLabPairBalancerDies(t *testing.T) {
	p := newLabPair(t)
	startPair(p)
	wantStatus(p)

	largest := killBalancers(p)
	if limit := time.Second + emulated(20*time.Millisecond, time.Second); largest > limit {
		t.Errorf("largest gap between adverts %v, want at most %v", largest, limit)
	}
}

// wantStatus compares what status says first with what it should.
func wantStatus(p *pair) {
	p.t.Helper()
	p.b.wantRouter("that it hears the master", func(r status.Router) bool { return r.Master.IsValid() })
	for n, want := range map[*node]string{
		p.a: `a: poise VERSION, FILE, epoch 1, loaded DATE

router public: MASTER since DATE (nobody else was heard for TIME)  192.0.2.10 on eth0, 10.0.0.254 on eth1, priority 150

nat 192.0.2.10:80 nat rr: up (weight 2, quorum 1)
`,
		p.b: `b: poise VERSION, FILE, epoch 1, loaded DATE

router public: BACKUP since DATE (started)  192.0.2.10 on eth0, 10.0.0.254 on eth1, priority 100; master 192.0.2.1, priority 150

nat 192.0.2.10:80 nat rr: up (weight 2, quorum 1)
`,
	} {
		got := n.must("status")
		for _, r := range []struct{ pattern, word string }{
			{`poise \S+,`, "poise VERSION,"}, {`/\S+,`, "FILE,"}, {`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`, "DATE"}, {`\d+\.\d+s`, "TIME"},
		} {
			got = regexp.MustCompile(r.pattern).ReplaceAllString(got, r.word)
		}
		if !strings.HasPrefix(got, want) {
			p.t.Errorf("%s: status:\n%swant first:\n%s", n.Name, got, want)
		}
	}
}

// A master that stops hands the VIP over; after that the table goes, where it is to be removed.
func TestLabPairStop(t *testing.T) {
	p := newLabPair(t)
	startPair(p)
	l := newLoad(t, p.c)
	whole := strings.Join(pairTable, "\n") + "\n"
	const alone = 1100 * time.Millisecond // after this long without another node the master lets go
	for _, onStop := range []string{"leave", "remove"} {
		begin := time.Now()
		p.a.Signal(syscall.SIGTERM)
		var released, broken time.Time // when the VIP was seen to be gone, and the table not to be whole
		for running := true; running; {
			select {
			case <-p.a.Done():
				running = false
			default:
			}
			if broken.IsZero() && table(p.a.Host) != whole {
				broken = time.Now()
				if p.a.has(vip) {
					t.Errorf("%s: the table goes before the VIP", onStop)
				}
			}
			if released.IsZero() && !p.a.has(vip) {
				released = time.Now()
			}
		}
		at := announcement(p.b, begin)
		served := firstAdvert(p.b, begin)
		if released.Before(served) && released.Sub(begin) < alone {
			t.Errorf("%s: the VIP was gone %v before the other node served", onStop, served.Sub(released))
		}
		switch left := table(p.a.Host); {
		case onStop == "leave" && !broken.IsZero():
			t.Errorf("leave: the table was not whole %v after the stop began", broken.Sub(begin))
		case onStop == "remove" && left != "":
			t.Errorf("remove: left in the kernel:\n%s", left)
		}
		l.moved(onStop, at, at)
		if onStop == "leave" {
			begin = time.Now()
			p.a.write(strings.Replace(p.a.config(), "[global]\n", "[global]\non_stop = \"remove\"\n", 1))
			p.a.daemon.start()
			at = announcement(p.a, begin)
			l.moved("back", at, at)
		}
	}
	l.judge()
}

// firstAdvert is when the client heard the first advert of a node after a time.
func firstAdvert(n *node, after time.Time) time.Time {
	n.t.Helper()
	all := adverts(n.pair.seen, n.addr)
	i := slices.IndexFunc(all, func(a advert) bool { return a.at.After(after) })
	if i < 0 {
		n.t.Fatalf("no advert of %s", n.Name)
	}
	return all[i].at
}
