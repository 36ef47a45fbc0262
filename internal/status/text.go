package status

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Text writes the snapshot for a person: first what is wrong, then one block a service.
func (s *Snapshot) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: poise %s, %s, epoch %d, loaded %s\n",
		s.Node, s.Version, s.Config.File, s.Config.Epoch, s.Config.Loaded.Local().Format(time.DateTime))
	for _, problem := range s.problems() {
		fmt.Fprintf(&b, "! %s\n", problem)
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
	if s.Balancer.Stale {
		add("the balancer does not answer: what follows was true at %s; the kernel goes on with its last table", s.Time.Local().Format(time.DateTime))
	}
	if s.Config.Rejected != "" {
		for line := range strings.Lines(s.Config.Rejected) {
			add("last reload rejected: %s", strings.TrimSpace(line))
		}
	}
	for _, service := range s.Services {
		if !service.Up {
			add("service %s is down: weight %d, quorum %d", service.Name, service.Weight, service.Quorum)
		}
		if service.Problem != "" {
			add("service %s: the kernel refuses: %s", service.Name, service.Problem)
		}
		for _, foreign := range service.ForeignServers {
			add("service %s: server %v was added by somebody else: left alone, not checked", service.Name, foreign)
		}
	}
	for _, sysctl := range s.Sysctls {
		if sysctl.Problem != "" {
			add("%s must be %s: %s", sysctl.Name, sysctl.Want, sysctl.Problem)
		}
	}
	for _, foreign := range s.ForeignServices {
		add("service %v was added by somebody else: left alone", foreign)
	}
	return all
}

func (s *Service) text(b *strings.Builder) {
	state := "up"
	if !s.Up {
		state = "DOWN"
	}
	if s.SorryActive {
		state += fmt.Sprintf(", sorry server %v answers", s.Sorry)
	}
	fmt.Fprintf(b, "%s %v %v %s: %s (weight %d, quorum %d)\n", s.Name, s.Key, s.Forward, s.Scheduler, state, s.Weight, s.Quorum)
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  server\tstate\tweight\tactive\tinactive\tconnections\twhy")
	for _, server := range s.Servers {
		weight := fmt.Sprint(server.Weight)
		if server.Absent {
			weight = "-"
		}
		verdict := server.State.String()
		if !s.Checked {
			verdict = "unchecked"
		}
		fmt.Fprintf(table, "  %v\t%s\t%s\t%d\t%d\t%d\t%s\n", server.Addr, verdict, weight,
			server.Active, server.Inactive, server.Counters.Connections, server.why())
	}
	table.Flush()
}

// why is the reason and how long it has been so.
func (s *Server) why() string {
	if s.Since.IsZero() {
		return s.Reason
	}
	return fmt.Sprintf("%s, since %s", s.Reason, s.Since.Local().Format(time.DateTime))
}
