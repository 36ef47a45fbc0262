package director

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"poise/checker"
	"poise/internal/status"
	"poise/ipvsctl"
)

// snapshot is what is true now, the kernel's numbers read afresh.
func (b *balancer) snapshot(ctx context.Context) (*status.Snapshot, error) {
	if b.cfg == nil {
		return nil, errors.New("no configuration yet")
	}
	table, stats, err := b.client.Read(ctx)
	if err != nil {
		return nil, err
	}
	snap := &status.Snapshot{
		Time:    time.Now(),
		Sysctls: slices.Clone(b.fwd.plan),
		Totals:  *b.totals,
	}
	snap.Totals.Lost = b.out.missed()
	snap.NFTProblem, snap.SyncProblem = b.marks.trouble.now, b.sync.trouble.now
	for _, d := range daemonsFor(b.cfg, b.masters) {
		snap.Sync = append(snap.Sync, d.String())
	}
	if time.Since(b.ownFault.last) < ownFaultPause {
		snap.OwnFault = b.ownFault.cause
	}
	foreign := b.keep.known(nil).outside(table)
	for _, service := range b.cfg.Services {
		key := service.Key()
		described := b.describe(b.services[service.Name], table, stats[key])
		described.ForeignServers = slices.SortedFunc(maps.Keys(foreign[key]), netip.AddrPort.Compare)
		snap.Services = append(snap.Services, described)
		delete(foreign, key)
	}
	snap.ForeignServices = slices.SortedFunc(maps.Keys(foreign), ipvsctl.ServiceKey.Compare)
	return snap, nil
}

// describe is one service as the kernel has it, beside what is wanted of it and why.
func (b *balancer) describe(s *serviceState, table ipvsctl.Table, counted ipvsctl.ServiceStats) status.Service {
	service, id := s.config, s.config.Key()
	have := table[id]
	out := status.Service{
		Name:        service.Name,
		Key:         id,
		Scheduler:   string(service.Scheduler),
		Forward:     string(service.Forward),
		Hold:        b.holds.of(service.Name),
		Up:          s.decision.up,
		Why:         s.decision.why,
		Quorum:      service.Quorum,
		Weight:      s.decision.weight,
		Sorry:       service.SorryServer,
		SorryActive: s.decision.sorry,
		Problem:     b.keep.problem(id),
		Counters:    counted.Counters,
		Checked:     service.Check != nil,
		Checks:      s.checks,
	}
	for _, vip := range service.VIPs() {
		if !b.vips[vip] && !b.routed(vip) {
			out.NoVIP = append(out.NoVIP, vip)
		}
	}
	if service.Marked() {
		for _, l := range service.Listen {
			out.Listen = append(out.Listen, l.String())
		}
	}
	if out.Hold != nil {
		for _, op := range ipvsctl.Diff(within(id, b.keep.known(b.want).within(table)), within(id, b.want)) {
			out.Withheld = append(out.Withheld, op.Change())
		}
	}
	for _, server := range service.Servers {
		key := checker.Key{Service: service.Name, Server: server.Addr()}
		state := b.servers[key]
		destination, present := have.Destinations[key.Server]
		numbers := counted.Destinations[key.Server]
		out.Servers = append(out.Servers, status.Server{
			Addr:       key.Server,
			State:      state.state,
			Since:      state.since,
			Reason:     s.decision.reasons[key.Server],
			Configured: server.Weight,
			Weight:     destination.Weight,
			Absent:     !present,
			Intent:     b.intents.of(key),
			OK:         state.ok,
			Failed:     state.failed,
			Self:       state.self,
			Active:     numbers.Active,
			Inactive:   numbers.Inactive,
			Counters:   numbers.Counters,
		})
	}
	return out
}

// within is the part of table that is about one service.
func within(key ipvsctl.ServiceKey, table ipvsctl.Table) ipvsctl.Table {
	if service, exists := table[key]; exists {
		return ipvsctl.Table{key: service}
	}
	return nil
}
