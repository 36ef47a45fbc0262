package director

import (
	"fmt"
	"net/netip"
	"time"

	"poise/checker"
	"poise/config"
	"poise/internal/status"
	"poise/ipvsctl"
)

// knowledge is what a decision about one service rests on, beside its configuration.
type knowledge struct {
	// verdict is what the checks say of a server, and why.
	verdict func(netip.AddrPort) (checker.State, string)
	// intent is what an operator wants of a server; nil when nobody wants anything.
	intent func(netip.AddrPort) *status.Intent
	// found is the weight that a server without a verdict, or the sorry server, had in the kernel when
	// poise began to care for it.
	found func(netip.AddrPort) (weight int, inKernel bool)
}

// decision is what one service should be in the kernel, and why.
type decision struct {
	service ipvsctl.Service
	weight  int                       // of the servers that count towards the quorum
	up      bool                      // the quorum is met
	changed bool                      // up is not what it was
	sorry   bool                      // the sorry server has taken over
	why     string                    // the sums and states behind up, and who answers when it is not
	reasons map[netip.AddrPort]string // why each server has its weight
}

// decide is the rule by which checks, operators and the quorum move weights. The quorum remembers
// its last decision; all else is values.
func decide(s config.Service, know knowledge, quorum *checker.Quorum) decision {
	d := decision{
		service: ipvsctl.Service{
			Settings:     s.Settings(),
			Destinations: make(map[netip.AddrPort]ipvsctl.Destination),
		},
		reasons: make(map[netip.AddrPort]string),
	}
	undecided := false
	counts := make(map[string]int)
	for _, server := range s.Servers {
		addr := server.Addr()
		place := placeOf(s, server, know)
		d.reasons[addr] = place.reason
		d.weight += place.weight
		undecided = undecided || place.unknown
		counts[place.word]++
		if place.inTable {
			d.service.Destinations[addr] = s.Destination(server, place.weight)
		}
	}

	// At the very start no server has a verdict and the kernel may have none of them: that is not yet
	// a lost quorum, so the sorry server waits until the servers have had their say.
	if d.weight >= s.Quorum || quorum.Decided() || !undecided {
		d.changed = quorum.Observe(d.weight)
	}
	d.up = quorum.Held()
	d.why = fmt.Sprintf("weight %d, quorum %d", d.weight, s.Quorum) + tally(counts)
	switch {
	case d.up:
	case s.SorryServer.IsValid():
		d.callSorryServer(s, know, quorum.Decided())
	case d.weight == 0:
		d.why += ": nobody answers"
	default:
		d.why += ": those that are left answer"
	}
	return d
}

// callSorryServer puts the sorry server in the place of the others, which go as if they were down.
func (d *decision) callSorryServer(s config.Service, know knowledge, decided bool) {
	if !decided {
		// If it took over before poise began, it stays until the servers have had their say.
		if weight, inKernel := know.found(s.SorryServer); inKernel {
			d.service.Destinations[s.SorryServer] = s.Destination(s.Sorry(), weight)
		}
		return
	}
	d.sorry = true
	d.why += fmt.Sprintf(": sorry server %v answers", s.SorryServer)
	for addr, destination := range d.service.Destinations {
		if destination.Weight == 0 {
			continue
		}
		d.reasons[addr] = fmt.Sprintf("no quorum: weight %d, regained at %d", d.weight, s.Quorum+s.QuorumHysteresis)
		if onFailure(s) == checker.Remove {
			delete(d.service.Destinations, addr)
		} else {
			destination.Weight = 0
			d.service.Destinations[addr] = destination
		}
	}
	d.service.Destinations[s.SorryServer] = s.Destination(s.Sorry(), 1)
}

// place is where one server stands by itself, before the quorum has its say.
type place struct {
	weight  int
	inTable bool   // with weight 0 too: its connections go on
	unknown bool   // no verdict yet
	word    string // what tally counts
	reason  string
}

func placeOf(s config.Service, server config.Server, know knowledge) place {
	addr := server.Addr()
	weight, word, reason := server.Weight, "up", "up"
	intent := know.intent(addr)
	switch {
	case intent == nil:
	case intent.Drain:
		weight, word, reason = 0, "drained", "drained"+because(intent)
	case intent.Weight != nil:
		weight, reason = *intent.Weight, fmt.Sprintf("weight %d set", *intent.Weight)+because(intent)
	}
	if s.Check == nil {
		return place{weight, true, false, word, reason}
	}
	keeps := s.Check.OnFailure == checker.WeightZero // a server that is out stays in the table, with weight 0
	switch state, cause := know.verdict(addr); {
	case state == checker.Down && intent != nil:
		return place{0, keeps, false, "down", "down: " + cause + "; " + reason}
	case state == checker.Down:
		return place{0, keeps, false, "down", "down: " + cause}
	case state == checker.Up:
		return place{weight, true, false, word, reason}
	}
	// Without a verdict the kernel's own state is the best guess: after a restart it is right almost always.
	found, inKernel := know.found(addr)
	switch {
	case inKernel && intent != nil:
		return place{min(found, weight), true, true, "unknown", reason}
	case inKernel:
		return place{found, true, true, "unknown", "not checked yet, weight as found"}
	case s.Check.Initial == checker.InitialUp && intent != nil:
		return place{weight, true, true, "unknown", reason}
	case s.Check.Initial == checker.InitialUp:
		return place{weight, true, true, "unknown", "not checked yet, initial = up"}
	}
	return place{0, keeps, true, "unknown", "not checked yet"}
}

// tally is how many servers are not simply up: ", 2 down, 1 drained".
func tally(counts map[string]int) string {
	text := ""
	for _, word := range []string{"down", "drained", "unknown"} {
		if n := counts[word]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, word)
		}
	}
	return text
}

// onFailure is how the service takes servers out; one without checks only ever does so for its sorry server.
func onFailure(s config.Service) checker.OnFailure {
	if s.Check == nil {
		return checker.WeightZero
	}
	return s.Check.OnFailure
}

// because is who asked, when and why: " by root at 2026-11-20 03:14:07: new disk".
func because(in *status.Intent) string {
	text := " by " + in.By
	if !in.At.IsZero() {
		text += " at " + in.At.Local().Format(time.DateTime)
	}
	if in.Reason != "" {
		text += ": " + in.Reason
	}
	return text
}
