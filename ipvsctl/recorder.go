package ipvsctl

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Recorder is an IPVS table in memory that takes and refuses changes as the kernel does, and writes down
// those it takes. It stands in for a Client where there is no IPVS, or none is to be touched. Like a Client
// it is for one goroutine at a time.
type Recorder struct {
	table   Table
	daemons []Daemon
	out     *bufio.Writer
}

// NewRecorder returns a Recorder with an empty table, which writes one line a change to out: when, and what.
func NewRecorder(out io.Writer) *Recorder {
	return &Recorder{table: make(Table), out: bufio.NewWriter(out)}
}

// Close does nothing.
func (r *Recorder) Close() {}

// Table returns a copy of the table.
func (r *Recorder) Table(context.Context) (Table, error) { return r.table.Clone(), nil }

// Read returns a copy of the table. Nothing passes through it, so nothing is counted.
func (r *Recorder) Read(context.Context) (Table, map[ServiceKey]ServiceStats, error) {
	return r.table.Clone(), nil, nil
}

// Apply is that of Client.
func (r *Recorder) Apply(_ context.Context, ops []Op) []error {
	errs := make([]error, len(ops))
	for i, op := range ops {
		if err := r.table.Apply(op); err != nil {
			errs[i] = fmt.Errorf("%v: %w", op, err)
		} else {
			r.record(op)
		}
	}
	r.flush()
	return errs
}

// Daemons returns the synchronisation daemons.
func (r *Recorder) Daemons(context.Context) ([]Daemon, error) { return slices.Clone(r.daemons), nil }

// StartDaemon is that of Client.
func (r *Recorder) StartDaemon(_ context.Context, d Daemon) error {
	if slices.ContainsFunc(r.daemons, func(o Daemon) bool { return o.Role == d.Role }) {
		return fmt.Errorf("start %v: %w", d, unix.EEXIST)
	}
	r.daemons = append(r.daemons, d.Normal())
	r.record("start " + d.String())
	r.flush()
	return nil
}

// StopDaemon is that of Client.
func (r *Recorder) StopDaemon(_ context.Context, role Role) error {
	rest := slices.DeleteFunc(slices.Clone(r.daemons), func(d Daemon) bool { return d.Role == role })
	if len(rest) == len(r.daemons) {
		return fmt.Errorf("stop sync %v: %w", role, unix.ESRCH)
	}
	r.daemons = rest
	r.record("stop sync " + role.String())
	r.flush()
	return nil
}

func (r *Recorder) record(what any) {
	fmt.Fprintf(r.out, "%s %v\n", time.Now().Format("2006-01-02T15:04:05.000000Z07:00"), what)
}

// flush hands over what was written down. A disk that is full is not worth an error: the table goes on.
func (r *Recorder) flush() { _ = r.out.Flush() }

// Clone returns a copy that shares nothing with t.
func (t Table) Clone() Table {
	c := make(Table, len(t))
	for key, s := range t {
		s.Destinations = maps.Clone(s.Destinations)
		c[key] = s
	}
	return c
}

// Apply does to t what the kernel does with one change, or refuses with the same errno (do_ip_vs_set_ctl and the
// handlers behind it in net/netfilter/ipvs/ip_vs_ctl.c).
func (t Table) Apply(op Op) error {
	s, exists := t[op.Service]
	_, hasServer := s.Destinations[op.Server]
	switch {
	case op.Kind == AddService && exists, op.Kind == AddDestination && hasServer:
		return unix.EEXIST
	case op.Kind != AddService && !exists:
		return unix.ESRCH
	case (op.Kind == EditDestination || op.Kind == RemoveDestination) && !hasServer:
		return unix.ENOENT
	}
	switch op.Kind {
	case AddService:
		t[op.Service] = Service{op.Settings, make(map[netip.AddrPort]Destination)}
	case EditService:
		s.Settings = op.Settings
		t[op.Service] = s
	case RemoveService:
		delete(t, op.Service)
	case AddDestination, EditDestination:
		switch d := op.Destination; {
		case d.Lower > d.Upper, d.Weight < 0:
			return unix.ERANGE
		case op.Server.Addr().Is6() != op.Service.IsIPv6() && d.Method != TUN,
			d.Tunnel.Type == GUE && d.Tunnel.Port == 0:
			return unix.EINVAL
		}
		s.Destinations[op.Server] = op.Destination
	case RemoveDestination:
		delete(s.Destinations, op.Server)
	}
	return nil
}
