package sim

import (
	"net/netip"
	"time"

	"poise/vrrp"
)

// reckoning is a Backup's down timer, reckoned a second time from what the node hears (RFC 9568 section 6.4.2).
type reckoning struct {
	config   vrrp.Config
	held     bool
	master   netip.Addr    // whose advert was heard last
	interval time.Duration // the master's
	adopted  bool          // it is from an advert
	base     time.Duration // of the last accepted advert, or of the beginning
	released time.Duration // when the master said that it leaves, or Never
	listen   time.Duration // not before this: the host was not awake when it was due
	patience time.Duration // until when lower adverts are accepted; 0 = none was heard
	lower    bool          // a lower advert was discarded since base
}

// due is when the node takes over if it hears nothing.
func (k *reckoning) due() time.Duration {
	unit := k.interval
	if k.config.Version == 2 {
		unit = time.Second
	}
	skew := (256 - time.Duration(k.config.Priority)) * unit / 256
	silence := k.base + 3*k.interval
	if k.released != vrrp.Never {
		silence = min(silence, k.released)
	}
	return max(k.listen, silence+skew)
}

// begin begins to wait for a master of whom nothing is known.
func (k *reckoning) begin(now time.Duration) {
	k.interval, k.adopted, k.patience = k.config.Interval, false, 0
	k.accept(now)
}

func (k *reckoning) accept(now time.Duration) {
	k.base, k.released, k.listen, k.lower = now, vrrp.Never, 0, false
}

// reloads takes a new configuration. The timer keeps its base.
func (k *reckoning) reloads(c vrrp.Config) {
	k.config = c
	if !k.adopted {
		k.interval = c.Interval
	}
}

// hears takes an advert that came to a Backup.
func (k *reckoning) hears(now time.Duration, r vrrp.Received) {
	c := k.config
	switch priority := r.Advert.Priority; {
	case priority == vrrp.PriorityRelease:
		if k.released == vrrp.Never && (r.From == k.master || !k.master.IsValid()) {
			k.released = now
		}
		return
	case priority >= c.Priority || !c.Preempt || k.held:
		k.patience = 0
	default:
		if k.patience == 0 {
			k.patience = now + c.PreemptDelay
		}
		if now >= k.patience {
			k.lower = true
			return
		}
	}
	if c.Version == 3 {
		k.interval, k.adopted = r.Advert.Interval, true
	}
	k.accept(now)
}

// stays takes a Timer that did not lead to a takeover. A node that was not awake to hear the master listens for another
// interval.
func (k *reckoning) stays(now time.Duration) {
	if late := now - k.due(); late >= k.config.Interval {
		k.listen = now + k.interval
	}
}
