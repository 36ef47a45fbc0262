package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"poise/config"
	"poise/internal/status"
)

// How the parent watches its children.
const (
	pingInterval  = 5 * time.Second
	silenceSaid   = 10 * time.Second // after this long without an answer it is a trouble
	wordsInterval = 30 * time.Second // how old the last words are at most, should a child die
)

// ward is a child in the parent's care. It belongs to the parent's loop.
type ward struct {
	role    string
	without string        // what nobody does while it is silent
	borne   time.Duration // after so long without an answer it is replaced
	free    int           // how often it may die in a row before the next start waits

	child    *child // nil while there is none
	started  time.Time
	deaths   int // in a row
	restarts uint64
	restart  *time.Timer // fires when the next one is due
	problem  string      // what is the matter, "" when nothing is

	pinging bool
	heard   time.Time // when it last answered
}

// A large table on a slow machine may take the balancer several seconds; the elector never has much to do, and while it
// hangs two nodes may have the addresses.
func newBalancerWard() *ward {
	return newWard(&ward{role: roleBalancer, without: "servers are not checked", borne: 45 * time.Second, free: 1})
}

func newElectorWard() *ward {
	return newWard(&ward{role: roleElector, without: "adverts may be missing", borne: 15 * time.Second, free: 3})
}

func newWard(w *ward) *ward {
	w.restart = idleTimer()
	return w
}

// idleTimer is one that fires only after a Reset.
func idleTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// pong is the outcome of one ping.
type pong struct {
	ward *ward
	from *child
	err  error
}

// gone is closed when the child has ended; nil while there is none.
func (w *ward) gone() <-chan struct{} {
	if w.child == nil {
		return nil
	}
	return w.child.ended
}

// wanted tells whether cfg has work for the ward.
func (w *ward) wanted(cfg *config.Config) bool {
	if w.role == roleElector {
		return len(cfg.Routers) > 0
	}
	return len(cfg.Services) > 0
}

// part is what of cfg the ward has to know.
func (w *ward) part(cfg *config.Config) *config.Config {
	if w.role == roleElector {
		return &config.Config{Global: cfg.Global, Routers: cfg.Routers} // there may be thousands of servers
	}
	return cfg
}

// start starts the ward's child.
func (p *parent) start(ctx context.Context, w *ward) (err error) {
	w.started = time.Now()
	defer func() { w.heard = time.Now() }()
	if w.role == roleBalancer {
		b := p.birth(roleBalancer)
		b.args = []string{p.RuntimeDir, p.Table}
		w.child, err = startChild(ctx, b)
		return err
	}
	p.spareDue.Reset(spareDelay)
	if w.child = p.takeSpare(); w.child != nil {
		return nil
	}
	if p.beats == nil {
		if p.beats, err = newBeats(); err != nil {
			return err
		}
	}
	w.child, err = startChild(ctx, p.electorBirth())
	return err
}

func (p *parent) birth(role string) birth {
	return birth{role: role, lock: p.lock, events: p.events.add, masters: p.roles.set}
}

func (p *parent) electorBirth() birth {
	b := p.birth(roleElector)
	b.beats = p.beats
	return b
}

// ping asks a child whether it is there. The answer comes to pongs.
func (p *parent) ping(ctx context.Context, w *ward) {
	if w.child == nil || w.pinging {
		return
	}
	w.pinging = true
	c := w.child
	go func() {
		_, err := c.ask(ctx, askTimeout, message{Kind: kindPing})
		select {
		case p.pongs <- pong{w, c, err}:
		case <-ctx.Done():
		}
	}()
}

// ponged draws the conclusion from a ping.
func (p *parent) ponged(answer pong) {
	w := answer.ward
	w.pinging = false
	if answer.from != w.child || w.child == nil {
		return
	}
	if answer.err == nil {
		w.heard = time.Now()
		if w.problem != "" {
			p.setProblem(w, "")
			p.emit(status.Event{Level: slog.LevelInfo, What: w.role + " answers again"})
		}
		return
	}
	silence := time.Since(w.heard)
	if silence > silenceSaid && w.problem == "" {
		p.setProblem(w, "does not answer since "+w.heard.Local().Format(time.DateTime))
		p.emit(status.Event{Level: slog.LevelError, What: w.role + " does not answer, " + w.without})
	}
	if silence > w.borne {
		p.emit(status.Event{Level: slog.LevelError, What: w.role + " killed", Cause: fmt.Sprintf("no answer for %v", silence.Round(time.Second))})
		w.child.kill() // the loop sees that it is gone
	}
}

// died takes note and decides when to start the next one.
func (p *parent) died(w *ward) {
	cause := fmt.Sprint(w.child.err)
	p.emit(status.Event{Level: slog.LevelError, What: w.role + " died, the kernel goes on as it is", Cause: cause})
	w.child.conn.Close()
	w.child = nil
	if time.Since(w.started) > lastRetry {
		w.deaths = 0
	}
	if p.restartLater(w, "died ("+cause+")") > 0 && w.role == roleElector {
		p.releaseLeft() // nobody stands for election meanwhile
	}
}

// restartLater plans the next attempt, and returns when: at once at first, later with longer and longer pauses.
func (p *parent) restartLater(w *ward, because string) time.Duration {
	wait := w.pause()
	w.deaths++
	w.restart.Reset(wait)
	p.setProblem(w, fmt.Sprintf("%s, next try at %s", because, time.Now().Add(wait).Local().Format(time.TimeOnly)))
	return wait
}

// revive starts a new child with what is in force.
func (p *parent) revive(ctx context.Context, w *ward) error {
	err := p.start(ctx, w)
	commit := p.wishesFor(w, p.wishes)
	commit.Kind, commit.Epoch = kindCommit, p.epoch
	for _, m := range []message{{Kind: kindPrepare, Epoch: p.epoch, Config: w.part(p.cfg), Resume: true}, commit} {
		if err == nil {
			_, err = w.child.ask(ctx, commitTimeout, m)
		}
	}
	if err != nil {
		if w.child != nil {
			w.child.kill()
			w.child = nil
		}
		if w.role == roleElector {
			p.releaseLeft()
		}
		return err
	}
	w.restarts++
	p.setProblem(w, "")
	p.emit(status.Event{Level: slog.LevelInfo, What: w.role + " restarted"})
	return nil
}

// releaseTime is how long handing over what is left may take.
const releaseTime = 5 * time.Second

// releaseLeft hands over the addresses that an elector left which died, in a process of its own: no address may outlive
// all electors.
func (p *parent) releaseLeft() {
	left, err := loadLeft(p.RuntimeDir)
	if err == nil && len(left) == 0 {
		return
	}
	p.roles.set(nil)
	if p.beats != nil { // the next elector must not go on where this one stopped
		err = errors.Join(err, clearBeats(p.beats))
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/proc/self/exe", p.RuntimeDir)
		cmd.Args[0] = childName(roleRelease)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err = cmd.Run()
	}
	if err != nil {
		p.emit(status.Event{
			Level: slog.LevelError, What: "addresses of a dead elector may be left on this host",
			Cause: errors.Join(err, errors.New(`"ip address" shows them`)).Error(),
		})
	}
}

// pause is how long the next start waits.
func (w *ward) pause() time.Duration {
	if w.deaths < w.free {
		return 0
	}
	return min(firstRetry<<min(w.deaths-w.free, 10), lastRetry)
}

func (p *parent) setProblem(w *ward, problem string) {
	w.problem = problem
	p.publish()
}
