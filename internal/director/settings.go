package director

import (
	"fmt"
	"strings"
	"time"

	"poise/config"
	"poise/internal/host"
	"poise/internal/status"
	"poise/ipvsctl"
)

// settings are the kernel's sysctls and, by the names that they have in the configuration, IPVS's timeouts: those are
// remembered, kept and put back in the same way.
type settings struct{ host.Sysctls }

const timeoutPrefix = "ipvs.timeouts."

// timeoutSettings are the timeouts that cfg asks for.
func timeoutSettings(cfg *config.Config) []status.Sysctl {
	var plan []status.Sysctl
	t := cfg.IPVS.Timeouts
	for _, s := range []struct {
		name string
		want time.Duration
	}{{"tcp", t.TCP}, {"tcp_fin", t.TCPFin}, {"udp", t.UDP}} {
		if s.want != 0 {
			plan = append(plan, status.Sysctl{Name: timeoutPrefix + s.name, Want: s.want.String()})
		}
	}
	return plan
}

// Read returns a value; a timeout as Go writes a duration.
func (s settings) Read(name string) (string, error) {
	key, isTimeout := strings.CutPrefix(name, timeoutPrefix)
	if !isTimeout {
		return s.Sysctls.Read(name)
	}
	t, err := ipvsctl.ReadTimeouts()
	if err != nil {
		return "", err
	}
	d, err := timeoutOf(&t, key)
	if err != nil {
		return "", err
	}
	return d.String(), nil
}

// Write sets a value.
func (s settings) Write(name, value string) error {
	key, isTimeout := strings.CutPrefix(name, timeoutPrefix)
	if !isTimeout {
		return s.Sysctls.Write(name, value)
	}
	var t ipvsctl.Timeouts
	d, err := timeoutOf(&t, key)
	if err == nil {
		*d, err = time.ParseDuration(value)
	}
	if err != nil {
		return err
	}
	return ipvsctl.SetTimeouts(t)
}

// Writable is nil when a value could be set now.
func (s settings) Writable(name string) error {
	if strings.HasPrefix(name, timeoutPrefix) {
		return nil // who may open IPVS may do all there
	}
	return s.Sysctls.Writable(name)
}

// timeoutOf is the one of t that the configuration calls key.
func timeoutOf(t *ipvsctl.Timeouts, key string) (*time.Duration, error) {
	switch key {
	case "tcp":
		return &t.TCP, nil
	case "tcp_fin":
		return &t.TCPFin, nil
	case "udp":
		return &t.UDP, nil
	}
	return nil, fmt.Errorf("there is no timeout %q", key)
}
