package director

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"poise/config"
	"poise/internal/nft"
	"poise/internal/status"
)

// markingRules are what nftables has to do for cfg: give marks to the packets of services that listen on several ports, and
// rewrite the source of what goes to servers behind full NAT.
func markingRules(cfg *config.Config) nft.Rules {
	rules := nft.Rules{Marks: make(map[nft.Flow]uint32), Masquerades: make(map[nft.Masquerade]struct{})}
	for _, s := range cfg.Services {
		var flows []nft.Flow
		for _, l := range s.Listen {
			flow := nft.Flow{Protocol: uint8(s.Protocol), Addr: l.Addr, First: l.First, Last: l.Last}
			if l.First == 0 { // all ports
				flow.Last = 1<<16 - 1
			}
			flows = append(flows, flow)
		}
		if s.Marked() {
			for _, flow := range flows {
				rules.Marks[flow] = s.Key().Mark
			}
		}
		masquerade := func(server netip.AddrPort) {
			if s.Fwmark != 0 {
				rules.Masquerades[nft.Masquerade{Mark: s.Fwmark, Server: server}] = struct{}{}
			}
			for _, flow := range flows {
				rules.Masquerades[nft.Masquerade{Flow: flow, Server: server}] = struct{}{}
			}
		}
		for _, server := range s.Servers {
			if server.Forward == config.FullNAT {
				masquerade(server.Addr())
			}
		}
		if s.SorryServer.IsValid() && s.Forward == config.FullNAT {
			masquerade(s.SorryServer)
		}
	}
	return rules
}

// marking keeps our nftables table as it is wanted. Where nothing is, and was, wanted, nftables is not touched.
type marking struct {
	owned    *ownership
	emit     func(status.Event)
	totals   *status.Totals
	recorded bool // there are no packets to mark: the table they would go by is not the kernel's

	client  *nft.Client // nil until it is needed
	watcher *nft.Watcher
	want    nft.Rules
	known   bool // want is, or was, in force
	trouble lasting
}

// open takes hold of nftables.
func (m *marking) open() (err error) {
	if m.client != nil {
		return nil
	}
	if m.client, err = nft.Open(); err != nil {
		return err
	}
	if m.watcher, err = nft.Watch(); err != nil { // the tick sees everything, too
		m.emit(status.Event{Level: slog.LevelError, What: "changes of nftables are seen late", Cause: err.Error()})
		m.watcher = nil
	}
	return nil
}

func (m *marking) close() {
	if m.watcher != nil {
		m.watcher.Close()
	}
	if m.client != nil {
		m.client.Close()
	}
}

// changes tells when somebody, perhaps this process, has changed nftables.
func (m *marking) changes() <-chan struct{} {
	if m.watcher == nil {
		return nil
	}
	return m.watcher.Changes()
}

// check tells, without changing anything, whether rules could be in force.
func (m *marking) check(rules nft.Rules) error {
	if m.recorded || rules.Equal(nft.Rules{}) {
		return nil
	}
	return nft.Try(rules)
}

// differ tells whether rules are not what was wanted so far.
func (m *marking) differ(rules nft.Rules) bool { return !m.known || !m.want.Equal(rules) }

// setSources has the source rewritten for all that rules say, as well as so far, and leaves the marks. What goes wrong is said,
// and meets set again.
func (m *marking) setSources(rules nft.Rules) {
	if m.known {
		_ = m.set(m.want.Merge(nft.Rules{Masquerades: rules.Masquerades}))
	}
}

// set replaces what is wanted.
func (m *marking) set(rules nft.Rules) error {
	m.want, m.known = rules, false
	return m.keep()
}

// keep makes the table what is wanted.
func (m *marking) keep() error {
	none := m.want.Equal(nft.Rules{})
	if m.recorded || none && !m.owned.nft {
		m.known = true
		return nil
	}
	err := m.bring()
	if err == nil && none {
		err = m.owned.claim(&m.owned.nft, false)
	}
	m.trouble.set(err, m.emit, "nftables not as wanted", "nftables as wanted")
	m.known = m.known || err == nil
	return err
}

func (m *marking) bring() error {
	if err := m.open(); err != nil {
		return err
	}
	differences, err := m.client.Differences(m.want)
	if err != nil || len(differences) == 0 {
		return err
	}
	if err := errors.Join(m.owned.claim(&m.owned.nft, true), m.client.Replace(m.want)); err != nil {
		return err
	}
	if m.known {
		m.totals.Drift++
		m.emit(status.Event{Level: slog.LevelWarn, What: "drift", Cause: "nftables changed by somebody else, put back: " + strings.Join(differences, ", ")})
		return nil
	}
	m.emit(status.Event{
		Level: slog.LevelInfo, What: "nftables set",
		Cause: fmt.Sprintf("table inet poise, marks: %d, source rewritten for: %d", len(m.want.Marks), len(m.want.Masquerades)),
	})
	return nil
}
