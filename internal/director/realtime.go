package director

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// How the elector runs: before everything else that is ready, but never for long.
const (
	realtimePriority = 50        // of 1..99: above all ordinary work, below the kernel's own threads that matter
	realtimeLimit    = 2_000_000 // microseconds of computing without a pause before the kernel ends the process (RLIMIT_RTTIME)
	electorHeap      = 16 << 20  // beyond it the collector works harder
)

// withRealtime runs f with this thread scheduled in real time, which what f forks inherits. Where that is not
// permitted f runs all the same, and what it forked sees that itself.
func withRealtime(f func()) {
	former, err := unix.SchedGetAttr(0, 0)
	if err == nil {
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_RR, Priority: realtimePriority}, 0)
	}
	f()
	if err == nil {
		_ = unix.SchedSetAttr(0, former, 0) // to be less is always permitted
	}
}

// goBefore puts this thread before its like: an elector's loop before a spare that starts on the same processor. Where
// real time is not permitted this is not either.
func goBefore() {
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_RR, Priority: realtimePriority + 1}, 0)
}

// settle makes this process fit for real time: its memory stays in memory, and should it spin it is ended before the
// machine hangs. What is not permitted is returned, and no reason to stop.
func settle() error {
	debug.SetMemoryLimit(electorHeap)
	var errs []error
	// The parent has asked for it; where it could not, timers at least are not late on purpose.
	if policy, err := unix.SchedGetAttr(0, 0); err != nil || policy.Policy != unix.SCHED_RR {
		errs = append(errs, errors.New("no real-time scheduling"))
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	}
	limit := &unix.Rlimit{Cur: realtimeLimit, Max: realtimeLimit}
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, limit); err != nil {
		errs = append(errs, fmt.Errorf("limit of computing: %w", err))
	}
	// Pages are locked when they are first touched: all at once would be far more than is ever used.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		errs = append(errs, fmt.Errorf("memory may be swapped out: %w", err))
	}
	// Needs a permission that containers lack; then it is as likely to be ended for want of memory as others of its size.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	return errors.Join(errs...)
}
