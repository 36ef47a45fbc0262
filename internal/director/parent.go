package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"poise/checker"
	"poise/config"
	"poise/internal/host"
	"poise/internal/status"
	"poise/ipvsctl"
	"poise/vrrp"
)

// Options are what the command line says.
type Options struct {
	ConfigFile string
	RuntimeDir string // where the control socket and the records are
	Version    string
	Table      string // "" is the kernel's; "record:FILE" is in memory, and what happens to it is written to the file
	Log        *slog.Logger
}

// How long the parent waits for a child's answer before it counts as hung.
const (
	askTimeout     = 5 * time.Second  // for what takes milliseconds
	prepareTimeout = 20 * time.Second // for what looks up a route to each of thousands of servers
	commitTimeout  = 60 * time.Second // for what may program or remove a whole table
)

// parent is the process that reads the file, supervises and listens. One goroutine, in loop, owns its
// state; HTTP handlers read the view, and change something through do.
type parent struct {
	Options
	events   *ring
	view     view
	requests chan func()
	tasks    sync.WaitGroup // what Run waits for in the end

	modules ipvsctl.Modules
	lock    *os.File
	control net.Listener
	api     *apiServer // nil when not configured

	cfg      *config.Config
	epoch    uint64
	loaded   time.Time
	rejected string // why the last reload was not taken
	wishes   wishes

	balancer, elector *ward
	pongs             chan pong
	vouched           atomic.Bool // there is something behind the addresses
	masters           []string    // routers whose master this node is, as the elector said last
	roles             roles
	beats             *os.File // memory that one elector leaves to the next; nil before the first

	spare    *child      // an elector to come; nil while there is none
	sparing  bool        // one is being started
	spareDue *time.Timer // fires when one is to be started
	spares   chan *child
}

func (p *parent) wards() []*ward { return []*ward{p.balancer, p.elector} }

// Run is the director daemon: it returns when SIGTERM or SIGINT has been carried out, or with the
// reason why it could not begin. What it finds out before it touches the kernel changes nothing.
func Run(ctx context.Context, o Options) error {
	// From the first moment on, or a signal that comes early would end the process by default.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	if err := checkTable(o.Table); err != nil {
		return err
	}
	p := newParent(o)
	cfg, err := p.load()
	if err != nil {
		return err
	}
	if err := host.NeedNetAdmin(); err != nil {
		return err
	}
	if err := p.listen(cfg); err != nil {
		return err
	}
	defer p.close()
	p.cfg = cfg // there is no former one that wishes could follow from
	p.publish()
	// Who looks sees how it begins; who wants something waits for the loop.
	defer p.tasks.Wait()
	control := p.serve(p.control, p.controlHandler())
	defer control.Close()
	p.api.serve(p)
	defer func() { p.api.Close() }() // whichever it is then
	if err := p.begin(ctx, cfg); err != nil {
		return err
	}
	return p.loop(ctx, hup)
}

func newParent(o Options) *parent {
	return &parent{
		Options: o, events: newRing(), requests: make(chan func()), pongs: make(chan pong),
		balancer: newBalancerWard(), elector: newElectorWard(), roles: roles{changed: make(chan struct{}, 1)},
		spareDue: idleTimer(), spares: make(chan *child),
	}
}

// roles are what the elector said last of this node's roles. Who hears it never waits for the parent's loop, which may be
// waiting for the elector.
type roles struct {
	masters atomic.Pointer[[]string]
	changed chan struct{}
}

func (r *roles) set(masters []string) {
	r.masters.Store(&masters)
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// rolesChanged tells the balancer what routers this node is master of.
func (p *parent) rolesChanged() {
	p.masters = *p.roles.masters.Load()
	if p.balancer.child != nil {
		// Without an answer to wait for; to one that is gone or hangs, its successor is told with the configuration.
		_ = p.balancer.child.conn.send(message{Kind: kindMasters, Masters: p.masters})
	}
}

// load reads the file, which must be fit for the running kernel, or for the table in its place.
func (p *parent) load() (*config.Config, error) {
	if p.Table != "" {
		return config.Load(p.ConfigFile, nil)
	}
	return config.Load(p.ConfigFile, &p.modules)
}

// listen takes what only one daemon can have.
func (p *parent) listen(cfg *config.Config) (err error) {
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := os.MkdirAll(p.RuntimeDir, 0o755); err != nil {
		return fmt.Errorf("runtime directory: %w", err)
	}
	if p.wishes, err = loadWishes(p.wishesFile()); err != nil {
		return err
	}
	if p.lock, err = takeLock(); err != nil {
		return err
	}
	if p.control, err = listenControl(SocketPath(p.RuntimeDir)); err != nil {
		return err
	}
	p.api, err = p.listenAPI(cfg)
	return err
}

func (p *parent) close() {
	if p.api != nil {
		p.api.Close()
	}
	if p.control != nil {
		p.control.Close()
	}
	if p.lock != nil {
		p.lock.Close()
	}
}

func (p *parent) wishesFile() string { return filepath.Join(p.RuntimeDir, "wishes.json") }

// tableTime is how long a node that starts waits for its table and the first checks before it stands for election: with
// nothing behind the addresses it should not take them from another, but better a late table than no address at all.
const tableTime = 10 * time.Second

// begin starts the children with the first configuration.
func (p *parent) begin(ctx context.Context, cfg *config.Config) (err error) {
	p.releaseLeft()
	// A signal to stop waits until what was begun is whole, and then undoes it as configured.
	whole := context.WithoutCancel(ctx)
	defer func() {
		if err != nil {
			p.end()
		}
	}()
	if err := p.prepare(ctx, cfg); err != nil {
		return err
	}
	p.saveLeft(cfg.Routers)
	p.publish()
	if err := p.commitTo(whole, p.elector, p.wishes); err != nil {
		return err
	}
	e, b := p.elector.child, p.balancer.child
	late := time.AfterFunc(tableTime, func() { p.vouch(whole, e) })
	if err := p.commitTo(whole, p.balancer, p.wishes); err != nil {
		late.Stop()
		return err
	}
	p.committed(cfg, p.wishes)
	go func() {
		if b != nil {
			_, _ = b.ask(ctx, tableTime, message{Kind: kindReady}) // for one that cannot say so there is late
		}
		p.vouch(ctx, e)
	}()
	return nil
}

// vouch lets the elector stand for election: e, which is there since the start, or whichever is by now. It may be called
// from any goroutine, and more than once.
func (p *parent) vouch(ctx context.Context, e *child) {
	p.vouched.Store(true)
	ready := message{Kind: kindReady}
	if e != nil {
		_, _ = e.ask(ctx, askTimeout, ready) // one that is gone is seen by the loop
	}
	_ = p.do(ctx, func() error { // fails when there is no loop any more
		if p.elector.child != nil && p.elector.child != e {
			_, _ = p.elector.child.ask(ctx, askTimeout, ready)
		}
		return nil
	})
}

// end ends the children of a start that failed. What the elector has it hands over.
func (p *parent) end() {
	if p.elector.child != nil {
		_, _ = p.elector.child.ask(context.Background(), askTimeout, message{Kind: kindStop})
	}
	for _, w := range p.wards() {
		if w.child != nil {
			w.child.kill()
		}
	}
}

// prepare asks the children whether they could carry out cfg, and starts those that it needs. When one could not,
// everything is as before.
func (p *parent) prepare(ctx context.Context, cfg *config.Config) error {
	whole := context.WithoutCancel(ctx)
	var fresh []*ward
	for _, w := range p.wards() {
		var err error
		if w.child == nil && w.wanted(cfg) {
			if err = p.start(ctx, w); err == nil {
				fresh = append(fresh, w)
			}
		}
		if err == nil && w.child != nil {
			_, err = w.child.ask(whole, prepareTimeout, message{Kind: kindPrepare, Epoch: p.epoch + 1, Config: w.part(cfg)})
		}
		if err != nil {
			p.abort(fresh)
			return err
		}
	}
	return nil
}

// abort makes the children forget what they prepared; those that were started for it end.
func (p *parent) abort(fresh []*ward) {
	for _, w := range p.wards() {
		switch {
		case w.child == nil:
		case slices.Contains(fresh, w):
			w.child.kill()
			w.child = nil
		default:
			// Not heard by one that hangs; a later prepare replaces this one anyway.
			_ = w.child.conn.send(message{Kind: kindAbort, Epoch: p.epoch + 1})
		}
	}
}

// commit makes a prepared configuration the one in force. What comes is served before it is claimed; what goes is given up
// before it is no longer served.
func (p *parent) commit(ctx context.Context, cfg *config.Config) error {
	next := p.wishes.follow(p.cfg, cfg)
	order := []*ward{p.balancer, p.elector}
	if losesAddress(p.cfg, cfg) {
		slices.Reverse(order)
	}
	p.saveLeft(slices.Concat(p.cfg.Routers, cfg.Routers))
	for _, w := range order {
		if err := p.commitTo(ctx, w, next); err != nil {
			return err
		}
	}
	p.saveLeft(cfg.Routers)
	p.committed(cfg, next)
	for _, w := range p.wards() {
		if w.child != nil && !w.wanted(cfg) {
			_, _ = w.child.ask(ctx, commitTimeout, message{Kind: kindStop}) // it has nothing left to do
			w.child.kill()
			w.child = nil
			p.setProblem(w, "")
			if w == p.elector {
				p.dropSpare()
			}
		}
	}
	return nil
}

// commitTo tells one child to carry out what it prepared.
func (p *parent) commitTo(ctx context.Context, w *ward, next wishes) error {
	if w.child == nil {
		return nil
	}
	m := p.wishesFor(w, next)
	m.Kind, m.Epoch = kindCommit, p.epoch+1
	_, err := w.child.ask(ctx, commitTimeout, m)
	return err
}

// wishesFor is what a child has to know beside the configuration.
func (p *parent) wishesFor(w *ward, wanted wishes) message {
	m := message{Intents: wanted.Servers, Holds: wanted.Services, Masters: p.masters, Ready: p.vouched.Load()}
	if w.role == roleElector {
		m.Holds = wanted.Routers
	}
	return m
}

// losesAddress tells whether some virtual address of before is none after.
func losesAddress(before, after *config.Config) bool {
	var kept []netip.Addr
	for _, c := range after.Routers {
		kept = append(kept, c.All()...)
	}
	return slices.ContainsFunc(before.Routers, func(c vrrp.Config) bool {
		return slices.ContainsFunc(c.All(), func(a netip.Addr) bool { return !slices.Contains(kept, a) })
	})
}

// saveLeft records which routers' addresses may be on this host from now on.
func (p *parent) saveLeft(routers []vrrp.Config) {
	if err := saveLeft(p.RuntimeDir, routers); err != nil {
		p.emit(status.Event{Level: slog.LevelError, What: "routers not recorded, a killed daemon may leave addresses behind", Cause: err.Error()})
	}
}

// committed takes note of the configuration in force.
func (p *parent) committed(cfg *config.Config, next wishes) {
	for i, s := range next.Servers {
		if hasServer(p.cfg, p.wishes.Servers[i].Key) && !hasServer(cfg, s.Key) {
			p.emit(status.Event{
				Level: slog.LevelWarn, What: "server left the configuration, what was asked for it waits",
				Service: s.Service, Server: s.Server, Cause: "asked" + because(&s.Intent),
			})
		}
	}
	for _, n := range p.wishes.Services {
		if next.Services.of(n.Name) == nil && !hasService(cfg, n.Name) && renamedService(p.cfg, cfg, n.Name) == "" {
			p.emit(status.Event{Level: slog.LevelWarn, What: "service left the configuration, it is no longer held", Service: n.Name})
		}
	}
	p.cfg, p.loaded, p.rejected = cfg, time.Now(), ""
	p.epoch++
	for _, w := range p.wards() {
		w.heard = time.Now()
	}
	p.setWishes(next)
}

// setWishes remembers what operators want.
func (p *parent) setWishes(w wishes) {
	p.wishes = w
	if err := w.save(p.wishesFile()); err != nil {
		p.emit(status.Event{Level: slog.LevelError, What: "intents not recorded, a restart forgets them", Cause: err.Error()})
	}
	p.publish()
}

func (p *parent) loop(ctx context.Context, hup <-chan os.Signal) error {
	p.emit(status.Event{
		Level: slog.LevelInfo, What: "running",
		Cause: fmt.Sprintf("%s, routers: %d, services: %d", p.ConfigFile, len(p.cfg.Routers), len(p.cfg.Services)),
	})
	notify("READY=1")
	pings := time.NewTicker(pingInterval)
	defer pings.Stop()
	for {
		select {
		case <-ctx.Done():
			return p.stop(context.Cause(ctx))
		case <-hup:
			_ = p.reload(ctx) // has said what was wrong
		case do := <-p.requests:
			do()
		case <-pings.C:
			for _, w := range p.wards() {
				p.ping(ctx, w)
			}
			go p.view.snapshot(ctx, time.Now().Add(-wordsInterval))
		case answer := <-p.pongs:
			p.ponged(answer)
		case <-p.balancer.gone():
			p.died(p.balancer)
		case <-p.elector.gone():
			p.died(p.elector)
		case <-p.roles.changed:
			p.rolesChanged()
		case <-p.spareDue.C:
			p.startSpare(ctx)
		case c := <-p.spares:
			p.spareStarted(c)
		case <-p.spareGone():
			p.spareDied()
		case <-p.balancer.restart.C:
			p.tryRevive(ctx, p.balancer)
		case <-p.elector.restart.C:
			p.tryRevive(ctx, p.elector)
		}
	}
}

func (p *parent) tryRevive(ctx context.Context, w *ward) {
	if w.child != nil || !w.wanted(p.cfg) {
		return // a reload was faster
	}
	if err := p.revive(context.WithoutCancel(ctx), w); err != nil {
		p.emit(status.Event{Level: slog.LevelError, What: w.role + " not restarted", Cause: err.Error()})
		p.restartLater(w, "cannot be started ("+err.Error()+")")
	}
}

// reload takes the file as a whole or not at all, and says which.
func (p *parent) reload(ctx context.Context) error {
	notify(reloading())
	defer notify("READY=1")
	err := p.tryReload(context.WithoutCancel(ctx)) // a signal to stop waits until it is whole
	if err == nil {
		p.emit(status.Event{Level: slog.LevelInfo, What: "reloaded", Cause: fmt.Sprintf("%s, epoch %d", p.ConfigFile, p.epoch)})
		return nil
	}
	p.rejected = err.Error()
	p.publish()
	const most = 20 // mistakes that become events: the list is for other things too
	mistakes := strings.Split(p.rejected, "\n")
	for _, mistake := range mistakes[:min(most, len(mistakes))] {
		p.emit(status.Event{Level: slog.LevelError, What: "reload rejected", Cause: mistake})
	}
	return err
}

func (p *parent) tryReload(ctx context.Context) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	for _, w := range p.wards() {
		if w.child == nil && w.wanted(p.cfg) {
			return fmt.Errorf("the %s is being restarted, try again", w.role)
		}
	}
	if err := p.wishes.heldElsewhere(p.cfg, cfg); err != nil {
		return err
	}
	api := p.api
	if cfg.Global.API != p.cfg.Global.API {
		if api, err = p.listenAPI(cfg); err != nil {
			return err
		}
	}
	if err := p.prepare(ctx, cfg); err != nil {
		if api != p.api {
			api.Close()
		}
		return err
	}
	if err := p.commit(ctx, cfg); err != nil {
		if api != p.api {
			api.Close()
		}
		// Half carried out at worst: the next children begin with the configuration that was in force.
		for _, w := range p.wards() {
			if w.child != nil {
				w.child.kill()
			}
		}
		return fmt.Errorf("%w: the former configuration is being restored", err)
	}
	if api != p.api {
		p.api.Close()
		p.api = api
		api.serve(p)
	}
	return nil
}

// stop ends the children: the addresses are handed over first, and then the table is left or removed as configured.
func (p *parent) stop(cause error) error {
	notify("STOPPING=1")
	p.emit(status.Event{Level: slog.LevelInfo, What: "stopping", Cause: fmt.Sprintf("%v, on_stop = %s", cause, p.cfg.Global.OnStop)})
	err := p.stopElector()
	p.roles.set(nil)
	p.rolesChanged()
	return errors.Join(err, p.stopBalancer())
}

// stopElector hands the addresses over.
func (p *parent) stopElector() error {
	p.dropSpare()
	w := p.elector
	if w.child == nil {
		p.releaseLeft()
		return nil
	}
	_, err := w.child.ask(context.Background(), commitTimeout, message{Kind: kindStop})
	w.child.kill()
	if err != nil {
		p.releaseLeft()
		return err
	}
	p.saveLeft(nil)
	return nil
}

// stopBalancer leaves or removes the table.
func (p *parent) stopBalancer() error {
	w := p.balancer
	select {
	case <-w.gone():
		p.died(w)
	default:
	}
	ctx := context.Background() // the loop's has ended: that is why this is happening
	timeout := askTimeout
	if p.cfg.Global.OnStop == config.Remove {
		timeout = commitTimeout
		if w.child == nil && w.wanted(p.cfg) { // it died a moment ago, and there is work for one more
			if err := p.revive(ctx, w); err != nil {
				return fmt.Errorf("on_stop = remove, but nothing was removed: %w", err)
			}
		}
	}
	if w.child == nil {
		return nil
	}
	defer w.child.kill()
	_, err := w.child.ask(ctx, timeout, message{Kind: kindStop})
	if p.cfg.Global.OnStop == config.Leave {
		return nil // there was nothing to do for it
	}
	return err
}

// do runs f in the loop's goroutine and returns its error. When ctx ends first f may still run.
func (p *parent) do(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case p.requests <- func() { done <- f() }:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// publish shows the parent's state to the HTTP handlers.
func (p *parent) publish() {
	own := status.Snapshot{
		Time:    time.Now(),
		Node:    p.cfg.Global.Node,
		Version: p.Version,
		Config:  status.Config{File: p.ConfigFile, Epoch: p.epoch, Loaded: p.loaded, Rejected: p.rejected},
		Dormant: p.wishes.Servers.dormant(p.cfg),
	}
	if w := p.balancer; w.wanted(p.cfg) {
		own.Balancer = status.Balancer{PID: w.child.pid(), Restarts: w.restarts, Problem: w.problem}
	}
	if w := p.elector; w.wanted(p.cfg) {
		own.Elector = status.Elector{PID: w.child.pid(), Spare: p.spare.pid(), Restarts: w.restarts, Problem: w.problem}
	}
	p.view.publish(own, p.balancer.child, p.elector.child)
}

// intendService carries out an operator's wish about one service; like intend.
func (p *parent) intendService(ctx context.Context, service string, change func(holds) holds, e status.Event) error {
	return p.do(ctx, func() error {
		if !hasService(p.cfg, service) && p.wishes.Services.of(service) == nil {
			return unknownService(p.cfg, service)
		}
		next := p.wishes
		next.Services = change(next.Services)
		p.setWishes(next)
		p.emit(e)
		return p.tellWishes(ctx, p.balancer)
	})
}

func unknownService(cfg *config.Config, name string) error {
	var services []string
	for _, service := range cfg.Services {
		services = append(services, service.Name)
	}
	if services == nil {
		return unknown("there is no service in the configuration")
	}
	return unknown(fmt.Sprintf("there is no service %q; there are %s", name, few(services)))
}

// intendRouter carries out an operator's wish about one router; like intend.
func (p *parent) intendRouter(ctx context.Context, router string, change func(holds) holds, e status.Event) error {
	return p.do(ctx, func() error {
		if !hasRouter(p.cfg, router) && p.wishes.Routers.of(router) == nil {
			var names []string
			for _, c := range p.cfg.Routers {
				names = append(names, c.Name)
			}
			if names == nil {
				return unknown("there is no router in the configuration")
			}
			return unknown(fmt.Sprintf("there is no router %q; there are %s", router, few(names)))
		}
		next := p.wishes
		next.Routers = change(next.Routers)
		p.setWishes(next)
		p.emit(e)
		return p.tellWishes(ctx, p.elector)
	})
}

// tellWishes tells a child what operators want.
func (p *parent) tellWishes(ctx context.Context, w *ward) error {
	if w.child == nil {
		return fmt.Errorf("recorded; the %s is being restarted and will do it", w.role)
	}
	m := p.wishesFor(w, p.wishes)
	m.Kind = kindIntents
	if _, err := w.child.ask(context.WithoutCancel(ctx), askTimeout, m); err != nil {
		return fmt.Errorf("recorded, but not done yet: %w", err)
	}
	return nil
}

// intend carries out an operator's wish about one server. It is the parent's to remember: once recorded, it
// is carried out by whichever balancer there is or will be.
func (p *parent) intend(ctx context.Context, key checker.Key, change func(intents) intents, e status.Event) error {
	return p.do(ctx, func() error {
		if err := p.mayIntend(key); err != nil {
			return err
		}
		next := p.wishes
		next.Servers = change(next.Servers)
		p.setWishes(next)
		p.emit(e)
		return p.tellWishes(ctx, p.balancer)
	})
}

// unknown says that an operator named what the configuration does not have.
type unknown string

func (u unknown) Error() string { return string(u) }

// mayIntend is nil when there is a server of this name, or was one when an operator last asked something of it.
func (p *parent) mayIntend(key checker.Key) error {
	if hasServer(p.cfg, key) || p.wishes.Servers.of(key) != nil {
		return nil
	}
	for _, service := range p.cfg.Services {
		if service.Name != key.Service {
			continue
		}
		if service.SorryServer == key.Server {
			return unknown(fmt.Sprintf("%v is the sorry server of %q: it takes traffic only where there is no quorum", key.Server, key.Service))
		}
		var servers []string
		for _, server := range service.Servers {
			servers = append(servers, server.Addr().String())
		}
		return unknown(fmt.Sprintf("service %q has no server %v; it has %s", key.Service, key.Server, few(servers)))
	}
	return unknownService(p.cfg, key.Service)
}

// few lists some names in a sentence.
func few(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// emit records a decision of the parent.
func (p *parent) emit(e status.Event) {
	e.Time = time.Now()
	logEvent(p.Log, e)
	p.events.add(e)
}

// serve answers requests on l until the server is closed.
func (p *parent) serve(l net.Listener, handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ConnContext:       withPeer,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
	}
	p.tasks.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.emit(status.Event{Level: slog.LevelError, What: "no longer listening", Cause: err.Error()})
		}
	})
	return server
}

// apiServer is what listens on the API address. A nil one listens nowhere.
type apiServer struct {
	listener net.Listener
	server   *http.Server // nil until it serves
}

// listenAPI takes the address that cfg asks for; nil when it asks for none.
func (p *parent) listenAPI(cfg *config.Config) (*apiServer, error) {
	if !cfg.Global.API.IsValid() {
		return nil, nil
	}
	l, err := listenAPI(cfg.Global.API)
	if err != nil {
		return nil, err
	}
	return &apiServer{listener: l}, nil
}

func (a *apiServer) serve(p *parent) {
	if a != nil {
		a.server = p.serve(a.listener, p.apiHandler())
	}
}

// Close stops listening and ends the connections.
func (a *apiServer) Close() {
	switch {
	case a == nil:
	case a.server != nil:
		a.server.Close()
	default:
		a.listener.Close()
	}
}
