package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"poise/checker"
	"poise/config"
	"poise/internal/finding"
	"poise/ipvsctl"
)

// askedAtOnce bounds the questions under way.
const askedAtOnce = 64

// servers asks every server as poise run does: at its own address. Of a sorry server, which has no checks, it wants a connection.
func servers(ctx context.Context, cfg *config.Config) ([]finding.Finding, error) {
	type question struct {
		what   string
		probe  checker.Probe
		needed bool
	}
	var questions []question
	for _, s := range cfg.Services {
		for i, server := range s.All() {
			check, checked := checkOf(s, i)
			at := netip.AddrPortFrom(server.Address, cmp.Or(check.Port, portOf(s, server)))
			if !checked && (s.Protocol != ipvsctl.TCP || at.Port() == 0) {
				continue // nobody knows what to ask
			}
			probe, err := checker.NewProbe(at, check)
			if err != nil {
				return nil, fmt.Errorf("service %q: server %v: %w", s.Name, at, err)
			}
			questions = append(questions, question{fmt.Sprintf("server %v of %q answers", at, s.Name), probe, needsDirect(checked, s.Destination(server, 1).Method)})
		}
	}
	findings := make([]finding.Finding, len(questions))
	each(len(questions), func(i int) {
		f := finding.Finding{How: finding.Probed, What: questions[i].what, Seen: "it does"}
		if err := questions[i].probe(ctx); err != nil {
			f.Severity, f.Seen, f.Want, f.Page = finding.Fault, err.Error(), "an answer as check wants it", "docs/config.md#servicecheck"
			f.Remedy = "on the server, ss -ltn: whether something listens there; and its packet filter, nft list ruleset"
			if !questions[i].needed {
				f.Severity, f.Want = finding.Warning, "an answer; or it serves the virtual address alone, and poise doctor --servers has one"
			}
		}
		findings[i] = f
	})
	if err := ctx.Err(); err != nil {
		return nil, err // what was not asked to the end says nothing
	}
	return findings, nil
}

// patience is how long an answer may take here, whatever the check allows.
const patience = 5 * time.Second

// connection is the question to servers without checks.
var connection = checker.Config{Type: checker.KindTCP, Timeout: time.Second}

// checkOf is the check of one of a service's servers, by its place in All. Without one, as the sorry one always is, it is a
// connection.
func checkOf(s config.Service, i int) (check checker.Config, checked bool) {
	if s.Check == nil || i >= len(s.Servers) {
		return connection, false
	}
	check = *s.Check
	check.Timeout = min(check.Timeout, patience)
	return check, true
}

// needsDirect tells whether a server has to answer at its own address: its check asks there, and with nat every client's request goes
// there. Without either it may serve the virtual address alone.
func needsDirect(checked bool, method ipvsctl.Method) bool { return checked || !method.KeepsPort() }

// portOf is where a server serves, the first of several; 0 where that is not known.
func portOf(s config.Service, server config.Server) uint16 {
	if server.Port == 0 && len(s.Listen) > 0 {
		return s.Listen[0].First
	}
	return server.Port
}

// each calls do for 0 to n-1, several at once.
func each(n int, do func(int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, askedAtOnce)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			do(i)
			<-slots
		})
	}
	wg.Wait()
}
