package vrrp

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Instance is one virtual router: its Machine, its sockets, and the books. It belongs to one goroutine, which polls FD,
// calls Drain and then Wake; every other action than Send goes to whoever made it.
type Instance struct {
	cfg     Config
	machine *Machine
	filter  *Filter
	clock   func() time.Duration
	do      func(Action)

	conn     *Conn // nil while there is no interface or no source
	own      func(netip.Addr) bool
	lost     uint64
	sendErr  string // why the last advert could not be sent, "" when it could
	stats    Stats
	speakers []Speaker         // by when they were first heard
	told     map[string]*tally // what was told of late, by its constant phrase
}

// Stats count since the instance was made.
type Stats struct {
	Sent, Received uint64
	Dropped        map[Reason]uint64
	Transitions    uint64
}

// Sent is an action that is done already: an advert left, so much later than it was due.
type Sent struct{ Late time.Duration }

func (Sent) action() {}

// Speaker is another node that was heard with this router's number.
type Speaker struct {
	Addr     netip.Addr
	Priority uint8
	Interval time.Duration
	Heard    time.Duration // when it was heard last
	Problem  string        // what is the matter with its adverts, "" when nothing is
	Dropped  bool          // its last advert was not accepted
}

// Bounds on what is remembered of the network.
const (
	maxSpeakers = 16
	maxTurn     = 64   // packets that are read before timers have their turn
	maxDrain    = 4096 // the same where a decision depends on what waits
	maxTold     = 10   // notes of one kind within tellPeriod
	tellPeriod  = time.Minute
)

// NewInstance returns the router of c in state Init. own tells this host's addresses; clock is the time since boot,
// suspend included. do carries out the actions but Send, which may come during any call.
func NewInstance(c Config, clock func() time.Duration, own func(netip.Addr) bool, do func(Action)) *Instance {
	return &Instance{
		cfg: c, machine: New(c), filter: NewFilter(c), clock: clock, own: own, do: do,
		stats: Stats{Dropped: make(map[Reason]uint64)}, told: make(map[string]*tally),
	}
}

// Config is the configuration in force.
func (i *Instance) Config() Config { return i.cfg }

// Bind opens the sockets on an interface, or replaces them. What was bound before is closed also when that is an error.
func (i *Instance) Bind(ifindex int, source netip.Addr) (err error) {
	i.Unbind()
	i.conn, err = Listen(i.cfg, ifindex, source)
	return err
}

// Unbind closes the sockets.
func (i *Instance) Unbind() {
	if i.conn != nil {
		i.conn.Close()
		i.conn, i.lost = nil, 0
	}
}

// SetSource is where adverts come from until the next Bind. The Machine is told by Step.
func (i *Instance) SetSource(source netip.Addr) { i.conn.SetSource(source) }

// Conn are the sockets, nil while nothing is bound.
func (i *Instance) Conn() *Conn { return i.conn }

// FD is readable while packets wait; -1 while nothing is bound.
func (i *Instance) FD() int {
	if i.conn == nil {
		return -1
	}
	return i.conn.FD()
}

// Deadline is when the next Wake is due, or Never.
func (i *Instance) Deadline() time.Duration { return i.machine.Deadline() }

// Drain reads the packets that wait. An error means that the sockets are of no use any more.
func (i *Instance) Drain() error {
	if i.conn == nil {
		return nil
	}
	most := maxTurn
	if i.machine.decides(i.clock()) {
		most = maxDrain
	}
	for range most {
		p, ok, err := i.conn.Receive()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		i.judge(p)
	}
	if lost := i.conn.Lost(); lost != i.lost {
		i.lost = lost
		i.Step(Overflow{})
	}
	return nil
}

// judge gives a packet to the machine if it passes, and notes who it was from.
func (i *Instance) judge(p Packet) {
	r, odd, err := i.filter.Judge(p, i.own)
	if drop, ok := errors.AsType[*Drop](err); ok {
		i.stats.Dropped[drop.Reason]++
		if drop.Reason != DropVRID { // that is another router's business
			i.heard(p.Src, nil, "adverts "+drop.What)
		}
		return
	}
	i.stats.Received++
	var problems []string
	for _, o := range odd {
		problems = append(problems, o.What+": "+o.Cause)
	}
	i.heard(p.Src, &r.Advert, strings.Join(problems, "; "))
	i.Step(r)
}

// heard notes a speaker, and says what is the matter with it when that changes. a is nil when its advert was dropped.
func (i *Instance) heard(from netip.Addr, a *Advert, problem string) {
	n := slices.IndexFunc(i.speakers, func(s Speaker) bool { return s.Addr == from })
	if n < 0 {
		if len(i.speakers) == maxSpeakers {
			oldest := slices.MinFunc(i.speakers, func(a, b Speaker) int { return int(a.Heard - b.Heard) })
			i.speakers = slices.DeleteFunc(i.speakers, func(s Speaker) bool { return s.Addr == oldest.Addr })
		}
		n = len(i.speakers)
		i.speakers = append(i.speakers, Speaker{Addr: from})
	}
	s := &i.speakers[n]
	s.Heard, s.Dropped = i.clock(), a == nil
	if a != nil {
		s.Priority, s.Interval = a.Priority, a.Interval
	}
	if problem != s.Problem {
		s.Problem = problem
		if problem != "" {
			i.tell(Note{slog.LevelWarn, "adverts that do not fit", fmt.Sprintf("%v: %s", from, problem)})
		}
	}
}

// Wake gives the machine its time. Drain comes first: nobody is dead whose packets wait.
func (i *Instance) Wake() {
	if i.machine.Deadline() <= i.clock() {
		i.Step(Timer{})
	}
}

// Step gives the machine an event and carries out what it decides.
func (i *Instance) Step(e Event) {
	if reload, ok := e.(Reload); ok {
		i.cfg, i.filter = reload.Config, NewFilter(reload.Config)
		for n := range i.speakers { // what did not fit may fit now
			i.speakers[n].Problem = ""
		}
	}
	for _, a := range i.machine.Step(i.clock(), e) {
		switch a := a.(type) {
		case Send:
			i.send(a)
		case Became:
			i.stats.Transitions++
			i.do(a)
		case Note:
			i.tell(a)
		default:
			i.do(a)
		}
	}
}

func (i *Instance) send(a Send) {
	err := errors.New("no interface or address to send from")
	if i.conn != nil {
		err = i.conn.Send(i.cfg.Advert(a.Priority), i.cfg.Checksum)
	}
	if err == nil {
		i.stats.Sent++
		i.sendErr = ""
		i.do(Sent{i.clock() - a.Due})
		return
	}
	if a.Priority != PriorityRelease && i.sendErr != err.Error() { // once, not every beat; a release is sent for what it is worth
		i.sendErr = err.Error()
		i.tell(Note{slog.LevelError, "advert not sent", i.sendErr})
	}
}

// tell passes a note on, unless there were many like it: strangers must not be able to fill the log.
func (i *Instance) tell(n Note) {
	now := i.clock()
	w := i.told[n.What]
	if w == nil || now-w.begun >= tellPeriod {
		if w != nil && w.count > maxTold {
			n.Cause += fmt.Sprintf(" (and %d more since the last)", w.count-maxTold)
		}
		w = &tally{begun: now}
		i.told[n.What] = w
	}
	if w.count++; w.count <= maxTold {
		i.do(n)
	}
}

// tally counts notes of one kind since begun.
type tally struct {
	begun time.Duration
	count int
}

// Status is what the machine knows.
func (i *Instance) Status() Status { return i.machine.Status() }

// Expects tells whether one of the addresses should be on the interface now.
func (i *Instance) Expects(addr netip.Addr) Presence { return i.machine.Expects(addr) }

// Stats returns a copy of the books.
func (i *Instance) Stats() Stats {
	s := i.stats
	s.Dropped = maps.Clone(s.Dropped)
	return s
}

// Speakers are the other nodes that were heard.
func (i *Instance) Speakers() []Speaker { return slices.Clone(i.speakers) }
