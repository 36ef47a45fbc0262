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
			if service.Key() == before.Services[was].Key() && in.of(renamed) == nil {
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

func loadIntents(path string) (intents, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var in intents
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("%s: %w: remove the file to forget what was drained", path, err)
	}
	return in, nil
}

func (in intents) save(path string) error {
	data, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	return host.ReplaceFile(path, data)
}
