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
	"poise/internal/nft"
	"poise/ipvsctl"
)

// ownership remembers which entries of the kernel's table are poise's. The kernel has no owner tag, so
// identities are written to a file before the entries are made: after any crash, whatever is in
// the table and in neither the file nor the configuration was made by somebody else.
type ownership struct {
	path    string
	bootID  string
	entries entries
	sync    bool // the synchronisation daemons that run are
	nft     bool // there is our nftables table
	saved   bool // the file holds all this
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

// have reports whether all of table is in e.
func (e entries) have(table ipvsctl.Table) bool {
	for key, service := range table {
		servers, ok := e[key]
		if !ok {
			return false
		}
		for server := range service.Destinations {
			if !servers[server] {
				return false
			}
		}
	}
	return true
}

// are reports whether e is the identities in table.
func (e entries) are(table ipvsctl.Table) bool {
	if len(e) != len(table) {
		return false
	}
	for key, servers := range e {
		if len(servers) != len(table[key].Destinations) {
			return false
		}
	}
	return e.have(table)
}

// known are identities from several sources.
type known struct {
	wanted            ipvsctl.Table
	named, remembered entries
}

func (k known) service(key ipvsctl.ServiceKey) bool {
	_, wanted := k.wanted[key]
	_, named := k.named[key]
	_, remembered := k.remembered[key]
	return wanted || named || remembered
}

func (k known) server(key ipvsctl.ServiceKey, addr netip.AddrPort) bool {
	if k.named[key][addr] || k.remembered[key][addr] {
		return true
	}
	_, wanted := k.wanted[key].Destinations[addr]
	return wanted
}

// within returns the part of table that is known. It shares what it can with table.
func (k known) within(table ipvsctl.Table) ipvsctl.Table {
	ours := make(ipvsctl.Table, len(table))
	for key, service := range table {
		if !k.service(key) {
			continue
		}
		theirs := func(addr netip.AddrPort, _ ipvsctl.Destination) bool { return !k.server(key, addr) }
		for addr, destination := range service.Destinations {
			if theirs(addr, destination) {
				service.Destinations = maps.Clone(service.Destinations)
				maps.DeleteFunc(service.Destinations, theirs)
				break
			}
		}
		ours[key] = service
	}
	return ours
}

// outside returns the identities in table that are not known. A service that is known is among them when it
// has servers that are not. Those of probes, which come and go, are nobody's.
func (k known) outside(table ipvsctl.Table) entries {
	others := make(entries)
	for key, service := range table {
		if key.Mark&nft.ProbeMask == nft.ProbeBlock {
			continue
		}
		if !k.service(key) {
			others.add(key)
		}
		for server := range service.Destinations {
			if !k.server(key, server) {
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
	Sync     bool           `json:"sync,omitempty"`
	NFT      bool           `json:"nft,omitempty"`
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
	o.sync, o.nft = file.Sync, file.NFT
	for _, s := range file.Services {
		o.entries[s.ServiceKey] = make(map[netip.AddrPort]bool)
		for _, server := range s.Servers {
			o.entries[s.ServiceKey][server] = true
		}
	}
	return o, nil
}

// atLeast makes all that is in the tables poise's: on disk before it returns, or where the disk refuses, in memory at
// least, and on disk with a later call.
func (o *ownership) atLeast(want, have ipvsctl.Table) error {
	if o.saved && o.entries.have(want) && o.entries.have(have) {
		return nil
	}
	o.entries, o.saved = entriesOf(want, have), false
	return o.save()
}

// exactly makes what is in the table poise's, and nothing else.
func (o *ownership) exactly(table ipvsctl.Table) error {
	if o.saved && o.entries.are(table) {
		return nil
	}
	o.entries, o.saved = entriesOf(table), false
	return o.save()
}

// claim makes one of the other things, &o.sync or &o.nft, poise's or not.
func (o *ownership) claim(thing *bool, ours bool) error {
	if o.saved && *thing == ours {
		return nil
	}
	*thing, o.saved = ours, false
	return o.save()
}

func (o *ownership) save() error {
	file := ownedFile{BootID: o.bootID, Sync: o.sync, NFT: o.nft}
	for _, key := range slices.SortedFunc(maps.Keys(o.entries), ipvsctl.ServiceKey.Compare) {
		servers := slices.SortedFunc(maps.Keys(o.entries[key]), netip.AddrPort.Compare)
		file.Services = append(file.Services, ownedService{key, servers})
	}
	data, err := json.Marshal(file)
	if err != nil {
		return err
	}
	if err := host.ReplaceFile(o.path, data); err != nil {
		return fmt.Errorf("remember what is ours: %w", err)
	}
	o.saved = true
	return nil
}
