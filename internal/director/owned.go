package director

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"

	"poise/internal/host"
	"poise/ipvsctl"
)

// ownership remembers which entries of the kernel's table are poise's. The kernel has no owner tag, so
// identities are written to a file before the entries are made: after any crash, whatever is in
// the table and in neither the file nor the configuration was made by somebody else.
type ownership struct {
	path    string
	bootID  string
	entries entries
	saved   bool // the file holds entries
}

// entries are identities: services, and in each the servers.
type entries map[ipvsctl.ServiceKey]map[netip.AddrPort]bool

func entriesOf(tables ...ipvsctl.Table) entries {
	e := make(entries)
	for _, table := range tables {
		for key, service := range table {
			e.add(key)
			for server := range service.Destinations {
				e.add(key, server)
			}
		}
	}
	return e
}

func (e entries) add(key ipvsctl.ServiceKey, servers ...netip.AddrPort) {
	if e[key] == nil {
		e[key] = make(map[netip.AddrPort]bool)
	}
	for _, server := range servers {
		e[key][server] = true
	}
}

// with returns the union of e and o.
func (e entries) with(o entries) entries {
	all := make(entries)
	for _, from := range []entries{e, o} {
		for key, servers := range from {
			all.add(key, slices.Collect(maps.Keys(servers))...)
		}
	}
	return all
}

// within returns the part of table that has an identity in e.
func (e entries) within(table ipvsctl.Table) ipvsctl.Table {
	ours := make(ipvsctl.Table)
	for key, service := range table {
		servers, known := e[key]
		if !known {
			continue
		}
		mine := ipvsctl.Service{Settings: service.Settings, Destinations: make(map[netip.AddrPort]ipvsctl.Destination)}
		for addr, destination := range service.Destinations {
			if servers[addr] {
				mine.Destinations[addr] = destination
			}
		}
		ours[key] = mine
	}
	return ours
}

// outside returns the identities in table that are not in e. A service that is in e is among them when it
// has servers that are not.
func (e entries) outside(table ipvsctl.Table) entries {
	others := make(entries)
	for key, service := range table {
		servers, known := e[key]
		if !known {
			others.add(key)
		}
		for server := range service.Destinations {
			if !servers[server] {
				others.add(key, server)
			}
		}
	}
	return others
}

// ownedFile is what the file holds. The kernel's table does not outlive a boot, and neither does ownership.
type ownedFile struct {
	BootID   string         `json:"boot_id"`
	Services []ownedService `json:"services"`
}

type ownedService struct {
	ipvsctl.ServiceKey
	Servers []netip.AddrPort `json:"servers"`
}

func loadOwnership(path, bootID string) (*ownership, error) {
	o := &ownership{path: path, bootID: bootID, entries: make(entries)}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	var file ownedFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w: remove the file, and what it named becomes foreign", path, err)
	}
	if file.BootID != bootID {
		return o, nil
	}
	for _, s := range file.Services {
		o.entries[s.ServiceKey] = make(map[netip.AddrPort]bool)
		for _, server := range s.Servers {
			o.entries[s.ServiceKey][server] = true
		}
	}
	return o, nil
}

// claim makes e what poise owns: on disk before it returns, or where the disk refuses, in memory at
// least, and on disk with a later claim.
func (o *ownership) claim(e entries) error {
	if o.saved && maps.EqualFunc(o.entries, e, maps.Equal[map[netip.AddrPort]bool, map[netip.AddrPort]bool]) {
		return nil
	}
	o.entries, o.saved = e, false
	file := ownedFile{BootID: o.bootID}
	for _, key := range slices.SortedFunc(maps.Keys(e), ipvsctl.ServiceKey.Compare) {
		servers := slices.SortedFunc(maps.Keys(e[key]), netip.AddrPort.Compare)
		file.Services = append(file.Services, ownedService{key, servers})
	}
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	if err := host.ReplaceFile(o.path, data); err != nil {
		return fmt.Errorf("remember what is ours: %w", err)
	}
	o.saved = true
	return nil
}
