package director

import (
	"testing"

	"poise/checker"
)

func TestBatch(t *testing.T) {
	tests := []struct {
		name          string
		waiting, want int
	}{
		{"nothing waits", 0, 1},
		{"all that wait are taken", 10, 11},
		{"an endless stream has its bounds", 2 * mostReports, mostReports},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			behind := make(chan checker.Report, tt.waiting)
			for range tt.waiting {
				behind <- checker.Report{}
			}
			if got := len(batch(checker.Report{}, behind)); got != tt.want {
				t.Errorf("%d reports, want %d", got, tt.want)
			}
		})
	}
}
