package checker

import (
	"testing"

	"pgregory.net/rapid"
)

func TestHealth(t *testing.T) {
	for _, tt := range []struct {
		name       string
		rise, fall int
		results    string // + success, - failure
		want       string // the state after each: ? unknown, U up, D down
	}{
		{"up at the first success", 1, 2, "+++", "UUU"},
		{"unknown until fall failures", 1, 3, "---", "??D"},
		{"unknown until rise successes", 3, 1, "+++", "??U"},
		{"a success breaks the streak", 1, 2, "+-+-+--", "UUUUUUD"},
		{"a failure breaks the streak", 2, 1, "-+-++", "DDDDU"},
		{"unknown while results alternate", 2, 2, "+-+-+-", "??????"},
		{"zero value", 0, 0, "+-+", "UDU"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := Health{Rise: tt.rise, Fall: tt.fall}
			got := ""
			for _, r := range tt.results {
				before := h.State()
				if changed := h.Observe(r == '+'); changed != (h.State() != before) {
					t.Errorf("after %q: changed is %v, state went from %v to %v", got, changed, before, h.State())
				}
				got += string("?UD"[h.State()])
			}
			if got != tt.want {
				t.Errorf("states %s, want %s", got, tt.want)
			}
		})
	}
}

// The verdict changes exactly when the last rise or fall results were equal and say something new.
func TestHealthProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		need := map[bool]int{
			true:  rapid.IntRange(1, 5).Draw(t, "rise"),
			false: rapid.IntRange(1, 5).Draw(t, "fall"),
		}
		verdict := map[bool]State{true: Up, false: Down}
		results := rapid.SliceOf(rapid.Bool()).Draw(t, "results")
		h := Health{Rise: need[true], Fall: need[false]}
		for i, ok := range results {
			streak := 0
			for j := i; j >= 0 && results[j] == ok; j-- {
				streak++
			}
			want := h.State() != verdict[ok] && streak >= need[ok]
			if got := h.Observe(ok); got != want {
				t.Fatalf("result %d (%v, streak %d): changed is %v, want %v", i, ok, streak, got, want)
			}
			if want && h.State() != verdict[ok] {
				t.Fatalf("result %d: state %v, want %v", i, h.State(), verdict[ok])
			}
		}
	})
}

func TestStateText(t *testing.T) {
	for state, want := range map[State]string{Unknown: "unknown", Up: "up", Down: "down"} {
		if got, err := state.MarshalText(); string(got) != want || err != nil {
			t.Errorf("state %d is %q, %v, want %q", state, got, err, want)
		}
		var back State
		if err := back.UnmarshalText([]byte(want)); back != state || err != nil {
			t.Errorf("%q is state %d, %v, want %d", want, back, err, state)
		}
	}
	if err := new(State).UnmarshalText([]byte("fine")); err == nil {
		t.Error(`"fine" is a state`)
	}
}
