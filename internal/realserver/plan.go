// Package realserver prepares a real server for direct routing: the host takes packets for the
// virtual addresses, and only the director answers ARP for them.
//
//	Settings ─▶ Plan ─▶ steps ─▶ Apply ─▶ sysctls, addresses on lo
//	                               │ former values first
//	                               ▼
//	                    runtime directory/realserver.json ─▶ Undo, newest first
package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Settings is what a real server is asked to serve.
type Settings struct {
	Mode string       // the director's forwarding method: "dr"
	VIPs []netip.Addr // IPv4, each once
}

// Step is one setting of the host and the values that will do.
type Step struct {
	Key  string   // a sysctl's name, or an address as in "192.0.2.10/32 on lo"
	Want []string // Apply sets the first
}

// The values of an address step.
const (
	absent  = "absent"
	present = "present"
)

// silence keeps an address on lo out of ARP. The value in force is the larger one of all's and the
// interface's own, so setting all covers interfaces still to come.
var silence = []Step{
	// 1 and 2 answer only for addresses of the interface the question came in by, 8 answers for
	// none at all. 3 answers: the VIP has global scope. The kernel takes every other value for 0.
	{"net.ipv4.conf.all.arp_ignore", []string{"1", "2", "8"}},
	// Else the host asks for its clients' addresses in the VIP's name, and so takes the VIP over
	// in their caches. 1 still does where they share a network; above 2 the kernel takes it for 0.
	{"net.ipv4.conf.all.arp_announce", []string{"2"}},
}

// Plan returns the steps in the order to take them. The addresses come last: without the sysctls
// the host would answer for them from the moment they exist.
func Plan(s Settings) ([]Step, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	if len(s.VIPs) == 0 {
		return nil, errors.New("no VIP: name it: --vip ADDRESS")
	}
	steps := slices.Clone(silence)
	for _, vip := range s.VIPs {
		steps = append(steps, vipStep(vip))
	}
	return steps, nil
}

func (s Settings) validate() error {
	var errs []error
	if s.Mode != "dr" {
		errs = append(errs, fmt.Errorf("mode %q: only dr is supported", s.Mode))
	}
	for i, vip := range s.VIPs {
		switch {
		case !vip.Is4():
			errs = append(errs, fmt.Errorf("VIP %s: only IPv4 is supported", vip))
		case !vip.IsGlobalUnicast():
			errs = append(errs, fmt.Errorf("VIP %s: not a unicast address that routers forward", vip))
		case slices.Contains(s.VIPs[:i], vip):
			errs = append(errs, fmt.Errorf("VIP %s: named twice", vip))
		}
	}
	return errors.Join(errs...)
}

const onLo = " on lo"

func vipStep(vip netip.Addr) Step {
	return Step{netip.PrefixFrom(vip, 32).String() + onLo, []string{present}}
}

// vipOf returns the address that a key is about; false for a sysctl's key.
func vipOf(key string) (netip.Prefix, bool) {
	text, found := strings.CutSuffix(key, onLo)
	if !found {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(text)
	return p, err == nil
}

// stepOf returns the step that a recorded key stands for.
func stepOf(key string) (Step, error) {
	if i := slices.IndexFunc(silence, func(s Step) bool { return s.Key == key }); i >= 0 {
		return silence[i], nil
	}
	if p, ok := vipOf(key); ok {
		return vipStep(p.Addr()), nil
	}
	return Step{}, fmt.Errorf("undo record: %q is nothing this version of poise sets", key)
}
