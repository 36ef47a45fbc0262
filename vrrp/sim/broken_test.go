package sim

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"poise/vrrp"
)

// broken is a machine with a bug around it.
type broken struct {
	Machine
	step func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action
}

func (b broken) Step(now time.Duration, e vrrp.Event) []vrrp.Action { return b.step(b.Machine, now, e) }

// deaf is a filter that lets damaged packets pass.
type deaf struct{ Filter }

func (d deaf) Judge(p vrrp.Packet, own func(netip.Addr) bool) (vrrp.Received, []vrrp.Oddity, error) {
	got, odd, err := d.Filter.Judge(p, own)
	if drop, ok := err.(*vrrp.Drop); ok && drop.Reason == vrrp.DropChecksum {
		a := vrrp.Advert{Version: 3, VRID: p.Payload[1], Priority: p.Payload[2], Interval: time.Second}
		return vrrp.Received{From: p.Src, Advert: a}, nil, nil
	}
	return got, odd, err
}

// around makes worlds in which every machine has a bug. It is made anew for each machine, as it may remember things.
func around(bug func(c vrrp.Config) func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action) func(*World) {
	return func(w *World) {
		w.NewMachine = func(c vrrp.Config) Machine { return broken{vrrp.New(c), bug(c)} }
	}
}

// drops leaves out actions.
func drops(actions []vrrp.Action, unwanted func(vrrp.Action) bool) []vrrp.Action {
	return slices.DeleteFunc(actions, unwanted)
}

// TestCatches breaks the machine in ways that are easily got wrong. Each must be caught, by the rule it breaks.
func TestCatches(t *testing.T) {
	type step = func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action
	for _, b := range []struct {
		name  string
		want  []Rule
		world func(*World)
	}{
		{"looks at the clock before the packets that waited", []Rule{I9, L1, L3, L6}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				var first []vrrp.Action
				if _, ok := e.(vrrp.Received); ok && m.Deadline() <= now {
					first = m.Step(now, vrrp.Timer{})
				}
				return append(first, m.Step(now, e)...)
			}
		})},
		{"believes that it was awake", []Rule{I9}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				if _, ok := e.(vrrp.Timer); ok && m.State() == vrrp.Backup {
					now = min(now, m.Deadline())
				}
				return m.Step(now, e)
			}
		})},
		{"forgets that packets were lost", []Rule{L6}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				if _, ok := e.(vrrp.Overflow); ok {
					return nil
				}
				return m.Step(now, e)
			}
		})},
		{"announces before the address is there", []Rule{I2}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				actions := m.Step(now, e)
				for _, a := range actions {
					if add, ok := a.(vrrp.Add); ok {
						actions = append(actions, vrrp.Announce{Addrs: add.Addrs})
					}
				}
				return actions
			}
		})},
		{"announces after it has left", []Rule{I2}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				return drops(m.Step(now, e), func(a vrrp.Action) bool { return a == vrrp.CancelAnnounce{} })
			}
		})},
		{"stays master at a tie", []Rule{L4}, around(func(c vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				if r, ok := e.(vrrp.Received); ok && m.State() == vrrp.Master && r.Advert.Priority == c.Priority {
					return nil
				}
				return m.Step(now, e)
			}
		})},
		{"answers every advert", []Rule{L4}, around(func(c vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				actions := m.Step(now, e)
				if r, ok := e.(vrrp.Received); ok && m.State() == vrrp.Master && len(actions) == 0 && r.Advert.Priority > 0 && m.Deadline() > now {
					actions = append(actions, vrrp.Send{Priority: c.Priority})
				}
				return actions
			}
		})},
		{"obeys the release of a stranger", []Rule{I9}, around(func(vrrp.Config) step {
			var master netip.Addr
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				if r, ok := e.(vrrp.Received); ok {
					if r.Advert.Priority > 0 {
						master = r.From
					}
					r.From = master
					e = r
				}
				return m.Step(now, e)
			}
		})},
		{"forgets nopreempt", []Rule{I9, L6}, func(w *World) {
			w.NewMachine = func(c vrrp.Config) Machine {
				c.Preempt = true
				return vrrp.New(c)
			}
		}},
		{"goes on with the old configuration", []Rule{I7, I9, L1, L2, L3, L7}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				if _, ok := e.(vrrp.Reload); ok {
					return nil
				}
				return m.Step(now, e)
			}
		})},
		{"deletes the addresses before anybody else has them", []Rule{L2}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				actions := m.Step(now, e)
				if _, ok := e.(vrrp.Stop); ok && len(actions) > 1 {
					actions = append(actions, m.Step(now, vrrp.Link{Up: false})...)
				}
				return actions
			}
		})},
		{"keeps the addresses for somebody better", []Rule{I3}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				actions := m.Step(now, e)
				if _, ok := e.(vrrp.Received); ok {
					actions = drops(actions, func(a vrrp.Action) bool { _, ok := a.(vrrp.Delete); return ok })
				}
				return actions
			}
		})},
		{"leaves without deleting what is being added", []Rule{I3}, around(func(vrrp.Config) step {
			adding := false
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				if _, ok := e.(vrrp.Done); ok {
					adding = false
				}
				actions := drops(m.Step(now, e), func(a vrrp.Action) bool { _, ok := a.(vrrp.Delete); return ok && adding })
				adding = adding || slices.ContainsFunc(actions, func(a vrrp.Action) bool { _, ok := a.(vrrp.Add); return ok })
				return actions
			}
		})},
		{"yields without a word", []Rule{L4}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				before, actions := m.State(), m.Step(now, e)
				if before == vrrp.Master && m.State() == vrrp.Backup {
					actions = drops(actions, func(a vrrp.Action) bool { s, ok := a.(vrrp.Send); return ok && s.Priority > 0 })
				}
				return actions
			}
		})},
		{"announces only when it becomes master", []Rule{L8}, around(func(vrrp.Config) step {
			return func(m Machine, now time.Duration, e vrrp.Event) []vrrp.Action {
				actions := m.Step(now, e)
				if d, ok := e.(vrrp.Done); ok && d.Op > 1 {
					actions = drops(actions, func(a vrrp.Action) bool { _, ok := a.(vrrp.Announce); return ok })
				}
				return actions
			}
		})},
		{"hears damaged packets", []Rule{I5}, func(w *World) {
			w.NewFilter = func(c vrrp.Config) Filter { return deaf{vrrp.NewFilter(c)} }
			w.Junk(1, w.longest()/20)
		}},
	} {
		t.Run(b.name, func(t *testing.T) {
			for seed := range uint64(300) {
				err := life(seed+1, 200, b.world).Failure()
				if err == nil {
					continue
				}
				if !slices.ContainsFunc(b.want, func(r Rule) bool { return strings.HasPrefix(err.Error(), string(r)) }) {
					t.Fatalf("seed %d: caught by a rule that it does not break: %v", seed+1, err)
				}
				t.Logf("seed %d: %v", seed+1, err)
				return
			}
			t.Error("300 seeds, and no rule was broken")
		})
	}
}
