package ipvsctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Modules answers which schedulers and persistence engines the running kernel has, and has the kernel load those it
// is asked about. The zero value knows nothing yet; one goroutine at a time may use it.
type Modules struct{ there map[string]bool }

// Scheduler is nil when the kernel has the scheduler, or cannot be asked.
func (m *Modules) Scheduler(name string) error {
	return m.has("ip_vs_"+name, Settings{Scheduler: name})
}

// Engine is nil when the kernel has the persistence engine, or cannot be asked.
func (m *Modules) Engine(name string) error {
	return m.has("ip_vs_pe_"+name, Settings{Scheduler: "none", Persistence: time.Second, Engine: name})
}

func (m *Modules) has(module string, s Settings) error {
	if m.there[module] {
		return nil
	}
	if _, missing := os.Stat("/sys/module/" + module); missing != nil && errors.Is(tryService(s), unix.ENOENT) {
		return fmt.Errorf("this kernel has no module %s", module) // until somebody installs it
	}
	if m.there == nil {
		m.there = make(map[string]bool)
	}
	m.there[module] = true
	return nil
}

// tryService adds a service in a network namespace of its own, where there are no others and no packets, and which is gone
// when this returns.
func tryService(s Settings) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // where there is no way back the thread ends with the goroutine
		home, err := netns.Get()
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		other, err := netns.New()
		if err == nil {
			err = addService(s)
			other.Close()
		}
		result <- err
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return <-result
}

func addService(s Settings) error {
	ctx := context.Background()
	c, err := Open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Apply(ctx, []Op{{Kind: AddService, Service: ByMark(1, false), Settings: s}})[0]
}
