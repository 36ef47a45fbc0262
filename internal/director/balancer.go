package director

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"poise/checker"
	"poise/config"
	"poise/internal/host"
	"poise/internal/nft"
	"poise/internal/status"
	"poise/ipvsctl"
	"poise/vrrp"
)

// tickInterval is how often the kernel is compared with what is wanted although nothing happened here:
// IPVS announces no changes, so those made by others are only seen by looking.
const tickInterval = 5 * time.Second

// tickShare bounds what looking costs: a look at a large table on a slow machine is followed by a pause of so many times
// what it took.
const tickShare = 10

// balancer is the child that checks servers and programs the kernel. One goroutine owns all of it.
type balancer struct {
	conn *conn
	log  *slog.Logger
	out  *outbox

	checks *checker.Loop
	client ipvs
	keep   *keeper
	fwd    *forwarding
	marks  *marking
	sync   *connSync
	totals *status.Totals

	prepared *prepared
	cfg      *config.Config // nil until the first commit
	intents  intents
	holds    holds
	masters  []string // routers whose master this node is
	services map[string]*serviceState
	servers  map[checker.Key]*serverState
	want     ipvsctl.Table
	vips     map[netip.Addr]bool // those that were looked for: is this host theirs?
	unseen   lasting             // why they could not be looked for
	waiting  []message           // answers that are due when it is settled
	ownFault ownFault
}

// ipvs is the kernel's table: an ipvsctl.Client, or a Recorder in its place.
type ipvs interface {
	kernel
	syncKernel
	Close()
}

// prepared is a configuration that could be carried out, until it is committed or aborted.
type prepared struct {
	epoch  uint64
	cfg    *config.Config
	plan   []status.Sysctl
	resume bool // it was in force already
}

// serviceState is one service's configuration and what is known of it.
type serviceState struct {
	config   config.Service
	quorum   checker.Quorum
	decided  bool // the quorum was decided before the last decision
	decision decision
	checks   status.Checks
}

// serverState is what is known of one server of one service beside its configuration.
type serverState struct {
	state      checker.State
	since      time.Time
	cause      string // why it is down
	ok, failed uint64
	self       uint64 // checks that said nothing about it, for a fault of this host
	found      int    // weight in the kernel when poise began to care for the server
	inKernel   bool
}

// runBalancer is the whole life of the balancer process. It ends when the parent says stop, or is gone:
// then table and sysctls stay as they are, and the kernel goes on balancing.
func runBalancer(ctx context.Context, c *conn, runtimeDir, table string, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	b := &balancer{
		conn:     c,
		log:      log,
		out:      newOutbox(c, log),
		checks:   checker.NewLoop(),
		totals:   &status.Totals{},
		services: make(map[string]*serviceState),
		servers:  make(map[checker.Key]*serverState),
	}
	if err := b.open(ctx, runtimeDir, table); err != nil {
		// The parent learns the reason as the answer to its first question.
		return refuseAll(c, err)
	}
	defer b.client.Close()
	defer b.marks.close()

	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	requests := make(chan message)
	running.Go(func() { cancel(readRequests(ctx, c, requests)) })
	running.Go(func() { _ = b.checks.Run(ctx) }) // ends with ctx, whose cause is said below
	defer context.AfterFunc(ctx, func() { c.Close() })()

	if err := c.send(message{Kind: kindHello, Version: protocolVersion}); err != nil {
		return err
	}
	go b.out.run()
	defer b.out.flush()
	if err := b.loop(ctx, requests); !errors.Is(err, errStopped) {
		return err
	}
	return nil
}

// errStopped is how the balancer ends when it was asked to.
var errStopped = errors.New("stopped")

func (b *balancer) loop(ctx context.Context, requests <-chan message) error {
	tick := time.NewTimer(tickInterval)
	defer tick.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-requests:
			answer := message{Kind: kindAnswer, ID: m.ID}
			if m.Kind == kindReady {
				b.waiting = append(b.waiting, answer)
				break
			}
			if err := b.handle(ctx, m, &answer); err != nil {
				answer.Error = err.Error()
			}
			b.out.put(answer, true)
			if m.Kind == kindStop {
				return errStopped
			}
		case r := <-b.checks.Reports():
			if b.reports(r) {
				b.keep.apply(ctx, time.Now(), b.want)
			}
		case <-b.marks.changes():
			if b.cfg != nil {
				_ = b.marks.keep() // says what is wrong
			}
		case <-tick.C:
			begin := time.Now()
			if b.cfg != nil {
				b.fwd.keep()
				b.keep.verify(ctx, time.Now(), b.want)
				_ = b.marks.keep()
				_ = b.sync.keep(ctx, daemonsFor(b.cfg, b.masters))
				b.lookForVIPs()
			}
			tick.Reset(max(tickInterval, tickShare*time.Since(begin)))
		case <-retry.C:
			if b.cfg != nil {
				b.keep.apply(ctx, time.Now(), b.want)
			}
		}
		if len(b.waiting) > 0 && b.settled() {
			for _, answer := range b.waiting {
				b.out.put(answer, true)
			}
			b.waiting = nil
		}
		if next := b.keep.nextRetry(); !next.IsZero() {
			retry.Reset(time.Until(next))
		}
	}
}

// open takes hold of the kernel, or of the table that stands in for it. It changes nothing there.
func (b *balancer) open(ctx context.Context, runtimeDir, table string) error {
	bootID, err := host.Sysctls{}.Read("kernel.random.boot_id")
	if err != nil {
		return err
	}
	owned, err := loadOwnership(filepath.Join(runtimeDir, "owned.json"), bootID)
	if err != nil {
		return err
	}
	record, err := host.OpenRecord(filepath.Join(runtimeDir, "sysctls.json"))
	if err != nil {
		return err
	}
	if b.client, err = openTable(ctx, table); err != nil {
		return err
	}
	b.keep = &keeper{kernel: b.client, owned: owned, emit: b.emit, totals: b.totals, refused: make(map[opID]*refusal)}
	b.fwd = &forwarding{sysctls: settings{}, record: record, emit: b.emit, totals: b.totals}
	b.marks = &marking{owned: owned, emit: b.emit, totals: b.totals, recorded: table != ""}
	b.sync = &connSync{kernel: b.client, owned: owned, emit: b.emit, totals: b.totals}
	return nil
}

// recordTable begins the name of a table that is written to a file instead of the kernel.
const recordTable = "record:"

// checkTable says what is wrong with the name of a table; "" is the kernel's.
func checkTable(table string) error {
	if file, ok := strings.CutPrefix(table, recordTable); table != "" && (!ok || file == "") {
		return fmt.Errorf("table %q: want record:FILE", table)
	}
	return nil
}

func openTable(ctx context.Context, table string) (ipvs, error) {
	file, isRecord := strings.CutPrefix(table, recordTable)
	if !isRecord {
		return ipvsctl.Open(ctx)
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return ipvsctl.NewRecorder(out), nil
}

// handle carries out one request of the parent.
func (b *balancer) handle(ctx context.Context, m message, answer *message) (err error) {
	switch m.Kind {
	case kindPrepare:
		b.prepared, err = b.prepare(m)
	case kindAbort:
		b.prepared = nil
	case kindCommit:
		err = b.commit(ctx, m)
	case kindIntents:
		b.intents, b.holds = m.Intents, m.Holds
		b.decideAll()
		if b.hold() {
			b.keep.verify(ctx, time.Now(), b.want) // what was held may be anything by now
		} else {
			b.keep.apply(ctx, time.Now(), b.want)
		}
	case kindMasters:
		b.masters = m.Masters
		if b.cfg != nil {
			b.sync.change()
			_ = b.sync.keep(ctx, daemonsFor(b.cfg, b.masters))
		}
	case kindPing:
	case kindSnapshot:
		answer.Snapshot, err = b.snapshot(ctx)
	case kindStop:
		err = b.stop(ctx)
	default:
		err = fmt.Errorf("request %q is unknown", m.Kind)
	}
	return err
}

// prepare tells whether a configuration could be carried out, and changes nothing. One that was in force
// already is not questioned again: half of it is better than a balancer that never comes back.
func (b *balancer) prepare(m message) (*prepared, error) {
	if m.Config == nil {
		return nil, errors.New("prepare without a configuration")
	}
	interfaces, err := Facing(m.Config)
	if err != nil {
		return nil, err
	}
	p := &prepared{epoch: m.Epoch, cfg: m.Config, resume: m.Resume}
	if !b.marks.recorded { // the kernel's settings are for its table
		p.plan = append(forwardingPlan(m.Config, interfaces), timeoutSettings(m.Config)...)
	}
	if m.Resume {
		return p, nil
	}
	if err := missingInterfaces(m.Config); err != nil {
		return nil, err
	}
	if err := b.fwd.check(p.plan); err != nil {
		return nil, err
	}
	if err := b.marks.check(markingRules(m.Config)); err != nil {
		return nil, err
	}
	return p, nil
}

// commit carries out what was prepared. When it returns, the kernel has been told everything.
//
// What follows in the kernel is in the order in which no packet comes to nothing. A daemon that synchronises connections does
// not bear servers of another family: it goes first and comes last. A mark without a service is no harm, packets then go by
// their address; a service without its marks gets nothing. So marks change when all services, new and old, are there.
func (b *balancer) commit(ctx context.Context, m message) error {
	if b.prepared == nil || b.prepared.epoch != m.Epoch {
		return fmt.Errorf("commit of epoch %d, which was not prepared", m.Epoch)
	}
	table, _, err := b.client.Read(ctx)
	if err != nil {
		return err
	}
	if err := b.checks.Set(targets(b.prepared.cfg)); err != nil {
		return err
	}
	b.cfg, b.intents, b.holds, b.masters = b.prepared.cfg, m.Intents, m.Holds, m.Masters
	b.fwd.setPlan(b.prepared.plan)
	resume := b.prepared.resume
	b.prepared = nil
	b.hold()
	b.adopt(table)
	b.decideAll()

	daemons, rules := daemonsFor(b.cfg, b.masters), markingRules(b.cfg)
	b.sync.change()
	b.sync.stopOthers(ctx, daemons)
	b.fwd.keep()
	b.marks.setSources(rules)
	var between func() error
	if b.marks.differ(rules) {
		between = func() error {
			if err := b.marks.set(rules); err != nil && !resume { // half of what was in force is better than nothing of it
				return err
			}
			return nil
		}
	}
	if err := b.keep.adopt(ctx, time.Now(), table, b.want, between); err != nil {
		return err
	}
	_ = b.sync.keep(ctx, daemons)
	b.lookForVIPs()
	return nil
}

// hold tells the keeper which services are to be left alone, and whether those are others than before.
func (b *balancer) hold() (changed bool) {
	before := b.keep.held
	b.keep.held = make(map[ipvsctl.ServiceKey]bool)
	for _, service := range b.cfg.Services {
		if b.holds.of(service.Name) != nil {
			b.keep.held[service.Key()] = true
		}
	}
	return !maps.Equal(before, b.keep.held)
}

// targets are the checks that cfg asks for.
func targets(cfg *config.Config) []checker.Target {
	var all []checker.Target
	for _, service := range cfg.Services {
		if service.Check == nil {
			continue
		}
		for _, server := range service.Servers {
			all = append(all, checker.Target{
				Key:    checker.Key{Service: service.Name, Server: server.Addr()},
				Addr:   service.CheckAddr(server),
				Config: *service.Check,
			})
		}
	}
	return all
}

// adopt makes the state fit the configuration: what stays keeps its verdict, what is new begins with
// what the kernel has.
func (b *balancer) adopt(table ipvsctl.Table) {
	services := make(map[string]*serviceState)
	servers := make(map[checker.Key]*serverState)
	b.keep.names = make(map[ipvsctl.ServiceKey]string)
	b.keep.configured = make(entries)
	for _, service := range b.cfg.Services {
		b.keep.names[service.Key()] = service.Name
		s := b.services[service.Name]
		if s == nil {
			s = &serviceState{}
		}
		before := s.config
		s.config = service
		s.quorum.Weight, s.quorum.Hysteresis = service.Quorum, service.QuorumHysteresis
		services[service.Name] = s
		addrs := []netip.AddrPort{service.SorryServer}
		for _, server := range service.Servers {
			addrs = append(addrs, server.Addr())
		}
		for _, addr := range addrs {
			key := checker.Key{Service: service.Name, Server: addr}
			server := b.servers[key]
			if server == nil {
				server = b.heir(before, addr.Addr())
			}
			if service.Check == nil { // a verdict from a configuration that had one says nothing any more
				server.state, server.since, server.cause = checker.Unknown, time.Time{}, ""
			}
			destination, has := table[service.Key()].Destinations[addr]
			server.found, server.inKernel = destination.Weight, has
			servers[key] = server
			if addr.IsValid() {
				b.keep.configured.add(service.Key(), addr)
			}
		}
	}
	b.services, b.servers = services, servers
}

// heir is the state of a server that is new to its service: what is known of the one at the same address that the
// service had before with another port, or nothing. A service that gets a second port must not lose its servers until
// the next check.
func (b *balancer) heir(before config.Service, addr netip.Addr) *serverState {
	var known []serverState
	for _, server := range before.Servers {
		if state := b.servers[checker.Key{Service: before.Name, Server: server.Addr()}]; server.Address == addr && state != nil {
			known = append(known, *state)
		}
	}
	if len(known) != 1 {
		return &serverState{}
	}
	return &known[0]
}

// decideAll decides about every service anew.
func (b *balancer) decideAll() {
	b.want = make(ipvsctl.Table)
	for _, service := range b.cfg.Services {
		b.decide(b.services[service.Name])
	}
}

// decide recomputes what one service should be.
func (b *balancer) decide(s *serviceState) {
	service := s.config
	state := func(addr netip.AddrPort) *serverState {
		return b.servers[checker.Key{Service: service.Name, Server: addr}]
	}
	s.decision = decide(service, knowledge{
		verdict: func(addr netip.AddrPort) (checker.State, string) { return state(addr).state, state(addr).cause },
		found:   func(addr netip.AddrPort) (int, bool) { return state(addr).found, state(addr).inKernel },
		intent: func(addr netip.AddrPort) *status.Intent {
			return b.intents.of(checker.Key{Service: service.Name, Server: addr})
		},
	}, &s.quorum)
	b.want[service.Key()] = s.decision.service
	before := s.decided
	s.decided = s.quorum.Decided()
	switch {
	case !s.decision.changed:
	case !s.decision.up:
		b.emit(status.Event{Level: slog.LevelWarn, What: "service down", Service: service.Name, Cause: s.decision.why})
	case before: // to be up from the beginning is no event
		b.emit(status.Event{Level: slog.LevelInfo, What: "service up", Service: service.Name, Cause: s.decision.why})
	}
}

// lookForVIPs says which VIPs are not, or again, addresses of this host. Those of routers come and go, and the
// elector says so; of the others too it may be right that one is not here.
func (b *balancer) lookForVIPs() {
	var vips []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, service := range b.cfg.Services {
		for _, vip := range service.VIPs() {
			if !b.routed(vip) && !seen[vip] {
				vips = append(vips, vip)
				seen[vip] = true
			}
		}
	}
	local, err := host.Local(vips)
	b.unseen.set(err, b.emit, "VIPs cannot be looked for", "VIPs are looked for again")
	if err != nil {
		return
	}
	before := b.vips
	b.vips = make(map[netip.Addr]bool)
	var gone, back []netip.Addr
	for _, vip := range vips {
		was, known := before[vip]
		b.vips[vip] = local[vip]
		switch {
		case !local[vip] && (was || !known):
			gone = append(gone, vip)
		case local[vip] && known && !was:
			back = append(back, vip)
		}
	}
	b.sayVIPs(slog.LevelWarn, "VIP is not on this host, its requests do not arrive here", gone)
	b.sayVIPs(slog.LevelInfo, "VIP is on this host", back)
}

// sayVIPs says something of each address; of many in one: a whole block of them is one story.
func (b *balancer) sayVIPs(level slog.Level, what string, vips []netip.Addr) {
	const most = 8
	var words []string
	for _, vip := range vips {
		words = append(words, vip.String())
	}
	if len(words) > most {
		words = []string{few(words)}
	}
	for _, word := range words {
		b.emit(status.Event{Level: level, What: what, Cause: word})
	}
}

// settled tells whether there is something behind every service that can be: no server is out only because nobody has
// asked it yet.
func (b *balancer) settled() bool {
	if b.cfg == nil {
		return false
	}
	for _, service := range b.cfg.Services {
		for _, server := range service.Servers {
			s := b.servers[checker.Key{Service: service.Name, Server: server.Addr()}]
			if service.Check != nil && service.Check.Initial != checker.InitialUp && s.state == checker.Unknown && !s.inKernel {
				return false
			}
		}
	}
	return true
}

// routed tells whether a VIP is one of a router's addresses.
func (b *balancer) routed(vip netip.Addr) bool {
	return slices.ContainsFunc(b.cfg.Routers, func(c vrrp.Config) bool { return slices.Contains(c.All(), vip) })
}

// stop ends as the configuration says.
func (b *balancer) stop(ctx context.Context) error {
	if b.cfg == nil || b.cfg.Global.OnStop == config.Leave {
		return nil
	}
	// Sysctls under a table that could not be removed stay too: traffic goes on through it.
	if left, err := b.keep.remove(ctx, time.Now()); err != nil || left {
		return err
	}
	b.sync.change()
	if err := errors.Join(b.marks.set(nft.Rules{}), b.sync.keep(ctx, nil)); err != nil {
		return err
	}
	return b.fwd.undo()
}

// emit records a decision.
func (b *balancer) emit(e status.Event) { b.out.event(e, false) }

// readRequests hands the parent's requests to the loop until the parent is gone, and says why it ended.
func readRequests(ctx context.Context, c *conn, requests chan<- message) error {
	for {
		m, err := c.receive()
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return errors.New("the parent is gone")
		}
		if err != nil {
			return err
		}
		select {
		case requests <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// refuseAll answers every request with the reason why this process can do nothing, until the parent hangs up.
func refuseAll(c *conn, reason error) error {
	if err := c.send(message{Kind: kindHello, Version: protocolVersion}); err != nil {
		return err
	}
	for {
		m, err := c.receive()
		if err != nil {
			return reason
		}
		if err := c.send(message{Kind: kindAnswer, ID: m.ID, Error: reason.Error()}); err != nil {
			return reason
		}
	}
}
