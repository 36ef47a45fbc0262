// Package host is the one writer of this machine's links, addresses, routes and sysctls.
//
// It changes one thing at a time and says whether there was anything to change. What to change is
// decided elsewhere; a [Record] keeps what things were, so that it can be undone:
//
//	planner ── Remember(key, former) ──▶ Record ──▶ file in the runtime directory
//	        ── Write, AddAddr ─────────▶ kernel
//
// All functions act on the network namespace of the calling thread.
package host

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// NeedNetAdmin is nil when this process may change the network, else an error with the remedy.
// Callers ask before their first change, so that nothing is left half done.
func NeedNetAdmin() error {
	var caps [2]unix.CapUserData // 64 capabilities, 32 in each
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		return fmt.Errorf("capabilities of this process: %w", err)
	}
	if caps[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("no permission to change the network: run as root, or with CAP_NET_ADMIN")
	}
	return nil
}
