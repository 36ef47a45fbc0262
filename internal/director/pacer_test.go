package director

import (
	"net/netip"
	"testing"
	"time"

	"poise/vrrp"
)

func announcements(r *router, n, round int) []announcement {
	all := make([]announcement, n)
	for i := range all {
		all[i] = announcement{r, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), round}
	}
	return all
}

// TestPacer: a few addresses are announced at once, many in a stream that switches and neighbours can take.
func TestPacer(t *testing.T) {
	for _, c := range []struct {
		name  string
		n     int
		round int
		took  time.Duration // from the first to the last
	}{
		{"one", 1, 0, 0},
		{"a burst", maxBurst, 0, 0},
		{"many, the first round", 255, 0, (255 - maxBurst) * firstPause},
		{"many, a later round", 255, 3, (255 - maxBurst) * laterPause},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPacer()
			p.add("eth0", announcements(&router{}, c.n, c.round)...)
			begin := 7 * time.Second
			at, sent := begin, 0
			for at != vrrp.Never {
				sent += len(p.due(at))
				if next := p.deadline(); next != vrrp.Never {
					if next <= at {
						t.Fatalf("at %v the next is due at %v", at, next)
					}
					at = next
					continue
				}
				break
			}
			if sent != c.n || at-begin != c.took {
				t.Errorf("%d sent within %v, want %d within %v", sent, at-begin, c.n, c.took)
			}
		})
	}
}

// TestPacerRemembers: a second router on the same interface is in the same stream, one elsewhere is not, and what
// is cancelled never leaves.
func TestPacerRemembers(t *testing.T) {
	p := newPacer()
	one, two := &router{}, &router{}
	p.add("eth0", announcements(one, maxBurst, 0)...)
	p.due(0)
	p.add("eth0", announcements(two, 2, 0)...)
	p.add("eth1", announcements(one, 2, 0)...)
	if got := p.due(0); len(got) != 2 || got[0].router != one {
		t.Errorf("%d left at once, want the two of the other interface", len(got))
	}
	if d := p.deadline(); d != firstPause {
		t.Errorf("the next is due at %v, want %v", d, firstPause)
	}
	p.cancel(two)
	if got := p.due(time.Second); len(got) != 0 || p.deadline() != vrrp.Never {
		t.Errorf("%d left after they were cancelled", len(got))
	}
	p.add("eth0", announcements(two, maxBurst, 0)...)
	if got := p.due(2 * time.Second); len(got) != maxBurst {
		t.Errorf("%d left at once after a rest, want %d", len(got), maxBurst)
	}
}
