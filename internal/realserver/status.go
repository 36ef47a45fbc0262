package realserver

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"poise/internal/host"
)

// State is one setting as the host has it.
type State struct {
	Step
	Now    string
	Former string // before Apply; empty when Apply has not been asked for it

	odd error // routes that Apply must not replace, as Undo could not make them again
	own bool  // it is an interface's own, larger than all's, which Apply does not touch
}

// OK tells whether the setting is as it must be.
func (s State) OK() bool { return s.fits(s.Now) }

// goal is the value the setting has after Apply.
func (s State) goal() string {
	if s.OK() {
		return s.Now
	}
	return s.Want[0]
}

// Status returns the state of each step for the settings, or when there are none, of what is applied; nothing
// applied is an error then. Interfaces whose own ARP settings spoil those for all follow as
// further states.
func Status(dir string, all ...Settings) ([]State, error) {
	rec, err := host.OpenRecord(recordPath(dir))
	if err != nil {
		return nil, err
	}
	steps, err := recorded(rec)
	if len(all) > 0 {
		steps, err = Plan(all...)
	}
	if err != nil {
		return nil, err
	}
	return status(kernel{}, rec, steps)
}

// Applied tells whether something is applied that Undo can restore.
func Applied(dir string) (bool, error) {
	rec, err := host.OpenRecord(recordPath(dir))
	if err != nil {
		return false, err
	}
	return len(rec.All()) > 0, nil
}

// recorded are the steps that were taken.
func recorded(rec *host.Record) ([]Step, error) {
	var steps []Step
	last := make(map[string]string) // the newest key by what it is about
	for _, f := range rec.All() {
		last[objectOf(f.Key)] = f.Key
	}
	for _, f := range rec.All() {
		step, err := stepOf(f.Key)
		if err != nil {
			return nil, err
		}
		if last[objectOf(f.Key)] == f.Key {
			steps = append(steps, step)
		}
	}
	if steps == nil {
		return nil, errors.New("nothing is applied here")
	}
	return steps, nil
}

func recordedVIPs(rec *host.Record) []netip.Addr {
	var keys []string
	for _, f := range rec.All() {
		keys = append(keys, f.Key)
	}
	return vipsOf(keys)
}

func status(sys system, rec *host.Record, steps []Step) ([]State, error) {
	states, err := look(sys, steps)
	if err != nil {
		return nil, err
	}
	for i, s := range states {
		states[i].Former, _ = rec.Former(s.Key)
	}
	overriding, err := overrides(sys, states)
	return append(states, overriding...), err
}

func look(sys system, steps []Step) ([]State, error) {
	var states []State
	for _, step := range steps {
		state := State{Step: step}
		var err error
		state.Now, err = sys.get(step.Key)
		if odd, is := errors.AsType[*host.OddRouteError](err); is {
			state.Now, state.odd, err = odd.Error(), err, nil
		}
		if err != nil {
			return nil, err
		}
		states = append(states, state)
	}
	return states, nil
}

// overrides returns the interfaces' own settings that are larger than all's goal, and so in
// force, but not as wanted. "default" is among them: interfaces to come inherit it.
func overrides(sys system, states []State) ([]State, error) {
	interfaces, err := sys.interfaces()
	if err != nil {
		return nil, err
	}
	var found []State
	for _, s := range states {
		_, setting, isSysctl := strings.Cut(s.Key, ".all.")
		if !isSysctl {
			continue
		}
		for _, ifname := range interfaces {
			if ifname == "all" || ifname == "lo" { // lo does no ARP
				continue
			}
			key := host.SysctlName("net", "ipv4", "conf", ifname, setting)
			now, err := sys.get(key)
			if errors.Is(err, fs.ErrNotExist) {
				continue // the interface has just gone
			}
			if err != nil {
				return nil, err
			}
			if larger(now, s.goal()) && !slices.Contains(s.Want, now) {
				found = append(found, State{Step: Step{key, []string{"0"}}, Now: now, own: true})
			}
		}
	}
	return found, nil
}

// larger compares two sysctl values; they are numbers, as the kernel wrote them.
func larger(a, b string) bool {
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	return x > y
}
