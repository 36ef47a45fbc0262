package ipvsctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

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
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			ctx := context.Background()
			c, err := Open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Apply(ctx, []Op{{Kind: AddService, Service: ByMark(1, false), Settings: s}})[0]
		}()
	}()
	return <-result
}
