package ipvsctl

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/moby/ipvs"
	"github.com/sirupsen/logrus"
)

// Timeouts are how long the kernel remembers a silent connection, in whole seconds; a value of 0 leaves the kernel's own.
// New ones apply to a connection with its next packet. A kernel that counts a thousand ticks a second has no more than 596h.
type Timeouts struct {
	// TCP is for established TCP connections. The kernel's own is 15m.
	TCP time.Duration `toml:"tcp" range:"1s..596h"`
	// TCPFin is for TCP connections that have begun to close. The kernel's own is 2m.
	TCPFin time.Duration `toml:"tcp_fin" range:"1s..596h"`
	// UDP is between two datagrams of a client. The kernel's own is 5m.
	UDP time.Duration `toml:"udp" range:"1s..596h"`
}

// Validate reports each rule that the values break, by key.
func (t Timeouts) Validate(report func(key, rule string)) {
	for key, d := range map[string]time.Duration{"tcp": t.TCP, "tcp_fin": t.TCPFin, "udp": t.UDP} {
		if d%time.Second != 0 {
			report(key, "not in whole seconds")
		}
	}
}

// ReadTimeouts returns those of the calling thread's network namespace, where IPVS must be there: Open has said so.
func ReadTimeouts() (Timeouts, error) {
	var t Timeouts
	err := withMoby(func(h *ipvs.Handle) error {
		c, err := h.GetConfig()
		if err == nil {
			t = Timeouts{c.TimeoutTCP, c.TimeoutTCPFin, c.TimeoutUDP}
		}
		return err
	})
	return t, wrap("read timeouts", err)
}

// SetTimeouts sets those of the calling thread's network namespace.
func SetTimeouts(t Timeouts) error {
	err := withMoby(func(h *ipvs.Handle) error {
		return h.SetConfig(&ipvs.Config{TimeoutTCP: t.TCP, TimeoutTCPFin: t.TCPFin, TimeoutUDP: t.UDP})
	})
	return wrap(fmt.Sprintf("set timeouts %v %v %v", t.TCP, t.TCPFin, t.UDP), err)
}

// Flush removes all services of the calling thread's network namespace, with their servers. Open has said that IPVS is there.
func Flush() error { return wrap("remove all services", withMoby((*ipvs.Handle).Flush)) }

// The library asks modprobe for IPVS at its first use, and complains to the log where there is no such program,
// although IPVS is there.
var quietMoby = sync.OnceFunc(func() { logrus.SetOutput(io.Discard) })

func withMoby(f func(*ipvs.Handle) error) error {
	quietMoby()
	h, err := ipvs.New("")
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}
