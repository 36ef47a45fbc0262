package sim

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"poise/vrrp"
)

// TestScenario plays what must come out in a certain way: in an ideal world, where times are exact, and several times
// within the bounds of noise. The rules watch as always.
func TestScenario(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			for _, p := range []struct {
				version int
				a       time.Duration
			}{{2, time.Second}, {2, 3 * time.Second}, {3, time.Second}, {3, 100 * time.Millisecond}, {3, 10 * time.Millisecond}} {
				t.Run(fmt.Sprintf("v%d_%v", p.version, p.a), func(t *testing.T) {
					for seed := range uint64(6) {
						name, noise := "exact", Noise{}
						if seed > 0 {
							name, noise = fmt.Sprintf("noise_%d", seed), Noise{Delay: p.a / 40, Late: p.a / 40, Work: p.a / 20}
						}
						t.Run(name, func(t *testing.T) {
							s := &stage{T: t, Noise: noise, version: p.version, a: p.a, seed: seed}
							sc.play(s)
							s.finish()
						})
					}
				})
			}
		})
	}
}

// stage is where one scenario is played: with one version, one interval, one noise, in one or several worlds.
type stage struct {
	*testing.T
	Noise
	version int
	a       time.Duration
	seed    uint64
	worlds  []*World
}

func (s *stage) world() *World {
	s.finish()
	w := New(s.seed*1000+uint64(len(s.worlds)), s.Noise)
	s.worlds = append(s.worlds, w)
	return w
}

// finish shows the world that has just ended, when it is wrong.
func (s *stage) finish() {
	s.Helper()
	if len(s.worlds) == 0 {
		return
	}
	w := s.worlds[len(s.worlds)-1]
	if w.Failure() != nil {
		s.Error(w.Failure())
	}
	if s.Failed() {
		s.Fatalf("\n%s", w.Trace.Last(60))
	}
}

// config is that of a node with a priority.
func (s *stage) config(priority uint8) vrrp.Config {
	return vrrp.Config{
		Name: "r", Interface: "eth0", VRID: 51, Version: s.version, Priority: priority, Interval: s.a, Preempt: true,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("192.0.2.201")},
	}
}

// start makes a world of nodes that start together.
func (s *stage) start(configs ...vrrp.Config) (*World, []*Node) {
	w := s.world()
	for _, c := range configs {
		w.Add(c)
	}
	for _, n := range w.Nodes {
		n.Start(false)
	}
	return w, w.Nodes
}

// settled makes a world of nodes with these priorities, and waits until the first is master.
func (s *stage) settled(priorities ...uint8) (*World, []*Node) {
	var configs []vrrp.Config
	for _, p := range priorities {
		configs = append(configs, s.config(p))
	}
	w, nodes := s.start(configs...)
	w.For(10 * s.a)
	s.only(nodes[0])
	return w, nodes
}

// only fails unless n is the only master.
func (s *stage) only(n *Node) {
	s.Helper()
	if got := n.w.Masters(); len(got) != 1 || got[0] != n {
		s.Errorf("%v are masters at %v, want %v", got, n.w.Now(), n)
	}
}

// both fails unless both are masters: one of them does not know that it is no more.
func (s *stage) both(a, b *Node) {
	s.Helper()
	if got := a.w.Masters(); !slices.Equal(got, []*Node{a, b}) {
		s.Errorf("%v are masters, want %v and %v", got, a, b)
	}
}

// within fails unless got is in [from, from+slack].
func (s *stage) within(what string, got, from, slack time.Duration) {
	s.Helper()
	if got < from || got > from+slack {
		s.Errorf("%s: %v, want %v to %v", what, got, from, from+slack)
	}
}

func (s *stage) mdi(n *Node) time.Duration { return 3*s.a + s.skew(n) }

func (s *stage) skew(n *Node) time.Duration {
	unit := s.a
	if s.version == 2 {
		unit = time.Second
	}
	return (256 - time.Duration(n.Config.Priority)) * unit / 256
}

// duel is how long two masters may take to find out who it is.
func (s *stage) duel() time.Duration { return 2*s.Delay + 2*s.Late }

// What nodes did, since from.

func masterAt(n *Node, from time.Duration) []time.Duration {
	return n.w.Trace.Times(n, from, func(a any) bool { b, ok := a.(vrrp.Became); return ok && b.To == vrrp.Master })
}

func sentAt(n *Node, from time.Duration) []time.Duration {
	return n.w.Trace.Times(n, from, func(a any) bool { s, ok := a.(vrrp.Send); return ok && s.Priority != vrrp.PriorityRelease })
}

func releasedAt(n *Node, from time.Duration) []time.Duration {
	return n.w.Trace.Times(n, from, func(a any) bool { s, ok := a.(vrrp.Send); return ok && s.Priority == vrrp.PriorityRelease })
}

func announcedAt(n *Node, from time.Duration) []time.Duration {
	return n.w.Trace.Times(n, from, func(a any) bool { _, ok := a.(vrrp.Announce); return ok })
}

func workedAt(n *Node, from time.Duration) []time.Duration {
	return n.w.Trace.Times(n, from, func(e any) bool { _, ok := e.(vrrp.Done); return ok })
}

func heardAt(n *Node, from time.Duration) []time.Duration {
	return n.w.Trace.Times(n, from, func(e any) bool { _, ok := e.(vrrp.Received); return ok })
}

// first and last end the scenario when what they are asked for has not happened.

func (s *stage) first(times []time.Duration) time.Duration { return s.nth(times, 0) }
func (s *stage) last(times []time.Duration) time.Duration  { return s.nth(times, len(times)-1) }

func (s *stage) nth(times []time.Duration, i int) time.Duration {
	s.Helper()
	if i < 0 || i >= len(times) {
		s.Error("it did not happen")
		s.finish()
	}
	return times[i]
}

// never fails when something happened.
func (s *stage) never(what string, times []time.Duration) {
	s.Helper()
	if len(times) > 0 {
		s.Errorf("%s at %v", what, times)
	}
}

var scenarios = []struct {
	name string
	play func(s *stage)
}{
	{"01_single_node_at_MDI", func(s *stage) {
		w := s.world()
		n := w.Add(s.config(100))
		w.For(s.a / 3)
		n.Start(false)
		start := w.Now()
		w.For(10 * s.a)
		s.within("master after", s.first(masterAt(n, 0))-start, s.mdi(n), s.Late)
	}},

	{"02_two_start_together", func(s *stage) {
		_, n := s.settled(150, 100)
		s.within("the better is master after", s.first(masterAt(n[0], 0)), s.mdi(n[0]), s.Late)
		s.never("the other is master", masterAt(n[1], 0))
	}},

	{"03_equal_priority", func(s *stage) {
		w, n := s.start(s.config(100), s.config(100))
		w.For(10 * s.a)
		s.only(n[1]) // has the higher address
		if len(masterAt(n[0], 0)) > 0 {
			left := n[0].w.Trace.Times(n[0], 0, func(a any) bool { b, ok := a.(vrrp.Became); return ok && b.From == vrrp.Master })
			s.within("the duel lasts", s.first(left)-max(s.first(masterAt(n[0], 0)), s.first(masterAt(n[1], 0))), 0, s.duel())
		}
	}},

	{"04_second_best_follows_a_crash", func(s *stage) {
		w, n := s.settled(200, 150, 100)
		n[0].PowerOff()
		w.For(10 * s.a)
		s.only(n[1])
		s.never("the third sends", sentAt(n[2], 0))
	}},

	{"05_crash_at_every_phase", func(s *stage) {
		for phase := range 16 {
			w, n := s.settled(150, 100)
			w.For(s.a * time.Duration(phase) / 16)
			n[0].PowerOff()
			w.For(10 * s.a)
			s.within("silence", s.first(sentAt(n[1], 0))-s.last(sentAt(n[0], 0)), s.mdi(n[1]), s.Delay+s.Late)
		}
	}},

	{"06_lost_adverts", func(s *stage) {
		lose := func(w *World, from *Node, count int) {
			w.Net.Drop = func(f, _ *Node, _ vrrp.Advert) bool {
				if f == from {
					count--
				}
				return f == from && count >= 0
			}
		}
		w, n := s.settled(150, 100)
		lose(w, n[0], 2)
		w.For(10 * s.a)
		s.never("takeover after two were lost", masterAt(n[1], 0))

		w, n = s.settled(150, 100)
		lose(w, n[0], 3)
		heard := s.last(heardAt(n[1], 0))
		w.For(10 * s.a)
		s.within("takeover after three were lost", s.first(masterAt(n[1], 0))-heard, s.mdi(n[1]), s.Late)
		s.only(n[0])

		w, n = s.settled(150, 100)
		lose(w, n[0], 3)
		w.Run(s.last(heardAt(n[1], 0)) + s.mdi(n[1]) - s.skew(n[1])/2)
		n[0].Reload(n[0].Config) // lets it send: just in time
		w.For(10 * s.a)
		s.never("takeover although the fourth came in time", masterAt(n[1], 0))
	}},

	{"07_graceful_stop", func(s *stage) {
		w, n := s.settled(150, 100)
		w.For(s.a / 3)
		n[0].Stop()
		stop := w.Now()
		w.For(10 * s.a)
		s.only(n[1])
		s.within("release to advert", s.first(sentAt(n[1], 0))-s.first(releasedAt(n[0], 0)), s.skew(n[1]), min(5*time.Millisecond, s.a/10)+s.Delay+s.Late)
		s.never("the leaver announces", announcedAt(n[0], stop))
		gone, there := workedAt(n[0], stop), workedAt(n[1], stop)
		s.within("time without the addresses", max(0, s.first(there)-s.first(gone)), 0, s.Delay+s.Late+s.Work)
		s.within("time with two owners", max(0, gone[0]-there[0]), 0, s.Delay+s.Late+2*s.Work)
		if n[0].Runs() {
			s.Error("the leaver still runs")
		}
		copies := releasedAt(n[0], 0)
		s.within("second release", s.nth(copies, 1)-copies[0], min(5*time.Millisecond, s.a/10), s.Late)

		w, n = s.settled(150, 100)
		lost := false
		w.Net.Drop = func(_, _ *Node, a vrrp.Advert) bool {
			first := !lost && a.Priority == vrrp.PriorityRelease
			lost = lost || first
			return first
		}
		n[0].Stop()
		stop = w.Now()
		w.For(10 * s.a)
		s.within("takeover after one release was lost", s.first(masterAt(n[1], stop))-stop, s.skew(n[1]), min(5*time.Millisecond, s.a/10)+s.Delay+2*s.Late)
	}},

	{"08_all_releases_lost", func(s *stage) {
		w, n := s.settled(150, 100)
		w.Net.Drop = func(_, _ *Node, a vrrp.Advert) bool { return a.Priority == vrrp.PriorityRelease }
		heard := s.last(heardAt(n[1], 0))
		n[0].Stop()
		stop := w.Now()
		w.For(max(10*s.a, 2*time.Second))
		s.within("takeover", s.first(masterAt(n[1], 0))-heard, s.mdi(n[1]), s.Late)
		// Whichever comes first: the new master is heard, or nobody is for long enough.
		wait := serves(n[0].Config)
		if heard := heardAt(n[0], stop); len(heard) > 0 {
			wait = min(wait, heard[0]-stop)
		}
		s.within("the addresses are gone after", s.last(workedAt(n[0], 0))-stop, wait, s.Late+s.Work)
	}},

	{"09_release_of_a_stranger", func(s *stage) {
		w, n := s.settled(200, 150, 100)
		for range 5 {
			w.Forge(n[2], n[1], vrrp.PriorityRelease)
			w.For(s.a)
		}
		s.never("takeover", masterAt(n[1], 0))
	}},

	{"10_release_heard_by_the_master", func(s *stage) {
		w, n := s.settled(150, 100)
		w.Run(s.last(sentAt(n[0], 0)) + s.a/2)
		heard := w.Now()
		w.Forge(n[1], n[0], vrrp.PriorityRelease)
		w.For(3 * s.a)
		sent := sentAt(n[0], heard)
		s.within("answer after", s.first(sent)-heard, 0, s.Delay)
		s.within("next advert after", s.nth(sent, 1)-sent[0], s.a, s.Late)
		s.never("the backup is master", masterAt(n[1], 0))
	}},

	{"11_nopreempt_survives_restarts", func(s *stage) {
		better := s.config(150)
		better.Preempt = false
		w, n := s.start(s.config(100))
		w.For(5 * s.a)
		b := w.Add(better)
		for range 3 {
			b.Start(false)
			w.For(10 * s.a)
			b.Kill()
			w.For(2 * s.a)
		}
		s.never("the better one is master", masterAt(b, 0))
		s.only(n[0])
	}},

	{"12_preempt_delay", func(s *stage) {
		const delay = 5
		better := s.config(150)
		better.PreemptDelay = delay * s.a / 2
		for _, crash := range []bool{false, true} {
			w, n := s.start(s.config(100))
			w.For(5*s.a + s.a/3)
			b := w.Add(better)
			b.Start(false)
			w.For(s.a * 5 / 4) // it has heard the master once
			heard := s.first(heardAt(b, 0))
			if crash {
				n[0].PowerOff()
				heard = s.last(heardAt(b, 0))
			}
			w.For(10 * s.a)
			s.only(b)
			if crash {
				s.within("takeover after the crash", s.first(masterAt(b, 0))-heard, s.mdi(b), s.Late)
			} else {
				s.within("takeover after", s.first(masterAt(b, 0))-heard, better.PreemptDelay+s.mdi(b)-s.a-s.Delay, s.a+s.Delay+s.Late)
			}
		}
	}},

	{"13_owner", func(s *stage) {
		w, n := s.start(s.config(255), s.config(100))
		s.within("master after", s.first(masterAt(n[0], 0)), 0, 0)
		w.For(10 * s.a)
		s.only(n[0])

		w, n = s.start(s.config(255), s.config(255))
		w.For(s.a + s.duel())
		s.only(n[1]) // has the higher address
		alarm := func(a any) bool { note, ok := a.(vrrp.Note); return ok && note.Level == slog.LevelError }
		if len(w.Trace.Times(n[0], 0, alarm))+len(w.Trace.Times(n[1], 0, alarm)) == 0 {
			s.Error("two owners, and no alarm")
		}
	}},

	{"14_interval_of_the_master", func(s *stage) {
		if s.version == 2 {
			return // there it must be the same
		}
		slow := s.config(150)
		slow.Interval = 2 * s.a
		w, n := s.start(slow)
		w.For(8 * s.a)
		fast := w.Add(s.config(100))
		fast.Start(false)
		w.For(10 * s.a)
		n[0].PowerOff()
		heard := s.last(heardAt(fast, 0))
		w.For(20 * s.a)
		s.within("takeover by the master's interval", s.first(masterAt(fast, 0))-heard, 2*s.mdi(fast), s.Late)
		sent := sentAt(fast, 0)
		s.within("its own one as master", s.nth(sent, 1)-sent[0], s.a, s.Late)

		n[0].Start(false)
		w.For(20 * s.a)
		s.only(n[0])
		fast.SetLink(false)
		n[0].PowerOff()
		w.For(s.a)
		fast.SetLink(true)
		up := w.Now()
		w.For(20 * s.a)
		s.within("its own one after a fault", s.first(masterAt(fast, up))-up, s.mdi(fast), 2*s.Late)
	}},

	{"17_junk_does_not_delay_the_beat", func(s *stage) {
		w, n := s.settled(150, 100)
		w.Junk(s.seed, s.a/10)
		w.For(100 * s.a)
		sent := sentAt(n[0], 0)
		for i, at := range sent {
			s.within(fmt.Sprintf("advert %d", i), at, sent[0]+time.Duration(i)*s.a, s.Late)
		}
		s.never("the backup is master", masterAt(n[1], 0))
	}},

	{"18_partition_and_heal_at_every_phase", func(s *stage) {
		for phase := range 16 {
			w, n := s.settled(150, 100, 50)
			w.Run(s.last(sentAt(n[0], 0)) + s.a*time.Duration(phase)/16)
			w.Part(n[:1], true)
			w.For(5*s.a + s.a*time.Duration(phase*7%16)/16)
			w.Part(n[:1], false)
			w.For(s.a + s.duel())
			s.only(n[0])
			w.For(10 * s.a)
			s.only(n[0])
			if lost, won := s.last(announcedAt(n[1], 0)), s.last(announcedAt(n[0], 0)); won < lost {
				s.Errorf("phase %d: the winner announced at %v, before the loser did at %v", phase, won, lost)
			}
		}
	}},

	{"19_one_way_partition", func(s *stage) {
		w, n := s.settled(150, 100)
		w.Cut(n[1], n[0], true) // what the backup would say is not heard
		w.For(10 * s.a)
		s.only(n[0])
		w.Cut(n[1], n[0], false)

		w.Cut(n[0], n[1], true) // the master is not heard
		cut := w.Now()
		w.For(20 * s.a)
		if got, most := len(masterAt(n[1], cut)), int(1+(w.Now()-cut)/s.mdi(n[1])); got == 0 || got > most {
			s.Errorf("%d takeovers, want 1 to %d", got, most)
		}
		w.Cut(n[0], n[1], false)
		w.For(s.a + s.duel())
		s.only(n[0])
	}},

	{"20_master_frozen", func(s *stage) {
		better := s.config(150)
		better.Preempt = false
		meek := s.config(100)
		meek.Preempt = false
		w, n := s.start(meek, s.config(50))
		w.For(10 * s.a)
		n[0].Freeze()
		w.For(10 * s.a)
		n[0].Wake()
		s.only(n[1]) // as it does not preempt, it leaves to the other what that has taken

		for _, mdis := range []float64{0.3, 0.5, 0.7, 0.9, 1.2, 1.5, 2, 5, 20} {
			for _, other := range []vrrp.Config{s.config(50), better} {
				w, n := s.start(s.config(100))
				w.For(5 * s.a)
				b := w.Add(other)
				b.Start(false)
				w.For(10*s.a + s.a/3)
				n[0].Queue = 1000
				n[0].Freeze()
				w.For(time.Duration(mdis * float64(s.mdi(b))))
				took, silent := len(masterAt(b, 0)) > 0, w.Now()-s.last(sentAt(n[0], 0))
				n[0].Wake()
				woke := w.Now()
				w.For(s.Late + s.Work)
				sent, announced := len(sentAt(n[0], woke)), len(announcedAt(n[0], woke))
				switch yields := took && other.Priority > 100; {
				case yields && (sent > 0 || announced > 0):
					s.Errorf("after %v MDI: yields, but sends %d adverts and announces %d times", mdis, sent, announced)
				case !yields && sent != 1 && silent > s.a+s.Late, sent > 1:
					s.Errorf("after %v MDI: sends %d adverts, want 1", mdis, sent)
				case !yields && silent >= 2*s.a && announced != 1:
					s.Errorf("after %v MDI: announces %d times, want 1", mdis, announced)
				case yields:
					s.only(b)
				}
				w.For(s.mdi(b) + s.duel())
				if other.Priority < 100 {
					s.only(n[0])
				}
			}
		}
	}},

	{"21_backup_frozen", func(s *stage) {
		for _, mdis := range []float64{0.5, 1, 1.5, 5, 20} {
			for _, queue := range []int{0, 3, 64} {
				w, n := s.settled(150, 100)
				n[1].Queue = queue
				n[1].Freeze()
				w.For(time.Duration(mdis * float64(s.mdi(n[1]))))
				n[1].Wake()
				w.For(5 * s.a)
				late := mdis*float64(s.mdi(n[1])) >= float64(s.mdi(n[1])+2*s.a)
				if queue == 64 || late {
					s.never("takeover", masterAt(n[1], 0))
				}
				s.only(n[0])
			}
		}
	}},

	{"22_all_frozen", func(s *stage) {
		for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			for _, gap := range []time.Duration{0, s.a / 2, 2 * s.a, 5 * s.a} {
				w, n := s.settled(150, 100, 50)
				for _, n := range n {
					n.Freeze()
				}
				w.For(5 * s.mdi(n[0]))
				for _, i := range order {
					n[i].Wake()
					w.For(gap)
				}
				w.For(s.mdi(n[0]) + s.duel())
				s.only(n[0])
			}
		}
	}},

	{"23_packets_lost_while_frozen", func(s *stage) {
		w, n := s.settled(150, 100)
		n[0].Queue = 2
		n[0].Freeze()
		w.For(3 * s.mdi(n[1]))
		n[0].Wake()
		woke := w.Now()
		w.For(s.a)
		s.only(n[1]) // who knows what was in the packets
		s.never("it sends", sentAt(n[0], woke))
		s.never("it announces", announcedAt(n[0], woke))
		w.For(s.mdi(n[0]))
		s.only(n[0])
	}},

	{"23_packets_lost_while_awake", func(s *stage) {
		w, n := s.settled(150, 100)
		n[0].Queue = 0
		n[0].Freeze()
		w.Forge(n[1], n[0], 100)
		w.For(s.a / 2)
		n[0].Wake() // in time: what was lost does not matter
		w.For(3 * s.a)
		n[1].PowerOff()
		n[0].Freeze()
		w.For(5 * s.a)
		n[0].Wake() // nor now, when nothing was lost
		w.For(s.a)
		s.only(n[0])
		s.never("the other is master", masterAt(n[1], 0))
	}},

	{"24_link_of_the_master", func(s *stage) {
		w, n := s.settled(150, 100)
		n[0].SetLink(false)
		heard := s.last(heardAt(n[1], 0))
		w.For(10 * s.a)
		if n[0].State() != vrrp.Fault {
			s.Errorf("without link it is %v", n[0].State())
		}
		s.within("takeover", s.first(masterAt(n[1], 0))-heard, s.mdi(n[1]), s.Late)
		n[0].SetLink(true)
		up := w.Now()
		w.For(10 * s.a)
		s.within("return", s.first(masterAt(n[0], up))-up, s.mdi(n[0]), 2*s.Late)
		s.only(n[0])
	}},

	{"26_priority_falls_below_the_other", func(s *stage) {
		w, n := s.settled(150, 100)
		less := n[0].Config
		less.Priority = 90
		n[0].Reload(less)
		fell := w.Now()
		w.For(10 * s.a)
		s.within("takeover", s.first(masterAt(n[1], 0))-fell, 0, s.mdi(n[1])+s.Late)
		s.only(n[1])
	}},

	{"27_address_removed_by_somebody", func(s *stage) {
		w, n := s.settled(150, 100)
		addr := n[0].Config.Addresses[0]
		for range 3 {
			n[0].Steal(addr)
			stolen := w.Now()
			w.For(s.a)
			s.within("it is back", s.first(workedAt(n[0], stolen))-stolen, 0, s.Late+s.Work)
		}
		s.never("it has released", releasedAt(n[0], 0))
		n[0].Steal(addr)
		w.For(s.mdi(n[1]) + s.Late)
		if got := n[0].State(); got != vrrp.Fault {
			s.Errorf("after the fourth time it is %v", got)
		}
		s.only(n[1])
		w.For(30*time.Second + s.mdi(n[0]))
		s.only(n[0])
	}},

	{"28_addresses_are_refused", func(s *stage) {
		w, n := s.start(s.config(150), s.config(100))
		n[0].Refuse = true
		w.For(10*s.a + time.Second)
		if got := n[0].State(); got != vrrp.Fault {
			s.Errorf("without addresses it is %v", got)
		}
		s.only(n[1])
		released := s.first(releasedAt(n[0], 0))
		s.within("takeover", s.first(masterAt(n[1], released))-released, s.skew(n[1]), s.Delay+s.Late)
	}},

	{"29_reload_of_a_master", func(s *stage) {
		w, n := s.settled(150, 100)
		w.For(s.a / 3)
		c := n[0].Config
		c.Priority = 160
		c.Addresses = []netip.Addr{c.Addresses[1], netip.MustParseAddr("192.0.2.202")}
		n[0].Reload(c)
		reloaded := w.Now()
		for range 100 {
			w.For(s.a / 10)
			if !slices.Contains(n[0].Has(), c.Addresses[0]) {
				s.Fatalf("at %v it has only %v", w.Now(), n[0].Has())
			}
		}
		s.within("advert", s.first(sentAt(n[0], reloaded))-reloaded, 0, 0)
		s.only(n[0])

		w, n = s.settled(150)
		n[0].Hold(true)
		w.For(s.a / 10)
		n[0].Reload(c) // while it still serves the old ones
		w.For(s.a / 10)
		n[0].Hold(false)
		w.For(10 * s.a)
		s.only(n[0])
		if slices.Contains(n[0].Has(), s.config(1).Addresses[0]) {
			s.Errorf("it has %v", n[0].Has())
		}
	}},

	{"32_hold", func(s *stage) {
		w, n := s.settled(150, 100)
		n[0].Hold(true)
		held := w.Now()
		w.For(10 * s.a)
		s.only(n[1])
		s.within("takeover", s.first(masterAt(n[1], held))-held, s.skew(n[1]), min(5*time.Millisecond, s.a/10)+s.Delay+s.Late)
		n[1].PowerOff()
		n[0].Kill()
		w.For(s.a)
		n[0].Start(false)
		w.For(10 * s.a)
		s.never("a held one takes over", masterAt(n[0], held))
		n[0].Hold(false)
		free := w.Now()
		w.For(10 * s.a)
		s.within("after the hold", s.first(masterAt(n[0], held))-free, s.mdi(n[0]), s.Late)
	}},

	{"33_warm_restart", func(s *stage) {
		w, n := s.settled(150, 100)
		n[0].Kill()
		w.Run(s.last(sentAt(n[0], 0)) + 2*s.a - 1)
		n[0].Start(true)
		s.only(n[0])
		if got := w.Now() - s.last(sentAt(n[0], 0)); got != 0 {
			s.Errorf("no advert at once, but %v ago", got)
		}
		w.For(10 * s.a)
		s.never("takeover", masterAt(n[1], 0))
		s.only(n[0])
	}},

	{"34_addresses_left_by_a_crash", func(s *stage) {
		for _, priority := range []uint8{150, 255} {
			w, n := s.settled(priority, 100)
			n[0].Kill()
			w.For(10 * s.a)
			s.only(n[1])
			if len(n[0].Has()) != 2 {
				s.Errorf("a killed daemon has left %v", n[0].Has())
			}
			n[0].Start(false)
			start := w.Now()
			deleted := w.Trace.Times(n[0], start, func(a any) bool { _, ok := a.(vrrp.Delete); return ok })
			w.For(10 * s.a)
			s.only(n[0])
			if len(deleted) == 0 || priority < 255 && s.first(workedAt(n[0], start)) > s.first(sentAt(n[0], start)) {
				s.Errorf("deleted at %v, done at %v, advert at %v", deleted, s.first(workedAt(n[0], start)), s.first(sentAt(n[0], start)))
			}
		}
	}},

	{"38_suspend", func(s *stage) {
		w, n := s.settled(150, 100) // the master
		n[0].Sleep()
		w.For(10 * s.a)
		s.both(n[0], n[1])
		n[0].Wake()
		woke := w.Now()
		w.For(s.a + s.duel())
		s.only(n[0])
		checked := w.Trace.Times(n[0], woke, func(e any) bool { return e == vrrp.Checked{} })
		s.within("it looks at its host before it sends", s.first(sentAt(n[0], woke)), s.first(checked), 0)

		w, n = s.settled(150, 100) // the backup
		n[1].Sleep()
		w.For(10 * s.a)
		n[1].Wake()
		w.For(5 * s.a)
		s.never("takeover", masterAt(n[1], 0))
	}},

	{"39_nobody_else", func(s *stage) {
		w, n := s.settled(150)
		n[0].Stop()
		stop := w.Now()
		w.For(max(10*s.a, 2*time.Second))
		s.within("the addresses are gone after", s.last(workedAt(n[0], 0))-stop, serves(n[0].Config), s.Late+s.Work)
		if n[0].Runs() {
			s.Error("it still runs")
		}
	}},

	{"40_source_address", func(s *stage) {
		w, n := s.start(s.config(100), s.config(100))
		w.For(10 * s.a)
		s.only(n[1])
		n[0].SetSource(n[0].stranger()) // was the lower address, and is the higher now
		w.Part(n[:1], true)
		w.For(10 * s.a)
		w.Part(n[:1], false)
		w.For(10 * s.a)
		s.only(n[0])
		n[0].SetSource(netip.Addr{})
		w.For(10 * s.a)
		if got := n[0].State(); got != vrrp.Fault {
			s.Errorf("without source it is %v", got)
		}
		s.only(n[1])
	}},

	{"41_repeated_and_late_adverts", func(s *stage) {
		w, n := s.settled(150, 100)
		w.Net.Dup = 1
		w.For(20 * s.a)
		s.never("takeover", masterAt(n[1], 0))
		s.only(n[0])

		w.Run(s.last(sentAt(n[0], 0)) + s.a/4)
		w.Forge(n[0], n[1], vrrp.PriorityRelease) // from an earlier life
		late := w.Now()
		w.For(s.skew(n[1]) + s.duel())
		s.only(n[0])
		w.For(10 * s.a)
		if got := masterAt(n[1], late); len(got) > 1 {
			s.Errorf("takeovers at %v, want one at most", got)
		}
		s.only(n[0])
	}},
}
