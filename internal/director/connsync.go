package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"poise/config"
	"poise/internal/status"
	"poise/ipvsctl"
)

// syncKernel is what connSync needs of ipvsctl.Client.
type syncKernel interface {
	Daemons(context.Context) ([]ipvsctl.Daemon, error)
	StartDaemon(context.Context, ipvsctl.Daemon) error
	StopDaemon(context.Context, ipvsctl.Role) error
}

// connSync keeps the kernel's connection synchronisation as it is wanted. Daemons that somebody else started are left alone
// as long as the configuration says nothing of synchronisation.
type connSync struct {
	kernel  syncKernel
	owned   *ownership
	emit    func(status.Event)
	totals  *status.Totals
	settled bool // what is wanted was there once: a difference since then is somebody else's
	trouble lasting
}

// daemonsFor are the daemons that cfg asks for while the routers named are master here.
func daemonsFor(cfg *config.Config, masters []string) []ipvsctl.Daemon {
	sync := cfg.IPVS.Sync
	if sync == nil {
		return nil
	}
	daemon := func(role ipvsctl.Role) ipvsctl.Daemon {
		return ipvsctl.Daemon{
			Role: role, Interface: sync.Interface, ID: *sync.ID, MaxLen: sync.MaxLength,
			Group: sync.Group, Port: sync.Port, TTL: sync.TTL,
		}.Normal()
	}
	switch {
	case sync.Role == config.SyncBoth:
		return []ipvsctl.Daemon{daemon(ipvsctl.SyncMaster), daemon(ipvsctl.SyncBackup)}
	case sync.Role == config.SyncMaster, sync.Router != "" && slices.Contains(masters, sync.Router):
		return []ipvsctl.Daemon{daemon(ipvsctl.SyncMaster)}
	}
	return []ipvsctl.Daemon{daemon(ipvsctl.SyncBackup)}
}

// stopOthers stops what runs and is not wanted. What goes wrong meets keep again.
func (s *connSync) stopOthers(ctx context.Context, want []ipvsctl.Daemon) {
	_ = s.bring(ctx, want, false)
}

// keep makes the daemons what is wanted, and says what is wrong.
func (s *connSync) keep(ctx context.Context, want []ipvsctl.Daemon) error {
	err := s.bring(ctx, want, true)
	s.trouble.set(err, s.emit, "connections are not synchronised", "connections are synchronised")
	s.settled = err == nil && len(want) > 0
	return err
}

// change is told before want is another, so that what differs is not taken for somebody else's doing.
func (s *connSync) change() { s.settled = false }

func (s *connSync) bring(ctx context.Context, want []ipvsctl.Daemon, start bool) error {
	if len(want) == 0 && !s.owned.sync {
		return nil
	}
	have, err := s.kernel.Daemons(ctx)
	if err != nil {
		return err
	}
	if err := s.owned.claim(&s.owned.sync, len(want) > 0 || len(have) > 0); err != nil {
		return err
	}
	var errs []error
	for _, d := range have {
		if runsAmong(want, d) {
			continue
		}
		if err := s.kernel.StopDaemon(ctx, d.Role); err != nil {
			errs = append(errs, err)
			continue
		}
		s.say("stopped", d)
	}
	for _, d := range want {
		if !start || slices.ContainsFunc(have, func(h ipvsctl.Daemon) bool { return runsAmong([]ipvsctl.Daemon{d}, h) }) {
			continue
		}
		if err := s.kernel.StartDaemon(ctx, d); err != nil {
			errs = append(errs, err)
			continue
		}
		s.say("started", d)
	}
	if len(errs) == 0 && len(want) == 0 {
		errs = append(errs, s.owned.claim(&s.owned.sync, false))
	}
	return errors.Join(errs...)
}

// runsAmong reports whether d, which runs, is one of those wanted. The length of messages may be up to the kernel.
func runsAmong(want []ipvsctl.Daemon, d ipvsctl.Daemon) bool {
	return slices.ContainsFunc(want, func(w ipvsctl.Daemon) bool {
		if w.MaxLen == 0 {
			w.MaxLen = d.MaxLen
		}
		return w == d
	})
}

func (s *connSync) say(what string, d ipvsctl.Daemon) {
	if s.settled {
		s.totals.Drift++
		s.emit(status.Event{Level: slog.LevelWarn, What: "drift", Cause: fmt.Sprintf("changed by somebody else, put back: %v %s", d, what)})
		return
	}
	s.emit(status.Event{Level: slog.LevelInfo, What: "connection synchronisation " + what, Cause: d.String()})
}
