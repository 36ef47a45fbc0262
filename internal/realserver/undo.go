package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"poise/internal/host"
)

// Undo restores what was there before Apply, newest first, and returns what became of each. Where
// VIPs are named it restores only those, and the rest with the last one; to name one that is not
// applied is an error, unless none is. A value that somebody else has set since stays, and its
// Change says so.
func Undo(dir string, vips ...netip.Addr) ([]Change, error) {
	return withRecord(dir, func(rec *host.Record) ([]Change, error) {
		return undo(kernel{}, rec, vips)
	})
}

func undo(sys system, rec *host.Record, vips []netip.Addr) ([]Change, error) {
	if err := allApplied(vips, recordedVIPs(rec)); err != nil {
		return nil, err
	}
	changes, err := toUndo(sys, rec.All(), vips)
	if err != nil {
		return nil, err
	}
	for i, c := range changes {
		err := c.perform(sys)
		if err == nil {
			err = rec.Forget(c.Key)
		}
		if err != nil {
			return changes[:i], err
		}
	}
	return changes, nil
}

// allApplied allows any VIP when none is applied: undo may be asked for twice, and has to end what
// an apply left that was killed before the first VIP.
func allApplied(vips, applied []netip.Addr) error {
	var errs []error
	for _, vip := range vips {
		if len(applied) > 0 && !slices.Contains(applied, vip) {
			errs = append(errs, fmt.Errorf("VIP %s: not among those applied: %v", vip, applied))
		}
	}
	return errors.Join(errs...)
}

func toUndo(sys system, former []host.Former, vips []netip.Addr) ([]Change, error) {
	var changes []Change
	for _, f := range slices.Backward(chosen(former, vips)) {
		step, err := stepOf(f.Key)
		if err != nil {
			return nil, err
		}
		now, err := sys.get(f.Key)
		if err != nil {
			return nil, err
		}
		c := Change{Key: f.Key, Before: now, After: f.Value}
		ours := Step{Want: step.Want[:1]}.fits(now) || now == altered || f.Value == absent // what was not there may go, whatever became of it
		if now != f.Value && !ours {
			c.After, c.Left = now, "set by somebody else since"
		}
		if err := c.possible(sys); err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// chosen returns the entries of these VIPs, all entries when no VIP is named or none is left.
func chosen(former []host.Former, vips []netip.Addr) []host.Former {
	var named []host.Former
	others := false
	for _, f := range former {
		vip, ok := vipOf(f.Key)
		if ok && slices.Contains(vips, vip) {
			named = append(named, f)
		} else if ok {
			others = true
		}
	}
	if len(vips) == 0 || !others {
		return former
	}
	return named
}
