package realserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"poise/internal/host"
)

// Change is what became of one setting.
type Change struct {
	Key           string
	Before, After string // equal when there was nothing to do
	Left          string // why Undo left the value alone; else empty
}

// Apply takes the steps for all settings that are still to take and returns what became of each. Former
// values go to the record in dir first; what earlier calls did stays. A step that cannot be taken
// ends it, with an error and the changes made before.
func Apply(dir string, all ...Settings) ([]Change, error) {
	steps, err := Plan(all...)
	if err != nil {
		return nil, err
	}
	return withRecord(dir, func(rec *host.Record) ([]Change, error) {
		return apply(kernel{}, rec, steps)
	})
}

func apply(sys system, rec *host.Record, steps []Step) ([]Change, error) {
	changes, err := toApply(sys, steps)
	if err != nil {
		return nil, err
	}
	for i, c := range changes {
		// Also what needs no change: the record is what undo and status know of earlier calls.
		err := rec.Remember(c.Key, c.Before)
		if err == nil {
			err = c.perform(sys)
		}
		if err != nil {
			return changes[:i], fmt.Errorf("%w; undo restores what was changed before", err)
		}
	}
	for _, key := range undone(rec, changes) {
		if err := rec.Forget(key); err != nil {
			return changes, err
		}
	}
	earlier, err := staying(sys, rec, steps)
	return append(changes, earlier...), err
}

// undone are the recorded keys, each newer than that of a change, by which the same thing had another value in between:
// undo need not go back to that.
func undone(rec *host.Record, changes []Change) (keys []string) {
	made, since := make(map[string]bool), make(map[string]bool) // by key, and by what it is about
	for _, c := range changes {
		made[c.Key] = true
	}
	for _, f := range rec.All() {
		switch object := objectOf(f.Key); {
		case made[f.Key]:
			since[object] = true
		case since[object]:
			keys = append(keys, f.Key)
		}
	}
	return keys
}

// staying are the virtual addresses of earlier calls which this one does not name: a file that has lost one does not take
// it away.
func staying(sys system, rec *host.Record, steps []Step) ([]Change, error) {
	var changes []Change
	for _, f := range rec.All() {
		t, err := thingOf(f.Key)
		if err != nil {
			return nil, err
		}
		v, is := t.(quietVIP)
		if !is || slices.ContainsFunc(steps, func(s Step) bool { return s.Key == f.Key }) {
			continue
		}
		now, err := sys.get(f.Key)
		if err != nil {
			return nil, err
		}
		changes = append(changes, Change{f.Key, now, now, fmt.Sprintf("not named now; undo --vip %v takes it away", v.Addr())})
	}
	return changes, nil
}

// Preview returns what Apply would do, and changes nothing.
func Preview(all ...Settings) ([]Change, error) {
	steps, err := Plan(all...)
	if err != nil {
		return nil, err
	}
	return toApply(kernel{}, steps)
}

// toApply returns a change for each step, or an error when one of them is bound to be in vain.
func toApply(sys system, steps []Step) ([]Change, error) {
	states, err := look(sys, steps)
	if err != nil {
		return nil, err
	}
	overriding, err := overrides(sys, states)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, o := range overriding {
		errs = append(errs, fmt.Errorf("%s = %s: overrides the value for all and exposes the VIP: set it to %s", o.Key, o.Now, o.Want[0]))
	}
	var changes []Change
	for _, s := range states {
		if s.odd != nil {
			errs = append(errs, s.odd)
			continue
		}
		c := Change{Key: s.Key, Before: s.Now, After: s.goal()}
		changes = append(changes, c)
		errs = append(errs, c.possible(sys), onLoOnly(sys, s.Key))
	}
	return changes, errors.Join(errs...)
}

// onLoOnly returns an error when the address that key is about stands on an interface that would
// answer ARP for it, whatever the sysctls.
func onLoOnly(sys system, key string) error {
	vip, ok := vipOf(key)
	if !ok {
		return nil
	}
	holders, err := sys.holders(vip)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(holders, quiet)
	if len(others) == 0 || !strings.Contains(key, " on ") { // once is enough
		return nil
	}
	return fmt.Errorf("%s is an address of %s: a real server has it on lo only; is this the director?", vip, strings.Join(others, ", "))
}

// possible is nil when perform may be tried.
func (c Change) possible(sys system) error {
	if c.Before == c.After {
		return nil
	}
	return sys.settable(c.Key)
}

func (c Change) perform(sys system) error {
	if c.Before == c.After {
		return nil
	}
	return sys.set(c.Key, c.After)
}
