package main

import (
	"fmt"
	"sync"
	"time"
)

// stalls are the times when this machine stood still: what a failed step says of time may be the machine's fault.
type stalls struct {
	mu      sync.Mutex
	number  int
	longest time.Duration
}

// watchStalls watches as long as the program runs.
func watchStalls() *stalls {
	const (
		nap     = 10 * time.Millisecond
		notable = 200 * time.Millisecond
	)
	s := &stalls{}
	go func() {
		for {
			begin := time.Now()
			time.Sleep(nap)
			if late := time.Since(begin) - nap; late > notable {
				s.mu.Lock()
				s.number++
				s.longest = max(s.longest, late)
				s.mu.Unlock()
			}
		}
	}()
	return s
}

// String is empty when there was none.
func (s *stalls) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == 0 {
		return ""
	}
	return fmt.Sprintf("\nThis machine stood still %d times, for up to %s: times seen above may be its fault.\n", s.number, ms(s.longest))
}
