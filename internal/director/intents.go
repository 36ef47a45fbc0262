package director

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"poise/checker"
	"poise/config"
	"poise/internal/host"
	"poise/internal/status"
	"poise/vrrp"
)

// intents are what operators want of servers, whatever their checks say. The parent owns them: they
// survive reloads, the balancer's death and restarts of the daemon, until "enable" or a reboot.
// A value of this type is never changed; with and without return new ones.
type intents []serverIntent

type serverIntent struct {
	checker.Key
	status.Intent
}

func (in intents) of(key checker.Key) *status.Intent {
	for i := range in {
		if in[i].Key == key {
			return &in[i].Intent
		}
	}
	return nil
}

func (in intents) without(key checker.Key) intents {
	return slices.DeleteFunc(slices.Clone(in), func(s serverIntent) bool { return s.Key == key })
}

func (in intents) with(key checker.Key, intent status.Intent) intents {
	return append(in.without(key), serverIntent{key, intent})
}

// follow returns the intents, in the same order, after a change of the configuration. A service that was
// only renamed takes its intents along: what was drained for a broken disk must not take traffic for a name.
func (in intents) follow(before, after *config.Config) intents {
	next := slices.Clone(in)
	for i, s := range next {
		if hasServer(after, s.Key) {
			continue
		}
		was := slices.IndexFunc(before.Services, func(o config.Service) bool { return o.Name == s.Service })
		if was < 0 {
			continue
		}
		for _, service := range after.Services {
			renamed := checker.Key{Service: service.Name, Server: s.Server}
			if service.SameService(before.Services[was]) && in.of(renamed) == nil {
				next[i].Key = renamed
			}
		}
	}
	return next
}

// dormant are the intents about servers that cfg does not have. They are kept: a server that was taken out
// of the file while it is repaired comes back as it went.
func (in intents) dormant(cfg *config.Config) []status.Dormant {
	var all []status.Dormant
	for _, s := range in {
		if !hasServer(cfg, s.Key) {
			all = append(all, status.Dormant{Key: s.Key, Intent: s.Intent})
		}
	}
	return all
}

func hasServer(cfg *config.Config, key checker.Key) bool {
	return slices.ContainsFunc(cfg.Services, func(s config.Service) bool {
		return s.Name == key.Service && slices.ContainsFunc(s.Servers, func(r config.Server) bool {
			return r.Addr() == key.Server
		})
	})
}

// holds are the routers that operators want not to serve here, or the services that they want left alone, by name. Like
// intents they are the parent's, and survive the same.
type holds []namedHold

type namedHold struct {
	Name string `json:"name"`
	status.Hold
}

func (h holds) of(name string) *status.Hold {
	for i := range h {
		if h[i].Name == name {
			return &h[i].Hold
		}
	}
	return nil
}

func (h holds) without(name string) holds {
	return slices.DeleteFunc(slices.Clone(h), func(n namedHold) bool { return n.Name == name })
}

func (h holds) with(name string, hold status.Hold) holds {
	return append(h.without(name), namedHold{name, hold})
}

// follow returns the holds after a change of the configuration: what was only renamed stays held. become is the new
// name of what was called name, "" when it is gone or still has its name.
func (h holds) follow(become func(name string) string) holds {
	next := slices.Clone(h)
	for i, n := range next {
		if name := become(n.Name); name != "" && h.of(name) == nil {
			next[i].Name = name
		}
	}
	return next
}

// renamedRouter is the name in after of the router that before calls name, "" when it has none or the same.
func renamedRouter(before, after *config.Config, name string) string {
	was := slices.IndexFunc(before.Routers, func(c vrrp.Config) bool { return c.Name == name })
	if was < 0 || hasRouter(after, name) {
		return ""
	}
	is := slices.IndexFunc(after.Routers, before.Routers[was].SameRouter)
	if is < 0 {
		return ""
	}
	return after.Routers[is].Name
}

// renamedService is the same for services.
func renamedService(before, after *config.Config, name string) string {
	was := slices.IndexFunc(before.Services, func(s config.Service) bool { return s.Name == name })
	if was < 0 || hasService(after, name) {
		return ""
	}
	is := slices.IndexFunc(after.Services, before.Services[was].SameService)
	if is < 0 {
		return ""
	}
	return after.Services[is].Name
}

func hasRouter(cfg *config.Config, name string) bool {
	return slices.ContainsFunc(cfg.Routers, func(c vrrp.Config) bool { return c.Name == name })
}

func hasService(cfg *config.Config, name string) bool {
	return slices.ContainsFunc(cfg.Services, func(s config.Service) bool { return s.Name == name })
}

// wishes are all that operators want, as it is recorded.
type wishes struct {
	Servers  intents `json:"servers,omitempty"`
	Routers  holds   `json:"routers,omitempty"`
	Services holds   `json:"services,omitempty"`
}

// follow returns the wishes after a change of the configuration.
func (w wishes) follow(before, after *config.Config) wishes {
	services := w.Services.follow(func(name string) string { return renamedService(before, after, name) })
	return wishes{
		w.Servers.follow(before, after),
		w.Routers.follow(func(name string) string { return renamedRouter(before, after, name) }),
		// One that left has no entries any more that could be left alone.
		slices.DeleteFunc(services, func(n namedHold) bool { return !hasService(after, n.Name) }),
	}
}

// heldElsewhere is an error when after has a held service at another address: what is held could not stay as it is.
func (w wishes) heldElsewhere(before, after *config.Config) error {
	var errs []error
	for _, was := range before.Services {
		if w.Services.of(was.Name) == nil {
			continue
		}
		for _, is := range after.Services {
			if is.Name == was.Name && !is.SameService(was) {
				errs = append(errs, fmt.Errorf("service %q is held, and would get other packets: first \"poise release %[1]s\"", was.Name))
			}
		}
	}
	return errors.Join(errs...)
}

func loadWishes(path string) (w wishes, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return wishes{}, nil
	}
	if err != nil {
		return wishes{}, err
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return wishes{}, fmt.Errorf("%s: %w: remove the file to forget what was drained and held", path, err)
	}
	return w, nil
}

func (w wishes) save(path string) error {
	data, err := json.MarshalIndent(w, "", "  ")
	if err != nil {
		return err
	}
	return host.ReplaceFile(path, data)
}
