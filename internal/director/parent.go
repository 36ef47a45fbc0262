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

// parent is the process that reads the file, supervises and listens. One goroutine, in loop, owns the
// state; HTTP handlers reach it through do.
type parent struct {
	Options
	events   *ring
	lock     *os.File
	requests chan func()
	control  net.Listener
	api      net.Listener // nil when not configured

	cfg      *config.Config
	epoch    uint64
	loaded   time.Time
	rejected string // why the last reload was not taken
	intents  intents

	balancer *child // nil while there is none
	restarts uint64
	backoff  time.Duration
	started  time.Time
	last     *status.Snapshot // the balancer's last words, shown while it is silent
}

// Run is the director daemon: it returns when SIGTERM or SIGINT has been carried out, or with the
// reason why it could not begin. Then nothing has been changed.
func Run(ctx context.Context, o Options) error {
	// From the first moment on, or a signal that comes early would end the process by default.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	p := &parent{Options: o, events: newRing(), requests: make(chan func())}
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
	if cfg.Global.API.IsValid() {
		if p.api, err = listenAPI(cfg.Global.API); err != nil {
			return err
		}
	}
	return nil
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
	p.balancer = b
	_, err = b.ask(ctx, prepareTimeout, message{Kind: kindPrepare, Epoch: p.epoch + 1, Config: cfg})
	if err == nil {
		err = p.commit(ctx, cfg)
	}
	if err != nil {
		b.kill()
	}
	return err
}

func (p *parent) startBalancer(ctx context.Context) (*child, error) {
	p.started = time.Now()
	return startChild(ctx, roleBalancer, []string{p.RuntimeDir}, p.lock, p.events.add)
}

// commit makes a prepared configuration the one in force.
func (p *parent) commit(ctx context.Context, cfg *config.Config) error {
	kept, dropped := p.intents.within(cfg)
	_, err := p.balancer.ask(ctx, commitTimeout, message{Kind: kindCommit, Epoch: p.epoch + 1, Intents: kept})
	if err != nil {
		return err
	}
	p.cfg, p.loaded, p.rejected = cfg, time.Now(), ""
	p.epoch++
	for _, intent := range dropped {
		p.emit(status.Event{Level: slog.LevelInfo, What: "intent dropped, the server is not configured any more", Service: intent.Service, Server: intent.Server})
	}
	p.setIntents(kept)
	return nil
}

// setIntents remembers what operators want. The children have been told already.
func (p *parent) setIntents(in intents) {
	p.intents = in
	if err := in.save(p.intentsFile()); err != nil {
		p.emit(status.Event{Level: slog.LevelError, What: "intents not recorded, a restart forgets them", Cause: err.Error()})
	}
}

func (p *parent) loop(ctx context.Context, hup <-chan os.Signal) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	control := p.serve(&serving, p.control, p.controlHandler())
	defer control.Close()
	if p.api != nil {
		api := p.serve(&serving, p.api, p.apiHandler())
		defer api.Close()
	}

	p.emit(status.Event{Level: slog.LevelInfo, What: "running", Cause: fmt.Sprintf("%s, %d services", p.ConfigFile, len(p.cfg.Services))})
	notify("READY=1")
	restart := time.NewTimer(0)
	restart.Stop()
	defer restart.Stop()
	for {
		var gone <-chan struct{}
		if p.balancer != nil {
			gone = p.balancer.ended
		}
		select {
		case <-ctx.Done():
			return p.stop(context.Cause(ctx))
		case <-hup:
			notify(reloading())
			p.reload(ctx)
			notify("READY=1")
		case do := <-p.requests:
			do()
		case <-gone:
			restart.Reset(p.balancerDied())
		case <-restart.C:
			if err := p.reviveBalancer(ctx); err != nil {
				p.emit(status.Event{Level: slog.LevelError, What: "balancer not restarted", Cause: err.Error()})
				restart.Reset(p.nextBackoff())
			}
		}
	}
}

// reload takes the file as a whole or not at all.
func (p *parent) reload(ctx context.Context) {
	reject := func(err error) {
		p.rejected = err.Error()
		p.emit(status.Event{Level: slog.LevelError, What: "reload rejected, nothing changed", Cause: p.rejected})
	}
	cfg, err := config.Load(p.ConfigFile)
	if err != nil {
		reject(err)
		return
	}
	if cfg.Global.API != p.cfg.Global.API {
		reject(fmt.Errorf("global: api = %q: the address is bound at start, restart to change it from %q", cfg.Global.API, p.cfg.Global.API))
		return
	}
	if p.balancer == nil {
		reject(errors.New("the balancer is being restarted, try again"))
		return
	}
	if _, err := p.balancer.ask(ctx, prepareTimeout, message{Kind: kindPrepare, Epoch: p.epoch + 1, Config: cfg}); err != nil {
		reject(err)
		// Not heard when it is the balancer that hangs; a later prepare replaces this one anyway.
		_ = p.balancer.conn.send(message{Kind: kindAbort, Epoch: p.epoch + 1})
		return
	}
	if err := p.commit(ctx, cfg); err != nil {
		// Half carried out at worst. The next balancer starts from the configuration that was in force.
		reject(err)
		p.balancer.kill()
		return
	}
	p.emit(status.Event{Level: slog.LevelInfo, What: "reloaded", Cause: fmt.Sprintf("%s, epoch %d", p.ConfigFile, p.epoch)})
}

// balancerDied takes note and returns how long to wait before the next one.
func (p *parent) balancerDied() time.Duration {
	p.emit(status.Event{
		Level: slog.LevelError, What: "balancer died, the kernel goes on with the last table",
		Cause: fmt.Sprint(p.balancer.err),
	})
	p.balancer.conn.Close()
	p.balancer = nil
	if time.Since(p.started) > lastRetry {
		p.backoff = 0
	}
	if p.backoff == 0 {
		p.backoff = firstRetry
		return 0
	}
	return p.nextBackoff()
}

func (p *parent) nextBackoff() time.Duration {
	wait := max(p.backoff, firstRetry)
	p.backoff = min(2*wait, lastRetry)
	return wait
}

// reviveBalancer starts a new balancer with what is in force.
func (p *parent) reviveBalancer(ctx context.Context) error {
	b, err := p.startBalancer(ctx)
	if err != nil {
		return err
	}
	for _, m := range []message{
		{Kind: kindPrepare, Epoch: p.epoch, Config: p.cfg},
		{Kind: kindCommit, Epoch: p.epoch, Intents: p.intents},
	} {
		if _, err := b.ask(ctx, commitTimeout, m); err != nil {
			b.kill()
			return err
		}
	}
	p.balancer = b
	p.restarts++
	p.emit(status.Event{Level: slog.LevelInfo, What: "balancer restarted"})
	return nil
}

// stop ends the balancer, which leaves or removes the table as configured.
func (p *parent) stop(cause error) error {
	notify("STOPPING=1")
	p.emit(status.Event{Level: slog.LevelInfo, What: "stopping", Cause: fmt.Sprintf("%v, on_stop = %s", cause, p.cfg.Global.OnStop)})
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
	return err
}

// do runs f in the loop's goroutine and waits for it, or for ctx.
func (p *parent) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case p.requests <- func() { f(); close(done) }:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// snapshot is the director's state: the balancer's part afresh, or its last one marked stale.
func (p *parent) snapshot(ctx context.Context) (*status.Snapshot, error) {
	var b *child
	var base status.Snapshot
	if err := p.do(ctx, func() { b, base = p.balancer, p.describe() }); err != nil {
		return nil, err
	}
	fresh := false
	if b != nil {
		if answer, err := b.ask(ctx, askTimeout, message{Kind: kindSnapshot}); err == nil && answer.Snapshot != nil {
			fresh = true
			if err := p.do(ctx, func() { p.last = answer.Snapshot }); err != nil {
				return nil, err
			}
			base.Balancer.PID = b.pid
		}
	}
	var last *status.Snapshot
	if err := p.do(ctx, func() { last = p.last }); err != nil {
		return nil, err
	}
	base.Balancer.Stale = !fresh
	if last != nil {
		base.Time, base.Services, base.Sysctls = last.Time, last.Services, last.Sysctls
		base.ForeignServices, base.Totals = last.ForeignServices, last.Totals
	}
	return &base, nil
}

// describe is the parent's own part of the snapshot.
func (p *parent) describe() status.Snapshot {
	return status.Snapshot{
		Time:    time.Now(),
		Node:    p.cfg.Global.Node,
		Version: p.Version,
		Config:  status.Config{File: p.ConfigFile, Epoch: p.epoch, Loaded: p.loaded, Rejected: p.rejected},
		Balancer: status.Balancer{
			Restarts: p.restarts,
		},
	}
}

// intend carries out an operator's wish about one server and returns when the kernel has been told.
func (p *parent) intend(ctx context.Context, key checker.Key, change func(intents) intents, e status.Event) error {
	var err error
	doErr := p.do(ctx, func() {
		if !hasServer(p.cfg, key) {
			err = &unknownServer{key}
			return
		}
		if p.balancer == nil {
			err = errors.New("the balancer is being restarted, try again")
			return
		}
		next := change(p.intents)
		if _, err = p.balancer.ask(ctx, askTimeout, message{Kind: kindIntents, Intents: next}); err != nil {
			return
		}
		p.emit(e)
		p.setIntents(next)
	})
	return errors.Join(doErr, err)
}

// unknownServer says that an operator named what the configuration does not have.
type unknownServer struct{ checker.Key }

func (u *unknownServer) Error() string {
	return fmt.Sprintf("service %q has no server %v in the configuration", u.Service, u.Server)
}

// emit records a decision of the parent.
func (p *parent) emit(e status.Event) {
	e.Time = time.Now()
	logEvent(p.Log, e)
	p.events.add(e)
}

// serve answers requests on l until the server is closed.
func (p *parent) serve(running *sync.WaitGroup, l net.Listener, handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ConnContext:       withPeer,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
	}
	running.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.emit(status.Event{Level: slog.LevelError, What: "no longer listening", Cause: err.Error()})
		}
	})
	return server
}
