package checker

import (
	"testing"
	"time"
)

func TestAdvance(t *testing.T) {
	const interval = 2 * time.Second
	due := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name      string
		gap, took time.Duration
		next      time.Duration
	}{
		{"the usual", interval, 5 * time.Millisecond, interval},
		{"the second turn", time.Second, 5 * time.Millisecond, time.Second},
		{"the second turn has passed", time.Millisecond, 5 * time.Millisecond, time.Millisecond},
		{"exactly an interval", interval, interval, interval},
		{"a little over an interval", interval, interval + 1, interval},
		{"nearly two intervals", interval, 2*interval - 1, interval},
		{"two turns missed", interval, 3*interval + 1, 3 * interval},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := check{Target: Target{Config: Config{Interval: interval}}, due: due, gap: tt.gap}
			c.advance(due.Add(tt.took))
			if got := c.due.Sub(due); got != tt.next || c.gap != interval {
				t.Errorf("next turn after %v, then every %v, want %v, %v", got, c.gap, tt.next, interval)
			}
		})
	}
}
