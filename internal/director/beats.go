package director

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"poise/vrrp"
)

// beats is memory that an elector shares with the next one: which routers it is master of, and when it last said so. The
// parent keeps the file, so it survives the elector, and nobody else.
type beats struct {
	mem   []byte
	slots []beat
}

// beat is one router's line in the memory. Zero is none, or not master.
type beat struct {
	config atomic.Uint64 // hash of the router's configuration
	sent   atomic.Int64  // CLOCK_BOOTTIME of the last advert, in nanoseconds
}

const (
	maxBeats  = 1024 // routers: more than four times the numbers that VRRP has
	beatsSize = maxBeats * int(unsafe.Sizeof(beat{}))
)

// newBeats makes the memory, as a file that a child can inherit.
func newBeats() (*os.File, error) {
	fd, err := unix.MemfdCreate("poise-beats", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory of the elector: %w", err)
	}
	f := os.NewFile(uintptr(fd), "beats")
	if err := f.Truncate(int64(beatsSize)); err != nil {
		f.Close()
		return nil, fmt.Errorf("memory of the elector: %w", err)
	}
	return f, nil
}

// clearBeats forgets what the memory that f is says, also for those that have it mapped already.
func clearBeats(f *os.File) error {
	_, err := f.WriteAt(make([]byte, beatsSize), 0)
	return err
}

// mapBeats maps the memory that f is.
func mapBeats(f *os.File) (*beats, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, beatsSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("memory of the elector: %w", err)
	}
	return &beats{mem: mem, slots: unsafe.Slice((*beat)(unsafe.Pointer(&mem[0])), maxBeats)}, nil
}

// resumable tells whether the elector before was master of this very router so short a while ago that no backup has
// missed it yet.
func (b *beats) resumable(c vrrp.Config, now time.Duration) bool {
	want := hash(c)
	for i := range b.slots {
		if b.slots[i].config.Load() == want {
			sent := time.Duration(b.slots[i].sent.Load())
			return sent != 0 && sent <= now && now-sent < 2*c.Interval
		}
	}
	return false
}

// take gives the router a slot: the one it had, or a free one; nil when there is none.
func (b *beats) take(c vrrp.Config) *beat {
	want := hash(c)
	var free *beat
	for i := range b.slots {
		switch b.slots[i].config.Load() {
		case want:
			return &b.slots[i]
		case 0:
			if free == nil {
				free = &b.slots[i]
			}
		}
	}
	if free != nil {
		free.config.Store(want)
	}
	return free
}

// note says that an advert was sent as master, or with 0 that this is no master.
func (b *beat) note(sent time.Duration) {
	if b != nil {
		b.sent.Store(int64(sent))
	}
}

// drop frees the slot.
func (b *beat) drop() {
	if b != nil {
		b.sent.Store(0)
		b.config.Store(0)
	}
}

func hash(c vrrp.Config) uint64 {
	h := fnv.New64a()
	_ = json.NewEncoder(h).Encode(c) // plain data into a hash: neither fails
	return max(h.Sum64(), 1)
}
