package checker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// These tests run in fake time: a probe takes exactly as long as it sleeps.

var (
	base       = Config{Interval: 2 * time.Second, Timeout: time.Second, Rise: 1, Fall: 2}
	errRefused = errors.New("refused")
)

// target is server n of service "web".
func target(n int, c Config) Target {
	server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 80)
	return Target{Key: Key{Service: "web", Server: server}, Addr: server, Config: c}
}

func targets(n int, c Config) []Target {
	var ts []Target
	for i := range n {
		ts = append(ts, target(i, c))
	}
	return ts
}

// run starts a loop that asks every target by probe. It ends with the test.
func run(t *testing.T, probe Probe) *Loop {
	return runWith(t, func(netip.AddrPort, Config) (Probe, error) { return probe, nil })
}

func runWith(t *testing.T, newProbe func(netip.AddrPort, Config) (Probe, error)) *Loop {
	l := NewLoop()
	l.newProbe = newProbe
	var running sync.WaitGroup
	running.Go(func() { l.Run(t.Context()) })
	t.Cleanup(running.Wait)
	return l
}

func set(t *testing.T, l *Loop, ts ...Target) {
	t.Helper()
	if err := l.Set(ts); err != nil {
		t.Fatal(err)
	}
}

// quiet says whether nothing is reported for d.
func quiet(l *Loop, d time.Duration) bool {
	select {
	case <-l.Reports():
		return false
	case <-time.After(d):
		return true
	}
}

func answers(context.Context) error { return nil }
func refuses(context.Context) error { return errRefused }

// hangs is a server that does not answer.
func hangs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, base.Timeout)
	defer cancel()
	<-ctx.Done()
	return ctx.Err()
}

func TestLoopSpreadsFirstProbes(t *testing.T) {
	for _, interval := range []time.Duration{200 * time.Millisecond, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			const n = 500
			c := base
			c.Interval = interval
			l := run(t, answers)
			begin := time.Now()
			set(t, l, targets(n, c)...)
			within := min(interval, time.Second)
			var tenths [10]int
			for seen := map[Key]bool{}; len(seen) < n; {
				if r := <-l.Reports(); !seen[r.Key] {
					seen[r.Key] = true
					tenths[10*r.At.Sub(begin)/within]++
				}
			}
			if least := slices.Min(tenths[:]); least < n/40 {
				t.Errorf("interval %v: first probes in each tenth of %v: %v", interval, within, tenths)
			}
		})
	}
}

// A probe that takes long does not move the next: from the second on, turns come at the interval.
func TestLoopKeepsPhase(t *testing.T) {
	for _, took := range []time.Duration{0, 700 * time.Millisecond, base.Interval} {
		synctest.Test(t, func(t *testing.T) {
			l := run(t, func(context.Context) error { time.Sleep(took); return nil })
			set(t, l, target(1, base))
			<-l.Reports()
			second := <-l.Reports()
			turn := second.At.Add(-second.Took - second.Late)
			for range 5 {
				turn = turn.Add(base.Interval)
				r := <-l.Reports()
				if at := r.At.Add(-r.Took - r.Late); r.Took != took || !at.Equal(turn) {
					t.Errorf("turn at %v, took %v, want %v, %v", at, r.Took, turn, took)
				}
			}
		})
	}
}

func TestLoopJudges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		results := []error{nil, errRefused, errRefused, errRefused, nil, errRefused, fmt.Errorf("%w: no ports", ErrSelf), errRefused}
		l := run(t, func(context.Context) error {
			err := results[0]
			results = results[1:]
			return err
		})
		set(t, l, target(1, base))
		for i, want := range []Report{
			{Err: nil, State: Up, Changed: true},
			{Err: errRefused, State: Up},
			{Err: errRefused, State: Down, Changed: true},
			{Err: errRefused, State: Down},
			{Err: nil, State: Up, Changed: true},
			{Err: errRefused, State: Up},
			{Err: ErrSelf, State: Up},
			{Err: errRefused, State: Down, Changed: true},
		} {
			r := <-l.Reports()
			if r.Key != target(1, base).Key || !errors.Is(r.Err, want.Err) || r.State != want.State || r.Changed != want.Changed {
				t.Errorf("report %d: %+v, want %+v", i, r, want)
			}
		}
	})
}

// A failure that comes long after the timeout is this process's, not the server's.
func TestLoopSuspectsItself(t *testing.T) {
	for _, tt := range []struct {
		name    string
		took    time.Duration
		err     error
		counted bool
	}{
		{"failure in time", base.Timeout, errRefused, true},
		{"failure soon after", base.Timeout + grace, errRefused, true},
		{"failure long after", base.Timeout + grace + 1, errRefused, false},
		{"success long after", base.Timeout + time.Hour, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := run(t, func(context.Context) error { time.Sleep(tt.took); return tt.err })
				c := base
				c.Fall = 1
				set(t, l, target(1, c))
				r := <-l.Reports()
				if r.Changed != tt.counted || errors.Is(r.Err, ErrSelf) == tt.counted {
					t.Errorf("report %+v, want counted %v", r, tt.counted)
				}
			})
		})
	}
}

func TestLoopForgetsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cancelled atomic.Int32
		l := run(t, func(ctx context.Context) error {
			err := hangs(ctx)
			if errors.Is(err, context.Canceled) {
				cancelled.Add(1)
			}
			return err
		})
		set(t, l, target(1, base), target(2, base))
		time.Sleep(time.Second) // both are in flight, or wait to report
		synctest.Wait()
		set(t, l)
		if !quiet(l, time.Hour) {
			t.Error("a removed target is reported")
		}
		if cancelled.Load() == 0 {
			t.Error("no probe was ended")
		}

		set(t, l, target(1, base))
		if r := <-l.Reports(); r.State != Unknown {
			t.Errorf("a target that comes back is %v, want unknown", r.State)
		}
	})
}

// A report that waits for its receiver is withdrawn with its target.
func TestLoopWithdrawsReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t, answers)
		set(t, l, target(1, base), target(2, base))
		time.Sleep(base.Interval)
		synctest.Wait()
		set(t, l, target(2, base))
		for range 3 {
			if r := <-l.Reports(); r.Key != target(2, base).Key {
				t.Errorf("report of %v", r.Key)
			}
		}
	})
}

func TestLoopKeepsUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t, refuses)
		set(t, l, target(1, base))
		<-l.Reports()
		second := <-l.Reports()
		if second.State != Down {
			t.Fatalf("state %v after 2 failures", second.State)
		}
		time.Sleep(base.Interval / 2)
		set(t, l, target(1, base), target(2, base))
		for {
			r := <-l.Reports()
			if r.Key != second.Key {
				continue
			}
			if r.State != Down || r.Changed || r.At.Sub(second.At) != base.Interval {
				t.Errorf("report %v after the last: %+v", r.At.Sub(second.At), r)
			}
			return
		}
	})
}

// A changed target keeps its verdict, and needs whole new streaks to lose it.
func TestLoopCarriesVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		l := run(t, func(context.Context) error {
			if broken.Load() {
				return errRefused
			}
			return nil
		})
		set(t, l, target(1, base))
		<-l.Reports()
		broken.Store(true)
		if r := <-l.Reports(); r.State != Up {
			t.Fatalf("state %v after 1 failure, want up", r.State)
		}

		changed := base
		changed.Path, changed.Status = "/other", []StatusRange{{200, 204}}
		set(t, l, target(1, changed))
		for i, want := range []State{Up, Down, Down} {
			if r := <-l.Reports(); r.State != want {
				t.Errorf("failure %d after the change: state %v, want %v", i+1, r.State, want)
			}
		}
	})
}

func TestLoopDropsOldQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		l := runWith(t, func(_ netip.AddrPort, c Config) (Probe, error) {
			return func(context.Context) error {
				if c.Path == "" {
					asked.Add(1)
				}
				return nil
			}, nil
		})
		set(t, l, target(1, base))
		<-l.Reports()
		synctest.Wait()
		before := asked.Load()
		changed := base
		changed.Path = "/other"
		set(t, l, target(1, changed))
		for range 3 {
			<-l.Reports()
		}
		if n := asked.Load() - before; n != 0 {
			t.Errorf("the old question was asked %d times more", n)
		}
	})
}

// The end of the probe that was in flight when its target changed says nothing.
func TestLoopDropsOldAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := runWith(t, func(_ netip.AddrPort, c Config) (Probe, error) {
			if c.Path == "" {
				return hangs, nil
			}
			return answers, nil
		})
		set(t, l, target(1, base))
		time.Sleep(time.Second)
		changed := base
		changed.Path = "/other"
		set(t, l, target(1, changed))
		if r := <-l.Reports(); r.Err != nil {
			t.Errorf("the old probe is reported: %v", r.Err)
		}
	})
}

// A verdict that waits for its receiver when its target changes is delivered still.
func TestLoopDeliversVerdictAcrossChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t, answers)
		set(t, l, target(1, base))
		time.Sleep(base.Interval)
		synctest.Wait()
		changed := base
		changed.Rise = 3
		set(t, l, target(1, changed))
		if r := <-l.Reports(); !r.Changed || r.State != Up {
			t.Errorf("report %+v, want the change to up", r)
		}
	})
}

func TestLoopBadTargetChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := runWith(t, func(_ netip.AddrPort, c Config) (Probe, error) {
			if c.Type == "bad" {
				return nil, errors.New("no such check")
			}
			return answers, nil
		})
		set(t, l, target(1, base))
		bad := base
		bad.Type = "bad"
		err := l.Set([]Target{target(2, base), target(3, bad)})
		if want := `service "web": server 10.0.0.3:80: no such check`; errorText(err) != want {
			t.Errorf("error %v, want %s", err, want)
		}
		for range 3 {
			if r := <-l.Reports(); r.Key != target(1, base).Key {
				t.Errorf("report of %v", r.Key)
			}
		}
	})
}

// On a network that answers nothing, the probes beyond the bound wait, and no target is passed over.
func TestLoopBoundsProbesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3 * MaxInFlight
		c := base
		c.Interval = time.Hour // one turn each
		begin := time.Now()
		l := run(t, hangs)
		set(t, l, targets(n, c)...)
		seen := map[Key]int{}
		var late time.Duration
		for len(seen) < n {
			r := <-l.Reports()
			seen[r.Key]++
			late = max(late, r.Late)
			if r.Took != base.Timeout {
				t.Fatalf("took %v, want %v", r.Took, base.Timeout)
			}
		}
		// Each second has room for MaxInFlight probes of a second each.
		if took := time.Since(begin); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("%d targets were probed in %v, want 3s to 5s", n, took)
		}
		if late < time.Second || late > 3*time.Second {
			t.Errorf("late by %v at most, want 1s to 3s", late)
		}
	})
}

func TestLoopWaitsForReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probes := 0
		l := run(t, func(context.Context) error { probes++; return nil })
		set(t, l, target(1, base))
		time.Sleep(time.Hour)
		synctest.Wait()
		if probes != 1 {
			t.Errorf("%d probes, want 1 until its report is received", probes)
		}
		<-l.Reports()
		before := time.Now()
		if r := <-l.Reports(); r.Late >= base.Interval || r.At.Sub(before) >= base.Interval {
			t.Errorf("late by %v, %v after the first was received, want less than an interval", r.Late, r.At.Sub(before))
		}
	})
}

func TestLoopEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := errors.New("stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		inFlight := 0
		l := NewLoop()
		l.newProbe = func(netip.AddrPort, Config) (Probe, error) {
			return func(ctx context.Context) error {
				inFlight++
				<-ctx.Done()
				time.Sleep(time.Second) // tidying up
				inFlight--
				return ctx.Err()
			}, nil
		}
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		set(t, l, target(1, base))
		time.Sleep(base.Interval)
		cancel(stopped)
		if err := <-ended; !errors.Is(err, stopped) || inFlight != 0 {
			t.Errorf("ended with %v and %d probes in flight, want %v and 0", err, inFlight, stopped)
		}
		set(t, l, target(2, base)) // returns, though nobody is there
	})
}
