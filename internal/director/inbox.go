package director

import (
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// queue hands things from any goroutine to one that takes them all at once. Putting never waits.
type queue[T any] struct {
	mu    sync.Mutex
	items []T
}

func (q *queue[T]) put(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, item)
}

func (q *queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}

// inbox is a queue of work for a goroutine that polls descriptors.
type inbox struct {
	queue[func()]
	bell int // an eventfd, readable while there is work
}

func newInbox() (*inbox, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &inbox{bell: fd}, nil
}

// post has the polling goroutine run f.
func (b *inbox) post(f func()) {
	b.put(f)
	_, _ = unix.Write(b.bell, binary.NativeEndian.AppendUint64(nil, 1)) // fails only when it rings already
}

// run does the work that waits.
func (b *inbox) run() {
	var rung [8]byte
	_, _ = unix.Read(b.bell, rung[:]) // before taking: what is put later rings again
	for _, f := range b.take() {
		f()
	}
}

// hands is the goroutine that waits for the kernel in place of one which must not: it does one thing after the other.
type hands struct {
	queue[func()]
	wake chan struct{}
}

func newHands() *hands { return &hands{wake: make(chan struct{}, 1)} }

func (h *hands) give(f func()) {
	h.put(f)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// run works until stop is closed.
func (h *hands) run(stop <-chan struct{}) {
	for {
		for _, f := range h.take() {
			f()
		}
		select {
		case <-h.wake:
		case <-stop:
			return
		}
	}
}
