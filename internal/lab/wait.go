package lab

import (
	"testing"
	"time"
)

// Eventually asks check again and again until it returns nil. It fails the test with the
// last error when that has not happened within the limit.
func Eventually(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Since(start) > limit {
			t.Fatalf("after %v: %v", limit, err)
		}
	}
}
