package director

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"poise/internal/status"
)

// How the parent watches the balancer.
const (
	pingInterval = 5 * time.Second
	// After this long without an answer it is a trouble, and after so long it is replaced. A large table on a slow
	// machine may take the balancer several seconds.
	silenceSaid   = 10 * time.Second
	silenceBorne  = 45 * time.Second
	wordsInterval = 30 * time.Second // how old its last words are at most, should it die
)

// supervisor is the life of the balancer as its parent sees it. It belongs to the parent's loop.
type supervisor struct {
	balancer *child // nil while there is none
	started  time.Time
	restarts uint64
	backoff  time.Duration
	restart  *time.Timer // fires when the next one is due
	problem  string      // what is the matter, "" when nothing is

	pinging bool
	pongs   chan pong
	heard   time.Time // when it last answered
}

// pong is the outcome of one ping.
type pong struct {
	from *child
	err  error
}

// gone is closed when the balancer has ended; nil while there is none.
func (s *supervisor) gone() <-chan struct{} {
	if s.balancer == nil {
		return nil
	}
	return s.balancer.ended
}

func (p *parent) startBalancer(ctx context.Context) (*child, error) {
	p.started = time.Now()
	return startChild(ctx, roleBalancer, []string{p.RuntimeDir}, p.lock, p.events.add)
}

// ping asks the balancer whether it is there. The answer comes to pongs.
func (p *parent) ping(ctx context.Context) {
	if p.balancer == nil || p.pinging {
		return
	}
	p.pinging = true
	b := p.balancer
	go func() {
		_, err := b.ask(ctx, askTimeout, message{Kind: kindPing})
		select {
		case p.pongs <- pong{b, err}:
		case <-ctx.Done():
		}
	}()
	go p.view.snapshot(ctx, time.Now().Add(-wordsInterval))
}

// ponged draws the conclusion from a ping.
func (p *parent) ponged(answer pong) {
	p.pinging = false
	if answer.from != p.balancer || p.balancer == nil {
		return
	}
	if answer.err == nil {
		p.heard = time.Now()
		if p.problem != "" {
			p.setProblem("")
			p.emit(status.Event{Level: slog.LevelInfo, What: "balancer answers again"})
		}
		return
	}
	silence := time.Since(p.heard)
	if silence > silenceSaid && p.problem == "" {
		p.setProblem("does not answer since " + p.heard.Local().Format(time.DateTime))
		p.emit(status.Event{Level: slog.LevelError, What: "balancer does not answer, servers are not checked"})
	}
	if silence > silenceBorne {
		p.emit(status.Event{Level: slog.LevelError, What: "balancer killed", Cause: fmt.Sprintf("no answer for %v", silence.Round(time.Second))})
		p.balancer.kill() // the loop sees that it is gone
	}
}

// balancerDied takes note and decides when to start the next one.
func (p *parent) balancerDied() {
	cause := fmt.Sprint(p.balancer.err)
	p.emit(status.Event{Level: slog.LevelError, What: "balancer died, the kernel goes on with the last table", Cause: cause})
	p.balancer.conn.Close()
	p.balancer = nil
	if time.Since(p.started) > lastRetry {
		p.backoff = 0
	}
	p.restartIn(p.backoff, "died ("+cause+")")
}

// restartIn plans the next attempt, and a longer pause for the one after it.
func (p *parent) restartIn(wait time.Duration, because string) {
	p.backoff = min(max(2*p.backoff, firstRetry), lastRetry)
	p.restart.Reset(wait)
	p.setProblem(fmt.Sprintf("%s, next try at %s", because, time.Now().Add(wait).Local().Format(time.TimeOnly)))
}

// reviveBalancer starts a new balancer with what is in force.
func (p *parent) reviveBalancer(ctx context.Context) error {
	b, err := p.startBalancer(ctx)
	if err != nil {
		return err
	}
	for _, m := range []message{
		{Kind: kindPrepare, Epoch: p.epoch, Config: p.cfg, Resume: true},
		{Kind: kindCommit, Epoch: p.epoch, Intents: p.intents},
	} {
		if _, err := b.ask(ctx, commitTimeout, m); err != nil {
			b.kill()
			return err
		}
	}
	p.balancer, p.heard = b, time.Now()
	p.restarts++
	p.setProblem("")
	p.emit(status.Event{Level: slog.LevelInfo, What: "balancer restarted"})
	return nil
}

func (p *parent) setProblem(problem string) {
	p.problem = problem
	p.publish()
}
