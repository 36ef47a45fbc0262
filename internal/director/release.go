package director

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"poise/internal/host"
	"poise/vrrp"
)

// leftFile lists the routers whose addresses may be on this host, should everything of this daemon die at once.
func leftFile(runtimeDir string) string { return filepath.Join(runtimeDir, "routers.json") }

// saveLeft records them, before the elector is told of them.
func saveLeft(runtimeDir string, routers []vrrp.Config) error {
	if len(routers) == 0 {
		err := os.Remove(leftFile(runtimeDir))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	data, err := json.MarshalIndent(routers, "", "  ")
	if err != nil {
		return err
	}
	return host.ReplaceFile(leftFile(runtimeDir), data)
}

func loadLeft(runtimeDir string) ([]vrrp.Config, error) {
	data, err := os.ReadFile(leftFile(runtimeDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var routers []vrrp.Config
	if err := json.Unmarshal(data, &routers); err != nil {
		return nil, fmt.Errorf("%s: %w", leftFile(runtimeDir), err)
	}
	return routers, nil
}

// Release hands over the virtual addresses that a daemon left which died with all its processes: other nodes are told, and
// within a second nothing of them is here. While a daemon runs here it does nothing.
func Release(runtimeDir string, log *slog.Logger) error {
	routers, err := loadLeft(runtimeDir)
	if err != nil || len(routers) == 0 {
		return err
	}
	lock, err := takeLock()
	if err != nil {
		log.Info("nothing released", "cause", err)
		return nil
	}
	defer lock.Close()
	return release(routers, log)
}

// release does so for routers that no other process cares for.
func release(routers []vrrp.Config, log *slog.Logger) error {
	e, err := newElector()
	if err != nil {
		return err
	}
	e.out = newOutbox(nil, log)
	go e.out.run()
	for _, c := range routers {
		e.routers = append(e.routers, e.newRouter(c)) // all of them: their addresses are no sources
	}
	for _, r := range e.routers {
		r.leaving = true
		for _, name := range r.Config().Interfaces() {
			if r.seen[name], _, err = host.Look(name); err != nil {
				return err
			}
		}
		r.bind(sourceOf(r.Config(), r.main(), e.virtual))
	}
	e.ending = true
	e.stopping = func() { e.ended = true }
	for _, r := range slices.Clone(e.routers) {
		if slices.ContainsFunc(r.Config().All(), r.has) {
			r.Step(vrrp.Link{Up: r.main().Up})
			r.Step(vrrp.Source{Addr: r.source})
			r.tell(slog.LevelWarn, "the addresses of a dead daemon are handed over", fmt.Sprint(r.Config().All()))
			r.Step(vrrp.Release{})
		} else {
			r.stopped = true
		}
	}
	e.routerStopped()
	e.run()
	e.out.flush()
	return nil
}
