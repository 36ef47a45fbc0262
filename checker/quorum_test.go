package checker

import (
	"testing"

	"pgregory.net/rapid"
)

func TestQuorum(t *testing.T) {
	for _, tt := range []struct {
		name               string
		weight, hysteresis int
		sums               []int
		want               string // after each: + held, - not
	}{
		{"one server is enough by default", 0, 0, []int{0, 1, 0}, "-+-"},
		{"without hysteresis", 3, 0, []int{3, 2, 3}, "+-+"},
		{"the first decision is by weight alone", 4, 2, []int{4, 2, 1}, "++-"},
		{"not held at first", 4, 2, []int{3, 4, 5, 6}, "---+"},
		{"kept within the band", 4, 2, []int{6, 2, 5, 2, 1, 5, 6}, "++++--+"},
		{"nothing is never enough", 2, 2, []int{5, 1, 0}, "++-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := Quorum{Weight: tt.weight, Hysteresis: tt.hysteresis}
			got := ""
			for i, sum := range tt.sums {
				before := q.Held()
				changed := q.Observe(sum)
				if want := i == 0 || q.Held() != before; changed != want {
					t.Errorf("sum %d: changed is %v, want %v", sum, changed, want)
				}
				got += map[bool]string{true: "+", false: "-"}[q.Held()]
			}
			if got != tt.want {
				t.Errorf("held %s, want %s", got, tt.want)
			}
		})
	}
}

// A decision that is reversed has moved past the whole band; within it nothing changes.
func TestQuorumProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weight := rapid.IntRange(1, 20).Draw(t, "weight")
		hysteresis := rapid.IntRange(0, weight-1).Draw(t, "hysteresis")
		q := Quorum{Weight: weight, Hysteresis: hysteresis}
		q.Observe(rapid.IntRange(0, 60).Draw(t, "first sum"))
		for range 20 {
			sum := rapid.IntRange(0, 60).Draw(t, "sum")
			before := q.Held()
			changed := q.Observe(sum)
			switch {
			case sum >= weight+hysteresis && !q.Held():
				t.Fatalf("sum %d does not gain %d+%d", sum, weight, hysteresis)
			case sum < weight-hysteresis && q.Held():
				t.Fatalf("sum %d holds %d-%d", sum, weight, hysteresis)
			case sum >= weight-hysteresis && sum < weight+hysteresis && (changed || q.Held() != before):
				t.Fatalf("sum %d changes the decision within %d±%d", sum, weight, hysteresis)
			}
		}
	})
}
