package ipvsctl

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// OpKind is what an Op does.
type OpKind uint8

// The six changes a table knows. Their order is the order within one service.
const (
	AddService OpKind = iota
	EditService
	AddDestination
	EditDestination
	RemoveDestination
	RemoveService
)

// Op is one change of the kernel's table, one message.
type Op struct {
	Kind        OpKind
	Service     ServiceKey
	Settings    Settings       // of AddService and EditService
	Server      netip.AddrPort // of the three about destinations
	Destination Destination    // of AddDestination and EditDestination

	// What Diff found there before, of the two edits. It is for people and not part of the message.
	WasSettings    Settings
	WasDestination Destination
}

// String is how an operator reads the change: "set 192.0.2.10:80 10.0.0.7:80 weight 0".
func (o Op) String() string {
	switch o.Kind {
	case AddService:
		return fmt.Sprintf("add %v scheduler %s", o.Service, o.Settings.Scheduler)
	case EditService:
		return fmt.Sprintf("set %v scheduler %s", o.Service, o.Settings.Scheduler)
	case AddDestination:
		return fmt.Sprintf("add %v %v %v", o.Service, o.Server, o.Destination)
	case EditDestination:
		return fmt.Sprintf("set %v %v %v", o.Service, o.Server, o.Destination)
	case RemoveDestination:
		return fmt.Sprintf("remove %v %v", o.Service, o.Server)
	case RemoveService:
		return fmt.Sprintf("remove %v", o.Service)
	}
	return fmt.Sprintf("unknown change %d", o.Kind)
}

// Change is what becomes of the service, in words: "10.0.0.7:80 weight 3 → 0", "scheduler wlc → rr", "removed".
func (o Op) Change() string {
	var parts []string
	edit := func(what string, was, is any) {
		if was != is {
			parts = append(parts, fmt.Sprintf("%s %v → %v", what, was, is))
		}
	}
	switch s, d := o.Settings, o.Destination; o.Kind {
	case AddService:
		return "added, scheduler " + s.Scheduler
	case EditService:
		edit("scheduler", o.WasSettings.Scheduler, s.Scheduler)
		edit("persistence", o.WasSettings.Persistence, s.Persistence)
		edit("client mask", o.WasSettings.ClientMask.Text(o.Service.IsIPv6()), s.ClientMask.Text(o.Service.IsIPv6()))
		edit("flags", o.WasSettings.Flags, s.Flags)
		edit("engine", o.WasSettings.Engine, s.Engine)
	case AddDestination:
		return fmt.Sprintf("%v added, weight %d", o.Server, d.Weight)
	case EditDestination:
		edit("weight", o.WasDestination.Weight, d.Weight)
		edit("method", o.WasDestination.Method, d.Method)
		edit("upper threshold", o.WasDestination.Upper, d.Upper)
		edit("lower threshold", o.WasDestination.Lower, d.Lower)
		edit("tunnel", o.WasDestination.Tunnel, d.Tunnel)
		return o.Server.String() + " " + strings.Join(parts, ", ")
	case RemoveDestination:
		return o.Server.String() + " removed"
	case RemoveService:
		return "removed"
	}
	return strings.Join(parts, ", ")
}

// Diff returns the changes that turn have into want, in an order that keeps traffic flowing: whatever
// adds capacity comes before whatever takes it away, so a service that has a usable server in both
// tables has one after every prefix of the changes. What is equal in both is not mentioned.
//
// Everything in have that want lacks is removed: give Diff only what is yours to remove.
func Diff(have, want Table) []Op {
	var changed, leaving []ServiceKey
	for key, w := range want {
		if h, exists := have[key]; !exists || h.Settings != w.Settings || !maps.Equal(h.Destinations, w.Destinations) {
			changed = append(changed, key)
		}
	}
	for key := range have {
		if _, wanted := want[key]; !wanted {
			leaving = append(leaving, key)
		}
	}
	slices.SortFunc(changed, ServiceKey.Compare)
	slices.SortFunc(leaving, ServiceKey.Compare)

	most := len(leaving)
	for _, key := range changed {
		most += 1 + max(len(have[key].Destinations), len(want[key].Destinations))
	}
	ops := make([]Op, 0, most)
	for _, key := range changed {
		w := want[key]
		h, exists := have[key]
		if !exists {
			ops = append(ops, Op{Kind: AddService, Service: key, Settings: w.Settings})
		} else if h.Settings != w.Settings {
			ops = append(ops, Op{Kind: EditService, Service: key, Settings: w.Settings, WasSettings: h.Settings})
		}
		ops = appendDestinations(ops, key, h.Destinations, w.Destinations)
	}
	for _, key := range leaving {
		ops = append(ops, Op{Kind: RemoveService, Service: key})
	}
	return ops
}

// appendDestinations appends the changes of one service's servers.
func appendDestinations(ops []Op, key ServiceKey, have, want map[netip.AddrPort]Destination) []Op {
	first := len(ops)
	for server, w := range want {
		h, exists := have[server]
		if !exists {
			ops = append(ops, Op{Kind: AddDestination, Service: key, Server: server, Destination: w})
		} else if h != w {
			ops = append(ops, Op{Kind: EditDestination, Service: key, Server: server, Destination: w, WasDestination: h})
		}
	}
	for server := range have {
		if _, wanted := want[server]; !wanted {
			ops = append(ops, Op{Kind: RemoveDestination, Service: key, Server: server})
		}
	}
	// Among the edits those that leave a server usable go first, for the same reason as add before remove.
	quiesces := func(o *Op) int {
		if o.Kind == EditDestination && o.Destination.Weight == 0 {
			return 1
		}
		return 0
	}
	slices.SortFunc(ops[first:], func(a, b Op) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), quiesces(&a)-quiesces(&b), a.Server.Compare(b.Server))
	})
	return ops
}

// doneIn reports whether table is as if o had been carried out.
func (o Op) doneIn(table Table) bool {
	s, exists := table[o.Service]
	d, hasServer := s.Destinations[o.Server]
	switch o.Kind {
	case AddService, EditService:
		return exists && s.Settings == o.Settings
	case RemoveService:
		return !exists
	case AddDestination, EditDestination:
		return hasServer && d == o.Destination
	}
	return !hasServer
}
