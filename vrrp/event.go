package vrrp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Event is what happens to a Machine. Times are since boot, the time in suspend included, so that a
// machine that slept knows it.
type Event interface{ event() }

type (
	// Start begins the election. Faults and source are those that were told before. With Resume the router was master a
	// moment ago, its addresses are still installed, and no backup can have missed it yet.
	Start struct{ Resume bool }
	// Stop leaves the election for good; Stopped follows when nothing is left to do. Before it, and before Hold, the packets
	// that waited have been given to Step.
	Stop struct{}
	// Release, instead of Start, is for the addresses that a master left which died: they are given up in good order, but soon.
	// Faults and source are those that were told before. Stopped follows.
	Release struct{}
	// Timer tells that time has passed and that every packet which waited has been given to Step.
	// Before Deadline it does nothing.
	Timer struct{}
	// Received is an advert that passed the Filter.
	Received struct {
		From   netip.Addr
		Advert Advert
	}
	// Overflow tells that packets were lost before they could be read.
	Overflow struct{}
	// Link tells whether the interface is there, up and has a carrier.
	Link struct{ Up bool }
	// Source is the address adverts come from now, invalid when there is none.
	Source struct{ Addr netip.Addr }
	// Done is the outcome of an Add or Delete with the same Op.
	Done struct {
		Op  uint64
		Err error
	}
	// Missing tells that an address which this router has installed was removed by somebody else.
	Missing struct{ Addr netip.Addr }
	// Foreign tells that a virtual address is on the interface although this router has not put it there.
	Foreign struct{ Addr netip.Addr }
	// Checked answers Recheck: Link, Source, Missing and Foreign have been told anew where they changed.
	Checked struct{}
	// Reload replaces the configuration with one of the SameRouter.
	Reload struct{ Config Config }
	// Hold is an operator's wish that this node does not serve (On), or may again.
	Hold struct{ On bool }
)

func (Start) event()    {}
func (Stop) event()     {}
func (Release) event()  {}
func (Timer) event()    {}
func (Received) event() {}
func (Overflow) event() {}
func (Link) event()     {}
func (Source) event()   {}
func (Done) event()     {}
func (Missing) event()  {}
func (Foreign) event()  {}
func (Checked) event()  {}
func (Reload) event()   {}
func (Hold) event()     {}

// Action is what is to be done, in the order in which Step returns it.
type Action interface{ action() }

type (
	// Send sends one advert, to every peer or to the group. Due is when the beat wanted it, now for those that answer something.
	Send struct {
		Priority uint8
		Due      time.Duration
	}
	// Add puts addresses on the interface. It is answered by Done, and so is Delete; they are carried out one
	// after the other. To add what is there, and to delete what is not, is success.
	Add struct {
		Op    uint64
		Addrs []netip.Addr
	}
	// Delete takes addresses off the interface; with Evict whatever their prefix length, as somebody else has put them there.
	Delete struct {
		Op    uint64
		Addrs []netip.Addr
		Evict bool
	}
	// Announce tells the neighbours where addresses are now: one gratuitous ARP or neighbour advertisement each.
	// Round counts from 0.
	Announce struct {
		Addrs []netip.Addr
		Round int
	}
	// CancelAnnounce means that from now on not even an announcement that waits for its turn may leave.
	CancelAnnounce struct{}
	// Recheck asks for a fresh look at interface and addresses, answered by Checked.
	Recheck struct{}
	// Became tells a change of state and why.
	Became struct {
		From, To State
		Why      string
	}
	// Note is something that operators should know.
	Note struct {
		Level slog.Level
		What  string // a constant phrase
		Cause string
	}
	// Stopped tells that the router is out of the election and that nothing of it is left.
	Stopped struct{}
)

func (Send) action()           {}
func (Add) action()            {}
func (Delete) action()         {}
func (Announce) action()       {}
func (CancelAnnounce) action() {}
func (Recheck) action()        {}
func (Became) action()         {}
func (Note) action()           {}
func (Stopped) action()        {}

// Never is the Deadline of a Machine that waits for no time.
const Never = time.Duration(1<<63 - 1)

// The announcement rounds after an address was added: what a neighbour missed in a burst of loss, or ignored
// because it had just learned something else, it hears later.
var (
	takeoverRounds = []time.Duration{0, 100 * time.Millisecond, 1100 * time.Millisecond, 2200 * time.Millisecond, 5 * time.Second}
	assertRounds   = []time.Duration{0, 1100 * time.Millisecond}
	resumeRounds   = []time.Duration{0}
)

func (r Received) String() string {
	return fmt.Sprintf("advert from=%v prio=%d", r.From, r.Advert.Priority)
}
