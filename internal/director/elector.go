package director

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/host"
	"poise/internal/status"
	"poise/vrrp"
)

// elector is the child that stands for election and has the virtual addresses. One goroutine, on a thread of its own, owns
// all of it and waits for nothing but its next deadline; what can block is done by hands, the kernel's side, and
// by out, the parent's.
type elector struct {
	inbox *inbox
	hands *hands
	out   *outbox

	announcer *host.Announcer
	pacer     *pacer
	beats     *beats // nil without a parent
	realtime  string // why it has no precedence, "" when it has

	prepared *electorPlan
	serving  bool // it has been told of routers: it is no spare any more
	ready    bool // routers may stand for election
	routers  []*router
	bound    map[*router]int // the interface index that its sockets are bound to
	looking  map[string]*look
	blind    map[string]int // looks in a row that saw nothing
	polled   []unix.PollFd
	stopping func() // what to do when the routers that were stopped are out; nil while none is
	ending   bool
	ended    bool
}

// electorPlan is a configuration that could be carried out, until it is committed or aborted.
type electorPlan struct {
	epoch   uint64
	routers []vrrp.Config
}

// look is a look at an interface that has been asked for, and what comes after it.
type look struct{ then []func() }

const (
	slowLook   = 5 * time.Second // how often interfaces are looked at although nothing was heard of a change
	blindBorne = 3               // looks in a row that may see nothing
)

// now is the time since boot, suspend included: a machine that slept has to know.
func now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // the clock is always there
	return time.Duration(t.Nano())
}

// runElector is the whole life of the elector process. It ends when the parent says stop, or is gone: either way the
// addresses are handed over first.
func runElector(c *conn, shared *os.File, log *slog.Logger) error {
	e, err := newElector()
	if err != nil {
		return refuseAll(c, err)
	}
	if e.beats, err = mapBeats(shared); err != nil {
		return refuseAll(c, err)
	}
	e.out = newOutbox(c, log)
	if err := c.send(message{Kind: kindHello, Version: protocolVersion}); err != nil {
		return err
	}
	go e.out.run()
	go func() {
		for {
			m, err := c.receive()
			if err != nil {
				e.inbox.post(e.orphaned)
				return
			}
			e.inbox.post(func() { e.handle(m) })
		}
	}()
	e.run()
	e.out.flush()
	return nil
}

// newElector takes hold of what an elector needs. It changes nothing.
func newElector() (*elector, error) {
	e := &elector{
		hands: newHands(), pacer: newPacer(),
		bound: make(map[*router]int), looking: make(map[string]*look), blind: make(map[string]int),
	}
	if err := settle(); err != nil {
		e.realtime = err.Error()
	}
	var err error
	if e.inbox, err = newInbox(); err != nil {
		return nil, err
	}
	e.announcer, err = host.OpenAnnouncer()
	return e, err
}

// run is the loop: what packets say, what others ask, and only then what time says.
func (e *elector) run() {
	runtime.LockOSThread()
	stop := make(chan struct{})
	defer close(stop)
	go e.hands.run(stop)
	go e.watch(stop)
	slow := now() + slowLook
	for !e.ended {
		e.wait(min(slow, e.deadline()))
		e.drain()
		e.inbox.run()
		e.drain()
		for _, r := range e.routers {
			r.Wake()
		}
		e.announce()
		if now() >= slow {
			slow = now() + slowLook
			e.lookAll()
		}
	}
}

func (e *elector) drain() {
	for _, r := range e.routers {
		r.drain()
	}
}

// deadline is when there is something to do although nothing happens.
func (e *elector) deadline() time.Duration {
	d := e.pacer.deadline()
	for _, r := range e.routers {
		d = min(d, r.Deadline())
	}
	return d
}

// wait returns when something happens, and at the deadline at the latest.
func (e *elector) wait(deadline time.Duration) {
	e.polled = append(e.polled[:0], unix.PollFd{Fd: int32(e.inbox.bell), Events: unix.POLLIN})
	for _, r := range e.routers {
		if fd := r.FD(); fd >= 0 {
			e.polled = append(e.polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	timeout := unix.NsecToTimespec(int64(max(0, deadline-now())))
	_, _ = unix.Ppoll(e.polled, &timeout, nil) // interrupted or not, everything is looked at
}

// watch asks for looks when the kernel tells of changes.
func (e *elector) watch(stop <-chan struct{}) {
	w, err := host.Watch()
	if err != nil {
		// The slow looks see everything too.
		e.inbox.post(func() {
			e.emit(status.Event{Level: slog.LevelError, What: "changes of interfaces are seen late", Cause: err.Error()})
		})
		return
	}
	defer w.Close()
	for {
		select {
		case <-w.Changes():
			e.inbox.post(e.lookAll)
		case <-stop:
			return
		}
	}
}

func (e *elector) lookAll() {
	for _, r := range e.routers {
		e.lookFor(r, nil)
	}
}

// lookFor looks at all that a router needs; then comes what is to be done after it.
func (e *elector) lookFor(r *router, then func()) {
	names := r.Config().Interfaces()
	for _, name := range names[1:] {
		e.look(name, nil)
	}
	e.look(names[0], then)
}

// look has the hands look at an interface, after all that they have still to do, and tells the routers on it. Then comes
// what is to be done after it.
func (e *elector) look(name string, then func()) {
	l := e.looking[name]
	if l == nil {
		l = &look{}
		e.looking[name] = l
		e.hands.give(func() {
			i, there, err := host.Look(name)
			e.inbox.post(func() { e.looked(name, i, there, err) })
		})
	}
	if then != nil {
		l.then = append(l.then, then)
	}
}

func (e *elector) looked(name string, i host.Interface, there bool, err error) {
	then := e.looking[name].then
	delete(e.looking, name)
	if err != nil {
		// Many changes at a time are one reason, and with the last of them comes the next look. What lasts is said.
		if e.blind[name]++; e.blind[name] == blindBorne {
			e.emit(status.Event{Level: slog.LevelError, What: "interface cannot be looked at", Cause: err.Error()})
		}
	} else {
		delete(e.blind, name)
		for _, r := range slices.Clone(e.routers) {
			if slices.Contains(r.Config().Interfaces(), name) {
				r.see(name, i, there)
			}
		}
	}
	for _, f := range then {
		f()
	}
}

// rejoin has switches learn again on which port the group's members are.
func (e *elector) rejoin(name string) {
	var conns []*vrrp.Conn
	for _, r := range e.routers {
		if r.Conn() != nil && r.Config().Interface == name {
			conns = append(conns, r.Conn())
		}
	}
	_ = vrrp.Rejoin(conns...) // fails only with the interface, which shows itself
}

// announce sends the announcements whose time has come.
func (e *elector) announce() {
	for _, a := range e.pacer.due(now()) {
		a.router.announce(a)
	}
}

// virtual tells whether an address is one of any router here.
func (e *elector) virtual(addr netip.Addr) bool {
	return slices.ContainsFunc(e.routers, func(r *router) bool { return slices.Contains(r.Config().All(), addr) })
}

// handle carries out one request of the parent.
func (e *elector) handle(m message) {
	answer := message{Kind: kindAnswer, ID: m.ID}
	var err error
	switch m.Kind {
	case kindPrepare:
		e.prepared, err = e.prepare(m)
	case kindAbort:
		e.prepared = nil
	case kindCommit:
		if err = e.commit(m, func() { e.out.put(answer, true) }); err == nil {
			return // answered when it is done
		}
	case kindReady:
		e.ready = true
		for _, r := range e.routers {
			r.begin()
		}
	case kindIntents:
		e.hold(m.Holds)
	case kindPing:
	case kindSnapshot:
		answer.Snapshot = e.snapshot()
	case kindStop:
		e.stop(func() {
			e.out.put(answer, true)
			e.ended = true
		})
		return
	default:
		err = fmt.Errorf("request %q is unknown", m.Kind)
	}
	if err != nil {
		answer.Error = err.Error()
	}
	e.out.put(answer, true)
}

func (e *elector) prepare(m message) (*electorPlan, error) {
	if m.Config == nil {
		return nil, errors.New("prepare without a configuration")
	}
	// An interface may come later; a permission does not.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, vrrp.Protocol)
	if err != nil {
		return nil, fmt.Errorf("VRRP socket: %w: run as root, or with CAP_NET_RAW", err)
	}
	unix.Close(fd)
	return &electorPlan{m.Epoch, m.Config.Routers}, nil
}

// commit carries out what was prepared. Routers that leave hand over first; those that come begin after that, as their
// addresses may be the same.
func (e *elector) commit(m message, done func()) error {
	if e.prepared == nil || e.prepared.epoch != m.Epoch {
		return fmt.Errorf("commit of epoch %d, which was not prepared", m.Epoch)
	}
	if e.stopping != nil {
		return errors.New("routers of the configuration before are still handing over")
	}
	var fresh []vrrp.Config
	stay := make(map[*router]bool)
	for _, c := range e.prepared.routers {
		i := slices.IndexFunc(e.routers, func(r *router) bool { return r.Config().SameRouter(c) })
		if i < 0 {
			fresh = append(fresh, c)
			continue
		}
		stay[e.routers[i]] = true
		e.routers[i].reload(c)
	}
	e.prepared = nil
	e.serve()
	e.ready = e.ready || m.Ready
	e.stopping = func() {
		for _, c := range fresh {
			r := e.newRouter(c)
			e.routers = append(e.routers, r)
			if c.IPv6() && !c.Addresses[0].IsLinkLocalUnicast() { // RFC 9568 section 5.2.9
				r.tell(slog.LevelWarn, "the first address is not link-local, as routers of other makes may want it", c.Addresses[0].String())
			}
		}
		e.hold(m.Holds)
		e.lookAll()
		e.tellMasters()
		done()
	}
	for _, r := range e.routers {
		r.leaving = r.leaving || !stay[r]
	}
	e.stopLeaving()
	return nil
}

// serve makes the elector of a spare.
func (e *elector) serve() {
	if e.serving {
		return
	}
	e.serving = true
	setComm(childName(roleElector))
	goBefore()
	if e.realtime != "" {
		e.emit(status.Event{Level: slog.LevelWarn, What: "the elector competes with other processes, adverts may be late", Cause: e.realtime})
	}
}

// hold tells each router whether an operator wants it not to serve.
func (e *elector) hold(all holds) {
	for _, r := range e.routers {
		r.hold = all.of(r.Config().Name)
		r.Step(vrrp.Hold{On: r.hold != nil})
	}
}

// stop hands everything over; then comes done.
func (e *elector) stop(done func()) {
	e.ending = true
	e.stopping = done
	for _, r := range e.routers {
		r.leaving = true
	}
	e.stopLeaving()
}

// stopLeaving stops the routers that leave. All send their release before any waits.
func (e *elector) stopLeaving() {
	for _, r := range slices.Clone(e.routers) {
		if r.leaving {
			r.Step(vrrp.Stop{})
		}
	}
	e.routerStopped()
}

// routerStopped goes on when all routers that leave are out.
func (e *elector) routerStopped() {
	e.routers = slices.DeleteFunc(e.routers, func(r *router) bool { return r.stopped })
	if e.stopping == nil || slices.ContainsFunc(e.routers, func(r *router) bool { return r.leaving }) {
		return
	}
	done := e.stopping
	e.stopping = nil
	done()
}

// orphaned ends an elector whose parent is gone: with a new daemon beside it there would be two.
func (e *elector) orphaned() {
	if !e.ending && e.serving {
		e.emit(status.Event{Level: slog.LevelError, What: "the parent is gone, the addresses are handed over"})
	}
	e.stop(func() { e.ended = true })
}

func (e *elector) snapshot() *status.Snapshot {
	s := &status.Snapshot{Time: time.Now(), Elector: status.Elector{NoRealtime: e.realtime}}
	s.Totals.Lost = e.out.missed()
	for _, r := range e.routers {
		s.Routers = append(s.Routers, r.snapshot())
	}
	return s
}

// tellMasters tells the parent of which routers this node is master.
func (e *elector) tellMasters() {
	m := message{Kind: kindMasters}
	for _, r := range e.routers {
		if r.Status().State == vrrp.Master {
			m.Masters = append(m.Masters, r.Config().Name)
		}
	}
	e.out.put(m, true)
}

// emit records a decision. Those about routers are never lost.
func (e *elector) emit(ev status.Event) { e.out.event(ev, ev.Router != "") }
