// Package through asks real servers through a virtual address, as clients do, by the service's own way of forwarding: but each
// question goes to one chosen server. So it finds what a question to the server's own address cannot: a virtual address that is
// missing there, a packet filter, a tunnel that is down, a way back that passes the director by.
//
//	Open ──▶ for each way a hidden service by firewall mark, with one server in it
//	dialer ──▶ marked connection to the virtual address ──▶ IPVS in the output hook ──▶ the server
//	       ◀── its answer, to an address of this host's own
//	Close ──▶ what it was before
//
// The kernel drops packets from outside that have an address of its own as their source. Where this host has the virtual
// address, answers by direct routing and tunnels are such packets. So accept_local is set on the interface where they come in,
// behind a guard (nftables, table inet poise_probe) that lets nothing else of the kind in; IPv6 has no such rule.
package through

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"poise/internal/host"
	"poise/internal/nft"
	"poise/ipvsctl"
)

const (
	firstMark = nft.ProbeBlock + 1
	mostMarks = int(^nft.ProbeMask) // not 0
)

// Prober asks through virtual addresses. All its methods act on the network namespace of the calling thread, and those but
// Close may be called at the same time.
type Prober struct {
	lock   *os.File
	record *host.Record
	client *ipvsctl.Client
	table  sync.Mutex // client serves one at a time
	paths  map[Way]*path
	ports  ports
}

// Open makes the ways ready to be asked through. Virtual are the addresses that come and go: nothing is asked from them. What it
// changes is remembered in dir, so that the next Open undoes it after one that was killed. One process at a time may do this.
// A way that cannot be asked through says so later.
func Open(ctx context.Context, dir string, virtual []netip.Addr, ways []Way) (_ *Prober, err error) {
	if err := host.NeedNetAdmin(); err != nil {
		return nil, err
	}
	given, err := marks(ways)
	if err != nil {
		return nil, err
	}
	p := &Prober{paths: make(map[Way]*path)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close(ctx))
		}
	}()
	if err := p.open(ctx, dir); err != nil {
		return p, err
	}
	comeAndGo := make(map[netip.Addr]bool)
	for _, addr := range virtual {
		comeAndGo[addr] = true
	}
	for _, w := range ways {
		comeAndGo[w.VIP.Addr()] = true
	}
	local, err := host.Local(slices.Collect(maps.Keys(comeAndGo)))
	if err != nil {
		return p, err
	}
	around := survey{virtual: comeAndGo, local: local, links: make(map[string]host.Interface)}
	for w, mark := range given {
		if err := ctx.Err(); err != nil {
			return p, err
		}
		at := around.path(w)
		at.mark = mark
		p.paths[w] = at
	}
	if err := p.letAnswersIn(); err != nil {
		return p, err
	}
	return p, p.addServices(ctx)
}

// open takes what is needed, and undoes what a killed one left.
func (p *Prober) open(ctx context.Context, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("runtime directory: %w", err)
	}
	if p.lock, err = os.OpenFile(filepath.Join(dir, "probe.lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("runtime directory: %w", err)
	}
	if err := unix.Flock(int(p.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		p.lock.Close()
		p.lock = nil
		return fmt.Errorf("%s: %w: another process is asking through the virtual addresses", filepath.Join(dir, "probe.lock"), err)
	}
	if p.record, err = host.OpenRecord(filepath.Join(dir, "probe.json")); err != nil {
		return err
	}
	if p.client, err = ipvsctl.Open(ctx); err != nil {
		return err
	}
	if err := p.ports.open(); err != nil {
		return err
	}
	return p.undo(ctx)
}

// Close undoes all that Open did. Open connections must have been closed.
func (p *Prober) Close(ctx context.Context) error {
	if p.lock == nil {
		return nil
	}
	var errs []error
	if p.client != nil {
		errs = append(errs, p.undo(context.WithoutCancel(ctx))) // also after an interrupt
		p.client.Close()
	}
	return errors.Join(append(errs, p.lock.Close())...)
}

// undo removes the hidden services, and restores accept_local before the guard goes.
func (p *Prober) undo(ctx context.Context) error {
	var remove []ipvsctl.Op
	errs := []error{p.client.Services(ctx, func(key ipvsctl.ServiceKey, _ ipvsctl.Settings, _ ipvsctl.ServiceStats) {
		if key.Mark&nft.ProbeMask == nft.ProbeBlock {
			remove = append(remove, ipvsctl.Op{Kind: ipvsctl.RemoveService, Service: key})
		}
	})}
	errs = append(errs, p.client.Apply(ctx, remove)...)
	for _, former := range p.record.All() {
		errs = append(errs, restore(former))
	}
	if err := errors.Join(errs...); err != nil || len(p.record.All()) == 0 {
		return err
	}
	if err := nft.SetGuard(nil, nil); err != nil {
		return err
	}
	for _, former := range p.record.All() {
		errs = append(errs, p.record.Forget(former.Key))
	}
	return errors.Join(errs...)
}

// restore puts a setting back. That of an interface which is gone went with it.
func restore(former host.Former) error {
	if now, err := (host.Sysctls{}).Read(former.Key); err == nil && now == former.Value {
		return nil // which also is so where it cannot be set
	}
	err := host.Sysctls{}.Write(former.Key, former.Value)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// letAnswersIn has the kernel accept, for the ways that need it, packets with a source of its own: first it is remembered, then the
// guard is set, then what it guards.
func (p *Prober) letAnswersIn() error {
	ways := make(map[string][]Way) // by the interface where answers come in
	for w, at := range p.paths {
		if at.err == nil && at.local && !at.own && w.Method.KeepsPort() && w.VIP.Addr().Is4() {
			ways[at.link] = append(ways[at.link], w)
		}
	}
	replies := make(map[nft.Reply]bool)
	for name := range ways {
		accepts, err := host.Sysctls{}.InForce(name, "accept_local")
		if err == nil && accepts == 0 {
			err = host.Sysctls{}.Writable(acceptLocal(name))
		}
		for _, w := range ways[name] {
			p.paths[w].err = err
			replies[nft.Reply{From: w.VIP, To: p.paths[w].source}] = true
		}
		if err != nil || accepts != 0 {
			delete(ways, name) // where it is set, somebody wants that already, without a guard
		}
	}
	if len(ways) == 0 {
		return nil
	}
	links := slices.Sorted(maps.Keys(ways))
	var settings []string
	for _, name := range links {
		setting := acceptLocal(name)
		former, err := host.Sysctls{}.Read(setting)
		if err != nil {
			return err
		}
		if err := p.record.Remember(setting, former); err != nil {
			return err
		}
		settings = append(settings, setting)
	}
	if err := nft.SetGuard(links, slices.Collect(maps.Keys(replies))); err != nil {
		return err
	}
	for _, setting := range settings {
		if err := (host.Sysctls{}).Write(setting, "1"); err != nil {
			return err
		}
	}
	return nil
}

func acceptLocal(ifname string) string {
	return host.SysctlName("net", "ipv4", "conf", ifname, "accept_local")
}

// addServices adds the hidden services. Without one a marked packet would be balanced like any other: one that the kernel
// refuses ends the way.
func (p *Prober) addServices(ctx context.Context) error {
	want, marked := make(ipvsctl.Table), make(map[uint32]*path)
	for w, at := range p.paths {
		if at.err == nil {
			want[w.key(at.mark)], marked[at.mark] = w.service(), at
		}
	}
	ops := ipvsctl.Diff(nil, want)
	for i, err := range p.client.Apply(ctx, ops) {
		if at := marked[ops[i].Service.Mark]; err != nil && at.err == nil { // the first says why
			at.err = err
		}
	}
	return ctx.Err()
}

// ErrCannot is why nothing can be said about a server: the fault is on this host.
var ErrCannot = errors.New("cannot ask through the virtual address")

// Probe has ask ask once by a way, over one connection to the virtual address that dial opens; those by the same way wait for each
// other. An error that is [ErrCannot] says nothing about the server.
func (p *Prober) Probe(ctx context.Context, w Way, ask func(ctx context.Context, dial Dial) error) error {
	at, known := p.paths[w]
	if !known {
		return fmt.Errorf("%w: %v by %v is none of the ways", ErrCannot, w.Server, w.VIP)
	}
	if at.err != nil {
		return fmt.Errorf("%w: %w", ErrCannot, at.err)
	}
	at.gate.Lock() // an open connection of this mark is then this one
	defer at.gate.Unlock()
	return ask(ctx, func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
		return p.dial(ctx, w, at, addr)
	})
}

// Dial opens a connection, as [net.Dialer] does.
type Dial = func(context.Context, netip.AddrPort) (*net.TCPConn, error)

// dial opens a connection by a way, and sees that it took it. Without its service, after somebody emptied the table, or with
// another mark, the packets would be balanced like those of clients: the answer would be anybody's.
func (p *Prober) dial(ctx context.Context, w Way, at *path, addr netip.AddrPort) (*net.TCPConn, error) {
	dialer := net.Dialer{KeepAlive: -1, Control: func(_, _ string, socket syscall.RawConn) error {
		var err error
		errControl := socket.Control(func(fd uintptr) { err = p.ready(int(fd), w, at) })
		return errors.Join(errControl, err)
	}}
	before, err := p.counted(ctx, w, at)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCannot, err)
	}
	conn, errDial := dialer.DialContext(ctx, "tcp", addr.String()) // not DialTCP, which binds the socket
	after, err := p.counted(context.WithoutCancel(ctx), w, at)     // the time may be up
	switch {
	case err != nil:
	case errDial != nil && after.Active+after.Inactive > before.Active+before.Inactive: // what was refused may not be open any more
		return nil, errDial
	case errDial != nil:
		err = fmt.Errorf("no packet came to its mark's service, nor perhaps to the server: %v", errDial) // not %w: it is not the server's silence
	case after.Active > before.Active:
		return conn.(*net.TCPConn), nil
	default:
		err = errors.New("the connection is not one of its mark's service, but perhaps another server's")
	}
	err = fmt.Errorf("%w: %w", ErrCannot, err)
	if errDial != nil {
		return nil, err
	}
	return nil, errors.Join(err, conn.Close())
}

// counted is how many connections a server has by a way: those without an answer are active, too, for a minute. All other counters
// of the kernel's are late by up to two seconds (net/netfilter/ipvs/ip_vs_est.c). A server that is gone is an error.
func (p *Prober) counted(ctx context.Context, w Way, at *path) (n ipvsctl.DestinationStats, _ error) {
	p.table.Lock()
	defer p.table.Unlock()
	key, there := w.key(at.mark), false
	err := p.client.Servers(ctx, key, func(server netip.AddrPort, _ ipvsctl.Destination, counted ipvsctl.DestinationStats) {
		if server == w.destination() {
			n, there = counted, true
		}
	})
	if err == nil && !there {
		err = fmt.Errorf("%v was removed from IPVS by somebody", key)
	}
	return n, err
}

// Segments that the clients' network carries: on this host the way to the virtual address may be the loopback, whose are far larger.
const (
	mss4 = 1460
	mss6 = 1440
)

// ready has a socket talk by a way.
func (p *Prober) ready(fd int, w Way, at *path) error {
	level, hops, segment := unix.IPPROTO_IP, unix.IP_TTL, mss4
	if w.VIP.Addr().Is6() {
		level, hops, segment = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, mss6
	}
	err := errors.Join(
		os.NewSyscallError("SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(at.mark))),
		os.NewSyscallError("TCP_MAXSEG", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment)),
	)
	if at.hops > 0 {
		err = errors.Join(err, os.NewSyscallError("TTL", unix.SetsockoptInt(fd, level, hops, at.hops)))
	}
	if err != nil {
		return err
	}
	return p.ports.bind(fd, at.source)
}

// ports are the source ports of probes. An entry of IPVS is found by addresses and ports and not by the mark, and that of a
// question without an answer stays for a minute: so none is used twice before all others.
type ports struct {
	sync.Mutex
	first, count, next int
}

// open reads from which range a port may be.
func (p *ports) open() error {
	text, err := host.Sysctls{}.Read("net.ipv4.ip_local_port_range")
	if err != nil {
		return err
	}
	var last int
	if _, err := fmt.Fscan(strings.NewReader(text), &p.first, &last); err != nil || p.first > last {
		return fmt.Errorf("net.ipv4.ip_local_port_range: %q is no range of ports", text)
	}
	p.count = last - p.first + 1
	p.next = rand.N(p.count) // those of an earlier process may still have entries
	return nil
}

func (p *ports) take() int {
	p.Lock()
	defer p.Unlock()
	p.next++
	return p.first + p.next%p.count
}

// bind gives a socket its source, with a port that nobody has.
func (p *ports) bind(fd int, source netip.Addr) error {
	for range p.count {
		port := p.take()
		var to unix.Sockaddr = &unix.SockaddrInet6{Addr: source.As16(), Port: port}
		if source.Is4() {
			to = &unix.SockaddrInet4{Addr: source.As4(), Port: port}
		}
		if err := unix.Bind(fd, to); err != unix.EADDRINUSE {
			return os.NewSyscallError("bind", err)
		}
	}
	return os.NewSyscallError("bind", unix.EADDRINUSE)
}
