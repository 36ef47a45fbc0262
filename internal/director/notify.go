package director

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// notify tells systemd how the service is (sd_notify(3)); without systemd it does nothing.
// A message that gets lost is no reason to stop balancing.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}

// reloading is the state that begins a reload: systemd wants the time of its beginning with it.
func reloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail for this clock
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
