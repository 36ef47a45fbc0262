package checker

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// check is one target and what is known of it. It is in one place at a time: in the schedule, in flight,
// or in the queue of reports, so a probe never overlaps its predecessor.
type check struct {
	Target
	probe  Probe
	health Health
	due    time.Time
	gap    time.Duration // from due to the next turn
	cancel func()        // ends the probe in flight
}

// begin gives a new check its first turns. The first comes soon, so that a verdict does; the second
// anywhere in the interval, so that the probes of many targets stay spread over it.
func (c *check) begin(now time.Time) {
	c.due = now.Add(rand.N(min(c.Config.Interval, time.Second)))
	c.gap = rand.N(c.Config.Interval)
}

// advance moves due to the next turn. Turns follow each other at the interval, however long a probe
// took; turns that were missed entirely are left out.
func (c *check) advance(now time.Time) {
	c.due = c.due.Add(c.gap)
	c.gap = c.Config.Interval
	if missed := now.Sub(c.due).Truncate(c.gap); missed > 0 {
		c.due = c.due.Add(missed)
	}
}

// schedule is a heap: the check that is due first is at index 0.
type schedule []*check

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(c any)        { *s = append(*s, c.(*check)) }

func (s *schedule) Pop() any {
	last := len(*s) - 1
	c := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return c
}

func (s *schedule) add(c *check) { heap.Push(s, c) }
func (s *schedule) take() *check { return heap.Pop(s).(*check) }
