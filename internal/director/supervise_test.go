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

func idleParent() *parent {
	p := newParent(Options{Log: slog.New(slog.DiscardHandler)})
	p.cfg = &config.Config{Services: make([]config.Service, 1)}
	return p
}

// TestSilentBalancer: one missed ping is nothing, silence is said once, and in the end the balancer is replaced.
func TestSilentBalancer(t *testing.T) {
	p := idleParent()
	w := p.balancer
	w.child = sleeper(t)
	missed := pong{w, w.child, errNoAnswer}
	last := func() (what string) {
		events, _ := p.events.since(0)
		for _, e := range events {
			what = e.What
		}
		return what
	}

	w.heard = time.Now().Add(-askTimeout)
	p.ponged(missed)
	if last() != "" || w.problem != "" {
		t.Errorf("after one missed ping: event %q, problem %q", last(), w.problem)
	}
	w.heard = time.Now().Add(-2 * silenceSaid)
	p.ponged(missed)
	if last() != "balancer does not answer, servers are not checked" || !strings.HasPrefix(w.problem, "does not answer since ") {
		t.Errorf("after silence: event %q, problem %q", last(), w.problem)
	}
	p.ponged(pong{w, w.child, nil})
	if last() != "balancer answers again" || w.problem != "" {
		t.Errorf("after an answer: event %q, problem %q", last(), w.problem)
	}
	w.heard = time.Now().Add(-2 * w.borne)
	p.ponged(missed)
	select {
	case <-w.gone():
	default:
		t.Fatal("the balancer lives on")
	}
	p.died(w)
	if w.child != nil || !strings.HasPrefix(w.problem, "died (signal: killed), next try at ") {
		t.Errorf("after its death: problem %q", w.problem)
	}
	p.ponged(missed) // of the dead one
	if w.problem == "" {
		t.Error("a late answer of the dead balancer counts")
	}
}

// TestRestartPauses: a child that keeps dying is started again less and less often; the elector may die three times
// before the first pause, as its node is nobody's backup meanwhile.
func TestRestartPauses(t *testing.T) {
	for role, want := range map[string]string{
		roleBalancer: "0s 1s 2s 4s 8s 16s 32s 1m0s 1m0s",
		roleElector:  "0s 0s 0s 1s 2s 4s 8s 16s 32s",
	} {
		w := newBalancerWard()
		if role == roleElector {
			w = newElectorWard()
		}
		var got []string
		for range 9 {
			got = append(got, w.pause().String())
			w.deaths++
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: pauses %s, want %s", role, s, want)
		}
	}
}
