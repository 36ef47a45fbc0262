package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"poise/checker"
	"poise/config"
	"poise/internal/host"
	"poise/internal/status"
)

// Options are what the command line says.
type Options struct {
	ConfigFile string
	RuntimeDir string // where the control socket and the records are
	Version    string
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
	serving  sync.WaitGroup

	lock    *os.File
	control net.Listener
	api     *apiServer // nil when not configured

	cfg      *config.Config
	epoch    uint64
	loaded   time.Time
	rejected string // why the last reload was not taken
	intents  intents
	supervisor
}

// Run is the director daemon: it returns when SIGTERM or SIGINT has been carried out, or with the
// reason why it could not begin. What it finds out before it touches the kernel changes nothing.
func Run(ctx context.Context, o Options) error {
	// From the first moment on, or a signal that comes early would end the process by default.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	p := &parent{Options: o, events: newRing(), requests: make(chan func())}
	p.pongs = make(chan pong)
	p.restart = time.NewTimer(0)
	p.restart.Stop()
	cfg, err := config.Load(o.ConfigFile)
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
	if err := p.begin(ctx, cfg); err != nil {
		return err
	}
	return p.loop(ctx, hup)
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
	if p.intents, err = loadIntents(p.intentsFile()); err != nil {
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

func (p *parent) intentsFile() string { return filepath.Join(p.RuntimeDir, "intents.json") }

// begin starts the balancer with the first configuration.
func (p *parent) begin(ctx context.Context, cfg *config.Config) error {
	b, err := p.startBalancer(ctx)
	if err != nil {
		return err
	}
	p.balancer, p.heard = b, time.Now()
	p.cfg = cfg // there is no former one that intents could follow from
	// A signal to stop waits until what was begun is whole, and then undoes it as configured.
	whole := context.WithoutCancel(ctx)
	_, err = b.ask(whole, prepareTimeout, message{Kind: kindPrepare, Epoch: p.epoch + 1, Config: cfg})
	if err == nil {
		err = p.commit(whole, cfg)
	}
	if err != nil {
		b.kill()
	}
	return err
}

// commit makes a prepared configuration the one in force.
func (p *parent) commit(ctx context.Context, cfg *config.Config) error {
	next := p.intents.follow(p.cfg, cfg)
	_, err := p.balancer.ask(ctx, commitTimeout, message{Kind: kindCommit, Epoch: p.epoch + 1, Intents: next})
	if err != nil {
		return err
	}
	for i, s := range next {
		if hasServer(p.cfg, p.intents[i].Key) && !hasServer(cfg, s.Key) {
			p.emit(status.Event{
				Level: slog.LevelWarn, What: "server left the configuration, what was asked for it waits",
				Service: s.Service, Server: s.Server, Cause: "asked" + because(&s.Intent),
			})
		}
	}
	p.cfg, p.loaded, p.rejected, p.heard = cfg, time.Now(), "", time.Now()
	p.epoch++
	p.setIntents(next)
	return nil
}

// setIntents remembers what operators want.
func (p *parent) setIntents(in intents) {
	p.intents = in
	if err := in.save(p.intentsFile()); err != nil {
		p.emit(status.Event{Level: slog.LevelError, What: "intents not recorded, a restart forgets them", Cause: err.Error()})
	}
	p.publish()
}

func (p *parent) loop(ctx context.Context, hup <-chan os.Signal) error {
	defer p.serving.Wait()
	control := p.serve(p.control, p.controlHandler())
	defer control.Close()
	p.api.serve(p)
	defer func() { p.api.Close() }() // whichever it is then

	p.emit(status.Event{Level: slog.LevelInfo, What: "running", Cause: fmt.Sprintf("%s, services: %d", p.ConfigFile, len(p.cfg.Services))})
	notify("READY=1")
	pings := time.NewTicker(pingInterval)
	defer pings.Stop()
	defer p.restart.Stop()
	for {
		select {
		case <-ctx.Done():
			return p.stop(context.Cause(ctx))
		case <-hup:
			_ = p.reload(ctx) // has said what was wrong
		case do := <-p.requests:
			do()
		case <-pings.C:
			p.ping(ctx)
		case answer := <-p.pongs:
			p.ponged(answer)
		case <-p.gone():
			p.balancerDied()
		case <-p.restart.C:
			if err := p.reviveBalancer(context.WithoutCancel(ctx)); err != nil {
				p.emit(status.Event{Level: slog.LevelError, What: "balancer not restarted", Cause: err.Error()})
				p.restartIn(p.backoff, "cannot be started ("+err.Error()+")")
			}
		}
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
	cfg, err := config.Load(p.ConfigFile)
	if err != nil {
		return err
	}
	if p.balancer == nil {
		return errors.New("the balancer is being restarted, try again")
	}
	api := p.api
	if cfg.Global.API != p.cfg.Global.API {
		if api, err = p.listenAPI(cfg); err != nil {
			return err
		}
	}
	if _, err := p.balancer.ask(ctx, prepareTimeout, message{Kind: kindPrepare, Epoch: p.epoch + 1, Config: cfg}); err != nil {
		// Not heard when it is the balancer that hangs; a later prepare replaces this one anyway.
		_ = p.balancer.conn.send(message{Kind: kindAbort, Epoch: p.epoch + 1})
		if api != p.api {
			api.Close()
		}
		return err
	}
	if err := p.commit(ctx, cfg); err != nil {
		if api != p.api {
			api.Close()
		}
		// Half carried out at worst: the next balancer begins with the configuration that was in force.
		p.balancer.kill()
		return fmt.Errorf("%w: the former configuration is being restored", err)
	}
	if api != p.api {
		p.api.Close()
		p.api = api
		api.serve(p)
	}
	return nil
}

// stop ends the balancer, which leaves or removes the table as configured.
func (p *parent) stop(cause error) error {
	notify("STOPPING=1")
	p.emit(status.Event{Level: slog.LevelInfo, What: "stopping", Cause: fmt.Sprintf("%v, on_stop = %s", cause, p.cfg.Global.OnStop)})
	select {
	case <-p.gone():
		p.balancerDied()
	default:
	}
	ctx := context.Background() // the loop's has ended: that is why this is happening
	timeout := askTimeout
	if p.cfg.Global.OnStop == config.Remove {
		timeout = commitTimeout
		if p.balancer == nil { // it died a moment ago, and there is work for one more
			if err := p.reviveBalancer(ctx); err != nil {
				return fmt.Errorf("on_stop = remove, but nothing was removed: %w", err)
			}
		}
	}
	if p.balancer == nil {
		return nil
	}
	defer p.balancer.kill()
	_, err := p.balancer.ask(ctx, timeout, message{Kind: kindStop})
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
		Time:     time.Now(),
		Node:     p.cfg.Global.Node,
		Version:  p.Version,
		Config:   status.Config{File: p.ConfigFile, Epoch: p.epoch, Loaded: p.loaded, Rejected: p.rejected},
		Balancer: status.Balancer{Restarts: p.restarts, Problem: p.problem},
		Dormant:  p.intents.dormant(p.cfg),
	}
	if p.balancer != nil {
		own.Balancer.PID = p.balancer.process.Pid
	}
	p.view.publish(own, p.balancer)
}

// intend carries out an operator's wish about one server. It is the parent's to remember: once recorded, it
// is carried out by whichever balancer there is or will be.
func (p *parent) intend(ctx context.Context, key checker.Key, change func(intents) intents, e status.Event) error {
	return p.do(ctx, func() error {
		if err := p.mayIntend(key); err != nil {
			return err
		}
		p.setIntents(change(p.intents))
		p.emit(e)
		if p.balancer == nil {
			return errors.New("recorded; the balancer is being restarted and will do it")
		}
		_, err := p.balancer.ask(context.WithoutCancel(ctx), askTimeout, message{Kind: kindIntents, Intents: p.intents})
		if err != nil {
			return fmt.Errorf("recorded, but not done yet: %w", err)
		}
		return nil
	})
}

// unknownServer says that an operator named what the configuration does not have.
type unknownServer string

func (u unknownServer) Error() string { return string(u) }

// mayIntend is nil when there is a server of this name, or was one when an operator last asked something of it.
func (p *parent) mayIntend(key checker.Key) error {
	if hasServer(p.cfg, key) || p.intents.of(key) != nil {
		return nil
	}
	var services []string
	for _, service := range p.cfg.Services {
		services = append(services, service.Name)
		if service.Name != key.Service {
			continue
		}
		if service.SorryServer == key.Server {
			return unknownServer(fmt.Sprintf("%v is the sorry server of %q: it takes traffic only where there is no quorum", key.Server, key.Service))
		}
		var servers []string
		for _, server := range service.Servers {
			servers = append(servers, server.Addr().String())
		}
		return unknownServer(fmt.Sprintf("service %q has no server %v; it has %s", key.Service, key.Server, few(servers)))
	}
	return unknownServer(fmt.Sprintf("there is no service %q; there are %s", key.Service, few(services)))
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
	p.serving.Go(func() {
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
