package checker

import (
	"fmt"
	"slices"
)

// State is the verdict on a server. It counts as Unknown until enough checks agreed.
type State uint8

// The states of a server.
const (
	Unknown State = iota
	Up
	Down
)

var stateWords = [...]string{"unknown", "up", "down"}

// String is the word operators see: unknown, up or down.
func (s State) String() string { return stateWords[s] }

// MarshalText writes the word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts what MarshalText writes.
func (s *State) UnmarshalText(text []byte) error {
	i := slices.Index(stateWords[:], string(text))
	if i < 0 {
		return fmt.Errorf("%q is none of %q", text, stateWords)
	}
	*s = State(i)
	return nil
}

// Health turns the results of checks into a verdict. The zero value is Unknown.
type Health struct {
	// Rise and Fall are how many successes or failures in a row make a server up or down; below 1 counts as 1.
	Rise, Fall int

	state  State
	last   bool // the result that streak counts
	streak int
}

// State is the verdict so far.
func (h *Health) State() State { return h.state }

// Observe takes the next result and says whether it changed the verdict.
func (h *Health) Observe(ok bool) (changed bool) {
	if ok != h.last {
		h.last, h.streak = ok, 0
	}
	h.streak++

	verdict, need := Down, h.Fall
	if ok {
		verdict, need = Up, h.Rise
	}
	if h.streak < need || h.state == verdict {
		return false
	}
	h.state = verdict
	return true
}
