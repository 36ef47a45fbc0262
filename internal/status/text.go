package status

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"poise/checker"
	"poise/ipvsctl"
)

// Text writes the snapshot for a person: first what is wrong, then one line a router and one block a service.
func (s *Snapshot) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: poise %s, %s, epoch %d, loaded %s\n",
		s.Node, s.Version, s.Config.File, s.Config.Epoch, when(s.Config.Loaded))
	for _, problem := range s.problems() {
		fmt.Fprintf(&b, "! %s\n", problem)
	}
	for i := range s.Routers {
		if i == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintln(&b, s.Routers[i].Line())
	}
	for _, service := range s.Services {
		b.WriteByte('\n')
		service.text(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// problems are what an operator should look at, worst first.
func (s *Snapshot) problems() []string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if s.Elector.Problem != "" {
		add("the elector %s", s.Elector.Problem)
	}
	if s.Elector.Stale && !s.Elector.none() {
		if !s.Elector.Heard.IsZero() {
			add("what follows about routers was true at %s", when(s.Elector.Heard))
		}
	}
	for i := range s.Routers {
		s.Routers[i].problems(add)
	}
	if s.Balancer.Problem != "" {
		add("the balancer %s; the kernel goes on with its last table", s.Balancer.Problem)
	}
	if s.Balancer.Stale && !s.Balancer.none() {
		add("what follows about services was true at %s", when(s.Time))
	}
	if s.Config.Rejected != "" {
		for line := range strings.Lines(s.Config.Rejected) {
			add("last reload rejected: %s", strings.TrimSpace(line))
		}
	}
	if s.OwnFault != "" {
		add("checks fail on this host, verdicts stand still: %s", s.OwnFault)
	}
	for _, service := range s.Services {
		if !service.Up {
			add("service %s is down: %s", service.Name, service.Why)
		}
		for _, vip := range service.NoVIP {
			add("service %s: %v is not an address of this host: its requests do not arrive here", service.Name, vip)
		}
		if service.Hold != nil {
			add("%s", service.HoldLine())
		}
		if service.Problem != "" {
			add("service %s: the kernel refuses: %s", service.Name, service.Problem)
		}
		for _, foreign := range service.ForeignServers {
			add("service %s: server %v was added by somebody else: left alone, not checked (poise ipvs -d %s -r %v)",
				service.Name, foreign, ipvsadmOption(service.Key), foreign)
		}
		for _, server := range service.Servers {
			if server.State == checker.Down || server.Intent != nil {
				add("%s %v: %s", service.Name, server.Addr, server.Reason)
			}
		}
	}
	for _, dormant := range s.Dormant {
		add("%s %v: not in the configuration; what was asked for it waits", dormant.Service, dormant.Server)
	}
	if s.NFTProblem != "" {
		add("nftables is not as wanted: %s", s.NFTProblem)
	}
	if s.SyncProblem != "" {
		add("connections are not synchronised: %s", s.SyncProblem)
	}
	for _, sysctl := range s.Sysctls {
		if sysctl.Problem != "" {
			add("%s must be %s: %s", sysctl.Name, sysctl.Want, sysctl.Problem)
		}
	}
	for _, foreign := range s.ForeignServices {
		add("service %v was added by somebody else: left alone (poise ipvs -D %s)", foreign, ipvsadmOption(foreign))
	}
	if s.Elector.NoRealtime != "" {
		add("the elector has no precedence over other processes: %s", s.Elector.NoRealtime)
	}
	if s.Totals.Lost > 0 {
		add("%d events were lost on their way to the list: see the log", s.Totals.Lost)
	}
	return all
}

func when(t time.Time) string { return t.Local().Format(time.DateTime) }

// HoldLine says whether the service is held, by whom, and what waits.
func (s *Service) HoldLine() string {
	if s.Hold == nil {
		return fmt.Sprintf("service %s is not held", s.Name)
	}
	line := fmt.Sprintf("service %s is held by %s since %s", s.Name, s.Hold.By, when(s.Hold.At))
	if s.Hold.Reason != "" {
		line += ": " + s.Hold.Reason
	}
	const most = 4
	switch n := len(s.Withheld); {
	case n == 0:
		return line + "; it is as it would be without"
	case n > most:
		return fmt.Sprintf("%s; waiting: %s and %d more", line, strings.Join(s.Withheld[:most], ", "), n-most)
	}
	return line + "; waiting: " + strings.Join(s.Withheld, ", ")
}

// ipvsadmOption is how ipvsadm is told a service.
func ipvsadmOption(key ipvsctl.ServiceKey) string {
	switch {
	case key.Mark != 0 && key.IsIPv6():
		return fmt.Sprintf("-f %d -6", key.Mark)
	case key.Mark != 0:
		return fmt.Sprintf("-f %d", key.Mark)
	case key.Protocol == ipvsctl.UDP:
		return "-u " + key.Addr.String()
	case key.Protocol == ipvsctl.SCTP:
		return "--sctp-service " + key.Addr.String()
	}
	return "-t " + key.Addr.String()
}

func (s *Service) text(b *strings.Builder) {
	state := "up"
	if !s.Up {
		state = "DOWN"
	}
	key := s.Key.String()
	if len(s.Listen) > 0 {
		key = strings.Join(s.Listen, " ") + " (" + key + ")"
	}
	fmt.Fprintf(b, "%s %s %s %s: %s (%s)\n", s.Name, key, s.Forward, s.Scheduler, state, s.Why)
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  server\tstate\tsince\tweight\tactive\tinactive\tconnections\twhy")
	for _, server := range s.Servers {
		weight := fmt.Sprint(server.Weight)
		if server.Absent {
			weight = "-"
		}
		verdict := server.State.String()
		if !s.Checked {
			verdict = "unchecked"
		}
		since := "-"
		if !server.Since.IsZero() {
			since = when(server.Since)
		}
		fmt.Fprintf(table, "  %v\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", server.Addr, verdict, since, weight,
			server.Active, server.Inactive, server.Counters.Connections, server.Reason)
	}
	table.Flush()
}
