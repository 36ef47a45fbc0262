package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/finding"
	"poise/internal/host"
	"poise/vrrp"
)

// listenIntervals is how many advert intervals a router is listened to: a backup takes the master for dead after three.
const listenIntervals = 3

// elections are what was heard of the routers.
type elections struct {
	findings  []finding.Finding
	directors []net.HardwareAddr // who speaks for a router, but for this host
}

// routers listens to the adverts of all routers at once.
func routers(ctx context.Context, all []vrrp.Config) (e elections, err error) {
	var looks []func() ([]finding.Finding, error)
	directors := make([][]net.HardwareAddr, len(all))
	for i, r := range all {
		looks = append(looks, func() (found []finding.Finding, err error) {
			found, directors[i], err = router(ctx, r)
			return found, err
		})
	}
	e.findings, err = together(looks...)
	e.directors = slices.Concat(directors...)
	return e, err
}

func router(ctx context.Context, c vrrp.Config) (_ []finding.Finding, directors []net.HardwareAddr, _ error) {
	link, exists, err := host.Look(c.Interface)
	if err != nil || !exists {
		return nil, nil, err // that it does not exist is a finding of its own
	}
	local, err := host.Local(c.All())
	if err != nil {
		return nil, nil, err
	}
	h, err := listen(ctx, c, link)
	if err != nil {
		return nil, nil, err
	}
	for _, from := range h.speakers() {
		if from.IsValid() {
			directors = append(directors, h.macs[from])
		}
	}
	return h.judge(c, local[c.Addresses[0]]), directors, nil
}

// heard is what was on the wire while a router was listened to.
type heard struct {
	adverts   []said                          // of the router, in order
	macs      map[netip.Addr]net.HardwareAddr // of who was heard
	delivered map[netip.Addr]bool             // who was heard behind the packet filter, too
	strange   map[netip.Addr]refusal          // who sends what no node of the router would
}

// said is an advert. One of this host's own comes from no address.
type said struct {
	from     netip.Addr
	priority uint8
}

// refusal is why somebody's adverts are not those of another node of the router.
type refusal struct {
	severity finding.Severity
	seen     string
	remedy   string
}

// listen takes down what is said in three intervals and a half, so that everybody is heard thrice, and at least for a second, as
// a busy machine may be late.
func listen(ctx context.Context, c vrrp.Config, link host.Interface) (heard, error) {
	h := heard{macs: make(map[netip.Addr]net.HardwareAddr), delivered: make(map[netip.Addr]bool), strange: make(map[netip.Addr]refusal)}
	conn, err := vrrp.Listen(c, link.Index, c.Source) // first: it joins the group
	if err != nil {
		return h, err
	}
	defer conn.Close()
	tap, err := vrrp.OpenTap(link.Index)
	if err != nil {
		return h, err
	}
	defer tap.Close()

	filter := vrrp.NewFilter(c)
	for until := time.Now().Add(max(listenIntervals*c.Interval+c.Interval/2, time.Second)); ctx.Err() == nil; {
		wait := min(time.Until(until), 100*time.Millisecond)
		if wait <= 0 {
			return h, nil
		}
		unix.Poll([]unix.PollFd{
			{Fd: int32(tap.FD()), Events: unix.POLLIN}, {Fd: int32(conn.FD()), Events: unix.POLLIN},
		}, int(wait.Milliseconds())+1)
		if err := h.take(c, filter, tap, conn); err != nil {
			return h, err
		}
	}
	return h, ctx.Err()
}

// take reads what waits on both sockets.
func (h *heard) take(c vrrp.Config, filter *vrrp.Filter, tap *vrrp.Tap, conn *vrrp.Conn) error {
	for {
		p, from, ok, err := tap.Receive()
		if err != nil || !ok {
			break // an interface that went down
		}
		h.macs[p.Src] = from.MAC
		h.note(c, filter, p, from.Own)
	}
	for {
		p, ok, err := conn.Receive()
		if err != nil || !ok {
			return err
		}
		h.delivered[p.Src] = true
	}
}

// note takes down one packet. Those of the other family are another router's, whatever their VRID.
func (h *heard) note(c vrrp.Config, filter *vrrp.Filter, p vrrp.Packet, own bool) {
	if p.Dst.Is6() != c.IPv6() {
		return
	}
	if own {
		if a, _, err := vrrp.Decode(p.Payload, p.Src, p.Dst); err == nil && a.VRID == c.VRID {
			h.adverts = append(h.adverts, said{priority: a.Priority})
		}
		return
	}
	local, err := host.Local([]netip.Addr{p.Src})
	r, odd, errRefused := filter.Judge(p, func(addr netip.Addr) bool { return err == nil && local[addr] })
	drop, _ := errors.AsType[*vrrp.Drop](errRefused)
	switch {
	case drop == nil:
		h.adverts = append(h.adverts, said{p.Src, r.Advert.Priority})
		for _, o := range odd {
			h.strange[p.Src] = oddity(c, r, o)
		}
	case drop.Reason == vrrp.DropVRID, drop.Reason == vrrp.DropLength && !drop.From.IsValid():
	default:
		h.strange[p.Src] = refusal{
			finding.Fault, "adverts " + drop.What, fmt.Sprintf("make vrid, version, advert_interval, password and peers the same on every node of %q; what is none of them needs a vrid other than %d", c.Name, c.VRID),
		}
	}
}

// oddity is what is odd about adverts that count: with none of our addresses they are another pair's.
func oddity(c vrrp.Config, r vrrp.Received, o vrrp.Oddity) refusal {
	if slices.ContainsFunc(r.Advert.Addrs, func(a netip.Addr) bool { return slices.Contains(c.Addresses, a) }) {
		return refusal{finding.Warning, o.Cause, "make addresses, checksum and advert_interval the same on every node"}
	}
	return refusal{
		finding.Fault, fmt.Sprintf("adverts for %v, none of which is ours", r.Advert.Addrs),
		fmt.Sprintf("give one of the two another vrid: %d is used by both", c.VRID),
	}
}

// judge says what was heard. local is whether this host has the addresses.
func (h heard) judge(c vrrp.Config, local bool) []finding.Finding {
	const page = "docs/operations.md#why-is-there-no-traffic"
	findings := []finding.Finding{h.judgeMaster(c, local)}

	kept := finding.Finding{How: finding.Observed, What: fmt.Sprintf("adverts on %s get past the packet filter", c.Interface)}
	var in, lost []string
	for _, from := range h.speakers() {
		switch {
		case !from.IsValid():
		case h.delivered[from]:
			in = append(in, from.String())
		default:
			lost = append(lost, from.String())
		}
	}
	if len(lost) > 0 {
		kept.Severity, kept.Seen, kept.Want, kept.Page = finding.Fault, "those of "+strings.Join(lost, ", ")+" do not", "all of them", page
		kept.Remedy = fmt.Sprintf("accept IP protocol %d in the table that drops it: nft list ruleset; or iptables -I INPUT -p %d -j ACCEPT", vrrp.Protocol, vrrp.Protocol)
		findings = append(findings, kept)
	} else if len(in) > 0 {
		kept.Seen = "those of " + strings.Join(in, ", ") + " do"
		findings = append(findings, kept)
	}

	ours := fmt.Sprintf("VRID %d on %s is this router's alone", c.VRID, c.Interface)
	if len(h.strange) == 0 {
		return append(findings, finding.Finding{How: finding.Observed, What: ours, Seen: "nobody else uses it"})
	}
	for _, from := range sortedAddrs(h.strange) {
		r := h.strange[from]
		findings = append(findings, finding.Finding{
			How: finding.Observed, What: ours, Severity: r.severity, Seen: fmt.Sprintf("%v: %s", from, r.seen),
			Want: "only adverts like ours", Remedy: r.remedy, Page: page,
		})
	}
	return findings
}

// judgeMaster: one node speaks, and it is this one if this one has the addresses.
func (h heard) judgeMaster(c vrrp.Config, local bool) finding.Finding {
	f := finding.Finding{How: finding.Observed, What: fmt.Sprintf("one master of router %q", c.Name), Page: "docs/operations.md#why-is-there-no-traffic"}
	masters := h.masters()
	own := slices.ContainsFunc(masters, func(s said) bool { return !s.from.IsValid() })
	var names []string
	for _, s := range masters {
		name := "this host"
		if s.from.IsValid() {
			name = s.from.String()
		}
		names = append(names, fmt.Sprintf("%s with priority %d", name, s.priority))
	}
	f.Seen, f.Severity = strings.Join(names, ", "), finding.Fault
	switch {
	case len(masters) > 1:
		f.Want = "one"
		f.Remedy = "look for what keeps adverts from one to the other: a packet filter, a switch that snoops for multicast, VLANs, unlike passwords"
	case len(masters) == 0 && local:
		f.Seen, f.Want = "this host has the addresses and sends no adverts", "its adverts"
		f.Remedy = fmt.Sprintf("poise status: it has to run; and let IP protocol %d out of this host", vrrp.Protocol)
	case len(masters) == 0:
		f.Seen, f.Want = fmt.Sprintf("no advert in %v", listenIntervals*c.Interval), "the adverts of one"
		f.Remedy = "systemctl start poise: on a director; where it runs, poise status says what keeps it from becoming master"
	case local && !own:
		f.Seen, f.Want = f.Seen+", while this host has the addresses", "this host, or no addresses on it"
		f.Remedy = "poise status: addresses that were added by hand have to go, ip address del"
	default:
		return finding.Finding{How: f.How, What: f.What, Seen: f.Seen}
	}
	return f
}

// speakers are all who were heard, in order of their first advert.
func (h heard) speakers() (from []netip.Addr) {
	for _, s := range h.adverts {
		if !slices.Contains(from, s.from) {
			from = append(from, s.from)
		}
	}
	return from
}

// masters are those who were so at the end, by their last adverts: the last who spoke, and who has not fallen silent since that
// one began. A hand-over is not two masters: who leaves says so with priority 0, and who yields may have a last word.
func (h heard) masters() (masters []said) {
	if len(h.adverts) == 0 {
		return nil
	}
	last := h.adverts[len(h.adverts)-1]
	since := slices.IndexFunc(h.adverts, func(s said) bool { return s.from == last.from })
	words := make(map[netip.Addr][]said)
	for _, s := range h.adverts[since:] {
		words[s.from] = append(words[s.from], s)
	}
	for _, from := range h.speakers() {
		if n := len(words[from]); from == last.from || n > 1 {
			if final := words[from][n-1]; final.priority != vrrp.PriorityRelease {
				masters = append(masters, final)
			}
		}
	}
	return masters
}

func sortedAddrs[V any](m map[netip.Addr]V) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(m))
	for a := range m {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
