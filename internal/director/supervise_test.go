package director

import (
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"poise/config"
)

// sleeper is a child process that says nothing.
func sleeper(t *testing.T) *child {
	left, _ := net.Pipe()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{role: roleBalancer, process: cmd.Process, conn: &conn{Conn: left}, ended: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	t.Cleanup(c.kill)
	return c
}

// TestSilentBalancer: one missed ping is nothing, silence is said once, and in the end the balancer is replaced.
func TestSilentBalancer(t *testing.T) {
	p := &parent{Options: Options{Log: slog.New(slog.DiscardHandler)}, events: newRing(), cfg: &config.Config{}}
	p.restart = time.NewTimer(time.Hour)
	p.balancer = sleeper(t)
	missed := pong{p.balancer, errNoAnswer}
	last := func() (what string) {
		events, _ := p.events.since(0)
		for _, e := range events {
			what = e.What
		}
		return what
	}

	p.heard = time.Now().Add(-askTimeout)
	p.ponged(missed)
	if last() != "" || p.problem != "" {
		t.Errorf("after one missed ping: event %q, problem %q", last(), p.problem)
	}
	p.heard = time.Now().Add(-2 * silenceSaid)
	p.ponged(missed)
	if last() != "balancer does not answer, servers are not checked" || !strings.HasPrefix(p.problem, "does not answer since ") {
		t.Errorf("after silence: event %q, problem %q", last(), p.problem)
	}
	p.ponged(pong{p.balancer, nil})
	if last() != "balancer answers again" || p.problem != "" {
		t.Errorf("after an answer: event %q, problem %q", last(), p.problem)
	}
	p.heard = time.Now().Add(-2 * silenceBorne)
	p.ponged(missed)
	select {
	case <-p.gone():
	default:
		t.Fatal("the balancer lives on")
	}
	p.balancerDied()
	if p.balancer != nil || !strings.HasPrefix(p.problem, "died (signal: killed), next try at ") {
		t.Errorf("after its death: problem %q", p.problem)
	}
	p.ponged(missed) // of the dead one
	if p.problem == "" {
		t.Error("a late answer of the dead balancer counts")
	}
}

// TestRestartPauses: the first restart is at once, and a balancer that keeps dying is tried less and less often.
func TestRestartPauses(t *testing.T) {
	p := &parent{Options: Options{Log: slog.New(slog.DiscardHandler)}, events: newRing(), cfg: &config.Config{}}
	p.restart = time.NewTimer(time.Hour)
	var pauses []time.Duration
	for range 8 {
		p.started = time.Now()
		pauses = append(pauses, p.backoff)
		p.restartIn(p.backoff, "died")
	}
	for i, want := range []time.Duration{0, 1, 2, 4, 8, 16, 32, 60} {
		if pauses[i] != want*time.Second {
			t.Errorf("pauses %v, want 0 1 2 4 8 16 32 60 seconds", pauses)
			break
		}
	}
}
