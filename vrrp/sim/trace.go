package sim

import (
	"fmt"
	"strings"
	"time"

	"poise/vrrp"
)

// Trace is what happened, oldest first.
type Trace struct {
	Lines []Line
	// Keep is how many lines are kept at least, 0 for all.
	Keep int
}

// Line is one Step of a node, or something done to it or to the world.
type Line struct {
	At      time.Duration
	Node    *Node // nil: the world
	Done    string
	Event   vrrp.Event
	Actions []vrrp.Action
}

func (t *Trace) add(l Line) {
	if t.Keep > 0 && len(t.Lines) >= 2*t.Keep {
		t.Lines = append(t.Lines[:0], t.Lines[len(t.Lines)-t.Keep:]...)
	}
	t.Lines = append(t.Lines, l)
}

// Last is the end of the trace as text.
func (t *Trace) Last(n int) string {
	var b strings.Builder
	for _, l := range t.Lines[max(0, len(t.Lines)-n):] {
		b.WriteString(l.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// String is one line: "3.609375s  b  timer → backup → master: nobody else was heard; send 100; add #1 [192.0.2.100]".
func (l Line) String() string {
	name, what := "", l.Done
	if l.Node != nil {
		name = l.Node.Name
	}
	if l.Event != nil {
		what = describe(l.Event)
	}
	var actions []string
	for _, a := range l.Actions {
		actions = append(actions, describe(a))
	}
	if len(actions) > 0 {
		what += " → " + strings.Join(actions, "; ")
	}
	return fmt.Sprintf("%14v %-2s %s", l.At, name, what)
}

// describe says what an event or an action is.
func describe(v any) string {
	switch v := v.(type) {
	case vrrp.Start:
		return fmt.Sprintf("start%s", when(v.Resume, " as the master of a moment ago"))
	case vrrp.Stop:
		return "stop"
	case vrrp.Release:
		return "release what was left"
	case vrrp.Timer:
		return "timer"
	case vrrp.Received:
		return fmt.Sprintf("advert %d of %v every %v", v.Advert.Priority, v.From, v.Advert.Interval)
	case vrrp.Overflow:
		return "packets were lost"
	case vrrp.Link:
		return fmt.Sprintf("link %s", map[bool]string{true: "up", false: "down"}[v.Up])
	case vrrp.Source:
		return fmt.Sprintf("source %v", v.Addr)
	case vrrp.Done:
		return fmt.Sprintf("done #%d%s", v.Op, when(v.Err != nil, fmt.Sprintf(": %v", v.Err)))
	case vrrp.Missing:
		return fmt.Sprintf("missing %v", v.Addr)
	case vrrp.Foreign:
		return fmt.Sprintf("foreign %v", v.Addr)
	case vrrp.Checked:
		return "checked"
	case vrrp.Reload:
		c := v.Config
		return fmt.Sprintf("reload priority=%d interval=%v preempt=%t delay=%v addresses=%v", c.Priority, c.Interval, c.Preempt, c.PreemptDelay, c.All())
	case vrrp.Hold:
		return fmt.Sprintf("hold=%t", v.On)

	case vrrp.Send:
		return fmt.Sprintf("send %d", v.Priority)
	case vrrp.Add:
		return fmt.Sprintf("add #%d %v", v.Op, v.Addrs)
	case vrrp.Delete:
		return fmt.Sprintf("delete #%d %v%s", v.Op, v.Addrs, when(v.Evict, " evicting"))
	case vrrp.Announce:
		return fmt.Sprintf("announce %v round %d", v.Addrs, v.Round)
	case vrrp.CancelAnnounce:
		return "cancel announcements"
	case vrrp.Recheck:
		return "recheck"
	case vrrp.Became:
		return fmt.Sprintf("%v to %v: %s", v.From, v.To, v.Why)
	case vrrp.Note:
		return fmt.Sprintf("%v %q %s", v.Level, v.What, v.Cause)
	case vrrp.Stopped:
		return "stopped"
	}
	return fmt.Sprintf("%T%+v", v, v)
}

func when(cond bool, text string) string {
	if cond {
		return text
	}
	return ""
}

// Times are those at which a node was given an event, or wanted an action, that matches. They begin at from.
func (t *Trace) Times(n *Node, from time.Duration, match func(eventOrAction any) bool) []time.Duration {
	var times []time.Duration
	for _, l := range t.Lines {
		if l.Node != n || l.At < from {
			continue
		}
		if l.Event != nil && match(l.Event) {
			times = append(times, l.At)
		}
		for _, a := range l.Actions {
			if match(a) {
				times = append(times, l.At)
			}
		}
	}
	return times
}
