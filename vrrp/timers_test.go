package vrrp

import (
	"testing"
	"time"
)

// TestSkew has the microseconds that keepalived computes with, which drops what is less.
func TestSkew(t *testing.T) {
	for _, tt := range []struct {
		version  int
		interval time.Duration
		priority uint8
		skew     int64
		down     int64
	}{
		{2, time.Second, 255, 3906, 3003906},
		{2, time.Second, 254, 7812, 3007812},
		{2, time.Second, 200, 218750, 3218750},
		{2, time.Second, 150, 414062, 3414062},
		{2, time.Second, 100, 609375, 3609375},
		{2, time.Second, 1, 996093, 3996093},
		{2, 3 * time.Second, 100, 609375, 9609375}, // version 2 counts the skew of one second
		{3, time.Second, 255, 3906, 3003906},
		{3, time.Second, 254, 7812, 3007812},
		{3, time.Second, 200, 218750, 3218750},
		{3, time.Second, 150, 414062, 3414062},
		{3, time.Second, 100, 609375, 3609375},
		{3, time.Second, 1, 996093, 3996093},
		{3, 100 * time.Millisecond, 255, 390, 300390},
		{3, 100 * time.Millisecond, 254, 781, 300781},
		{3, 100 * time.Millisecond, 200, 21875, 321875},
		{3, 100 * time.Millisecond, 150, 41406, 341406},
		{3, 100 * time.Millisecond, 100, 60937, 360937},
		{3, 100 * time.Millisecond, 1, 99609, 399609},
		{3, 10 * time.Millisecond, 255, 39, 30039},
		{3, 10 * time.Millisecond, 254, 78, 30078},
		{3, 10 * time.Millisecond, 200, 2187, 32187},
		{3, 10 * time.Millisecond, 150, 4140, 34140},
		{3, 10 * time.Millisecond, 100, 6093, 36093},
		{3, 10 * time.Millisecond, 1, 9960, 39960},
		{3, 40950 * time.Millisecond, 255, 159960, 123009960},
		{3, 40950 * time.Millisecond, 254, 319921, 123169921},
		{3, 40950 * time.Millisecond, 200, 8957812, 131807812},
		{3, 40950 * time.Millisecond, 150, 16955859, 139805859},
		{3, 40950 * time.Millisecond, 100, 24953906, 147803906},
		{3, 40950 * time.Millisecond, 1, 40790039, 163640039},
	} {
		if got := Skew(tt.version, tt.interval, tt.priority).Microseconds(); got != tt.skew {
			t.Errorf("Skew(%d, %v, %d) is %d µs, want %d", tt.version, tt.interval, tt.priority, got, tt.skew)
		}
		if got := MasterDown(tt.version, tt.interval, tt.priority).Microseconds(); got != tt.down {
			t.Errorf("MasterDown(%d, %v, %d) is %d µs, want %d", tt.version, tt.interval, tt.priority, got, tt.down)
		}
	}
}
