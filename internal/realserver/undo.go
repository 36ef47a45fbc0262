package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"poise/internal/host"
)

// Undo restores what was there before Apply, newest first, and returns what became of each. Where
// VIPs are named it restores only those, and with the last one what they share; to name one that is not
// applied is an error, unless nothing is. A value that somebody else has set since stays, and its
// Change says so. A way for replies that cannot be restored stays recorded and is an error, and the rest goes on;
// anything else that cannot be restored ends it, as what comes after it would expose the VIPs.
func Undo(dir string, vips ...netip.Addr) ([]Change, error) {
	return withRecord(dir, func(rec *host.Record) ([]Change, error) {
		return undo(kernel{}, rec, vips)
	})
}

func undo(sys system, rec *host.Record, vips []netip.Addr) ([]Change, error) {
	if err := allApplied(vips, rec); err != nil {
		return nil, err
	}
	former := chosen(rec.All(), vips)
	for _, f := range former { // what is bound to be in vain changes nothing
		c, err := toUndo(sys, f)
		if err == nil {
			err = c.possible(sys)
		}
		if err != nil && !isWayBack(f.Key) {
			return nil, err
		}
	}
	var done []Change
	var errs []error
	for _, f := range slices.Backward(former) {
		c, err := toUndo(sys, f)
		if err == nil {
			err = c.perform(sys)
		}
		if err == nil {
			err = rec.Forget(f.Key)
		}
		switch {
		case err == nil:
			done = append(done, c)
		case isWayBack(f.Key):
			errs = append(errs, fmt.Errorf("%s, before %s: left: %w", f.Key, f.Value, err))
		default:
			return done, errors.Join(append(errs, err)...)
		}
	}
	return done, errors.Join(errs...)
}

// allApplied allows any VIP when none is applied: undo may be asked for twice, and has to end what
// an apply left that was killed before the first VIP.
func allApplied(vips []netip.Addr, rec *host.Record) error {
	applied := recordedVIPs(rec)
	if len(applied) == 0 && !slices.ContainsFunc(rec.All(), func(f host.Former) bool { return isWayBack(f.Key) }) {
		return nil
	}
	var errs []error
	for _, vip := range vips {
		if !slices.Contains(applied, vip) {
			errs = append(errs, fmt.Errorf("VIP %s: not among those applied: %v", vip, applied))
		}
	}
	return errors.Join(errs...)
}

// toUndo returns the change that restores a former value.
func toUndo(sys system, f host.Former) (Change, error) {
	t, err := thingOf(f.Key)
	if err != nil {
		return Change{}, err
	}
	now, err := sys.get(f.Key)
	if err != nil {
		return Change{}, err
	}
	c := Change{Key: f.Key, Before: now}
	var others bool
	if d, ok := t.(defaultRoute); ok && d.table != replyTable {
		c.After, others = d.restored(now, f.Value)
	} else {
		c.After = f.Value
		ours := Step{Want: t.want()[:1]}.fits(now) || now == altered || f.Value == absent // what was not there may go, whatever became of it
		if others = now != f.Value && !ours; others {
			c.After = now
		}
	}
	if others {
		c.Left = "set by somebody else since; before apply it was " + f.Value
	}
	return c, nil
}

// chosen returns the entries of these VIPs, with the last VIP also what they share, and all entries when no VIP is named.
func chosen(former []host.Former, vips []netip.Addr) []host.Former {
	if len(vips) == 0 {
		return former
	}
	var named, shared []host.Former
	others := false
	for _, f := range former {
		vip, ok := vipOf(f.Key)
		switch {
		case ok && !slices.Contains(vips, vip):
			others = true
		case ok:
			named, shared = append(named, f), append(shared, f)
		case !isWayBack(f.Key):
			shared = append(shared, f)
		}
	}
	if others {
		return named
	}
	return shared
}
