package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"poise/checker"
	"poise/config"
	"poise/internal/finding"
	"poise/internal/host"
	"poise/internal/through"
	"poise/ipvsctl"
)

// Servers asks every server through each virtual address that it serves, by its service's own way of forwarding, and sees
// where its replies to clients go. It changes this host while it does, and undoes that; what to undo after an end without
// warning is remembered in dir, for the next one.
func Servers(ctx context.Context, cfg *config.Config, dir string) (_ []finding.Finding, err error) {
	clients := clientsOf(cfg)
	virtual := addressesOf(cfg)
	var addrs []netip.Addr
	for _, c := range clients {
		addrs = append(addrs, c.way.Server.Addr())
	}
	local, err := host.Local(slices.Concat(addrs, virtual))
	if err != nil {
		return nil, err
	}
	// This host as a server takes what is for an address of its own: on a backup nobody's requests come to it.
	clients = slices.DeleteFunc(clients, func(c *client) bool { return local[c.way.Server.Addr()] && !local[c.way.VIP.Addr()] })
	if len(clients) == 0 {
		return nil, nil
	}
	if asleep, err := backupOnly(ctx); err != nil || len(asleep) > 0 {
		return asleep, err
	}
	var ways []through.Way
	for _, c := range clients {
		ways = append(ways, c.way)
	}
	prober, err := through.Open(ctx, dir, virtual, ways)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, prober.Close(ctx)) }()

	each(len(clients), func(i int) { clients[i].ask(ctx, prober) })
	var answered []through.Way
	for _, c := range clients {
		if c.errThrough == nil || c.way.Method == ipvsctl.NAT && c.errDirect == nil {
			answered = append(answered, c.way)
		}
	}
	returns, err := prober.Returns(ctx, answered, neighboursTime)
	if err != nil {
		return nil, err
	}
	now, err := host.Local(slices.Concat(addrs, virtual))
	if err != nil {
		return nil, err
	}
	if !maps.Equal(local, now) {
		return nil, errors.New("virtual addresses came or went meanwhile: what was seen may mean nothing, so run this again")
	}
	var findings []finding.Finding
	silent := silentServices(clients)
	for _, c := range clients {
		master := local[c.way.VIP.Addr()]
		findings = append(findings, c.judge(silent[c.service], master))
		if r, seen := returns[c.way]; seen {
			findings = append(findings, c.judgeReturn(r, master)...)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return findings, nil
}

// backupOnly is why nobody can be asked from a director that balances nothing as long as it is a backup: what it sends to a virtual
// address goes to who has that.
func backupOnly(ctx context.Context) ([]finding.Finding, error) {
	const setting = "net.ipv4.vs.backup_only"
	client, err := ipvsctl.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	daemons, err := client.Daemons(ctx)
	// As the kernel has it, where a daemon for the other role changes nothing (sysctl_backup_only in include/net/ip_vs.h).
	if err != nil || !slices.ContainsFunc(daemons, func(d ipvsctl.Daemon) bool { return d.Role == ipvsctl.SyncBackup }) {
		return nil, err
	}
	if set, err := (host.Sysctls{}).Read(setting); err != nil || set == "0" {
		return nil, err
	}
	return []finding.Finding{{
		How: finding.Computed, What: "servers can be asked through the virtual addresses", Severity: finding.Warning,
		Seen: fmt.Sprintf("nobody was asked: %s is 1 and this host synchronises connections as a backup, so it balances nothing", setting),
		Want: "a director that balances", Page: "docs/operations.md#through-the-virtual-address",
		Remedy: fmt.Sprintf("poise doctor --servers: on the master; or sysctl -w %s=0 here for the time, if this host is no server of the other director", setting),
	}}, nil
}

// client asks one server as a client of its service does.
type client struct {
	service     string
	way         through.Way
	fullNAT     bool
	gateway     string // of the server, with NAT
	room        int    // what fits into the tunnel
	check       checker.Config
	direct      bool  // see needsDirect
	errDirect   error // of a request to the server's own address
	errThrough  error // of one through the virtual address
	errLarge    error // of one that does not fit into a packet
	askedLarger bool
	segment     int // the largest packet to the virtual address that the server takes
}

// clientsOf are all questions: a server of a service at each address that the service listens on, the first port where there are
// several. Of what poise knows neither address nor port, or how to ask, nobody is asked.
func clientsOf(cfg *config.Config) (clients []*client) {
	for _, s := range cfg.Services {
		if s.Protocol != ipvsctl.TCP {
			continue
		}
		for i, server := range s.All() {
			destination := s.Destination(server, 1)
			check, checked := checkOf(s, i)
			gateway, room := "", 0
			switch destination.Method {
			case ipvsctl.NAT:
				gateway = gatewayOf(cfg, server.Address)
			case ipvsctl.TUN:
				room = roomTo(server.Address, destination.Tunnel)
			}
			for _, listen := range s.Listen {
				port := cmp.Or(server.Port, listen.First)
				if destination.Method.KeepsPort() {
					port = listen.First
				}
				if listen.First == 0 || port == 0 {
					continue
				}
				c := &client{
					service: s.Name,
					way: through.Way{
						VIP: netip.AddrPortFrom(listen.Addr, listen.First), Server: netip.AddrPortFrom(server.Address, port),
						Method: destination.Method, Tunnel: destination.Tunnel,
					},
					fullNAT: server.Forward == config.FullNAT,
					gateway: gateway,
					room:    room,
					check:   connection,
					direct:  needsDirect(checked && check.Port == 0, destination.Method),
				}
				if checked && check.Port == 0 { // else it is not this service that is checked
					c.check = check
					c.check.Host = cmp.Or(check.Host, c.way.Server.String())
				}
				clients = append(clients, c)
			}
		}
	}
	return clients
}

// tries is how often a request is made before it counts as failed: frames get lost, and the first that is too large for the path
// is how the kernel learns so.
const tries = 2

// largeRequest is more than fits into two packets.
const largeRequest = 4000

func (c *client) ask(ctx context.Context, prober *through.Prober) {
	c.errDirect = try(func() error { return c.request(ctx, checker.Direct, c.way.Server, c.check) })
	byVIP := func(check checker.Config) error {
		return try(func() error {
			return prober.Probe(ctx, c.way, func(ctx context.Context, dial through.Dial) error {
				return c.request(ctx, dial, c.way.VIP, check)
			})
		})
	}
	c.errThrough = byVIP(c.check)
	if c.errThrough != nil || c.way.Method != ipvsctl.TUN {
		return
	}
	limited, cancel := context.WithTimeout(ctx, c.check.Timeout)
	defer cancel()
	c.segment, _ = prober.Segment(limited, c.way) // it answered just now
	if c.check.Type != checker.KindTCP {
		c.errLarge = byVIP(larger(c.check))
		c.askedLarger = !cannot(c.errLarge)
		// Somebody who has too long an address refuses it, or hangs up: it has arrived.
		if c.errLarge != nil && (!c.askedLarger || !strings.HasPrefix(c.errLarge.Error(), "no answer within")) {
			c.errLarge = nil
		}
	}
}

// cannot tells whether an error is of this host, and says nothing about the server.
func cannot(err error) bool {
	return errors.Is(err, through.ErrCannot) || errors.Is(err, checker.ErrSelf)
}

func (c *client) request(ctx context.Context, dial checker.Dial, addr netip.AddrPort, check checker.Config) error {
	probe, err := checker.NewProbeBy(dial, addr, check)
	if err != nil {
		return err
	}
	return probe(ctx)
}

// roomTo is how large a packet may be to fit into the tunnel to a server, 0 where that is not known.
func roomTo(server netip.Addr, tunnel ipvsctl.Tunnel) int {
	link, ok := linkTo(server)
	if !ok {
		return 0
	}
	return link.MTU - host.TunnelHeaders(tunnel.Type.String(), tunnel.Checksum != ipvsctl.NoChecksum, server.Is6())
}

// linkTo is the interface by which a server is reached.
func linkTo(server netip.Addr) (link host.Interface, ok bool) {
	_, name, err := host.RouteTo(server, netip.Addr{}, 0, 0, 0)
	if err != nil {
		return link, false
	}
	link, exists, err := host.Look(name)
	return link, err == nil && exists
}

func try(ask func() error) (err error) {
	for range tries {
		if err = ask(); err == nil {
			return nil
		}
	}
	return err
}

// larger is the same request, but long; any answer will do.
func larger(c checker.Config) checker.Config {
	separator := "?"
	if strings.Contains(c.Path, "?") {
		separator = "&"
	}
	c.Path += separator + strings.Repeat("x", largeRequest)
	c.Status = []checker.StatusRange{{First: 100, Last: 599}}
	return c
}

// silentServices are those of which no server answers.
func silentServices(all []*client) map[string]bool {
	silent := make(map[string]bool)
	for _, c := range all {
		before, seen := silent[c.service]
		silent[c.service] = c.errThrough != nil && (before || !seen)
	}
	return silent
}

// judge says what a server's answers mean. allSilent is whether no server of the service has one, master whether this host has
// the virtual address.
func (c *client) judge(allSilent, master bool) finding.Finding {
	f := finding.Finding{
		How: finding.Probed, What: fmt.Sprintf("server %v of %q answers for %v", c.way.Server.Addr(), c.service, c.way.VIP),
		Severity: finding.Fault, Want: "the answer of " + c.way.Server.String(), Page: c.page(),
	}
	answersDirectly := c.errDirect == nil || !c.direct // as far as it has to
	switch {
	case cannot(c.errThrough):
		f.Severity, f.Seen, f.Want, f.Page = finding.Warning, c.errThrough.Error(), "a way to ask", "docs/operations.md#through-the-virtual-address"
		f.Remedy = "mend what it says, on this host"
	case c.errThrough == nil && answersDirectly && c.errLarge == nil && c.room > 0 && c.segment > c.room:
		f.Severity, f.Seen = finding.Warning, fmt.Sprintf("takes packets of %d bytes, of which %d fit into the tunnel", c.segment, c.room)
		f.Want, f.Remedy = "no larger ones: else it depends on ICMP that this host sends to clients", fmt.Sprintf("%s: on %v, which then says so to clients", c.command(), c.way.Server.Addr())
	case c.errThrough == nil && answersDirectly && c.errLarge == nil:
		return finding.Finding{How: f.How, What: f.What, Seen: c.seen()}
	case c.errLarge != nil:
		f.Seen = fmt.Sprintf("answers, but no request of %d bytes: %v", largeRequest, c.errLarge)
		f.Want, f.Remedy = "an answer to that, too", c.command()+fmt.Sprintf(" --mtu N: on %v, N what the way to it carries less the tunnel's headers; or let ICMP through on that way", c.way.Server.Addr())
	case c.errThrough == nil:
		f.Severity, f.Seen = finding.Warning, fmt.Sprintf("answers for it, not directly: %v", c.errDirect)
		f.Want, f.Remedy = "both, as a check goes directly", fmt.Sprintf("have it listen on %v, too; or a check on a port where it does", c.way.Server)
	case c.errDirect != nil:
		f.Seen = fmt.Sprintf("answers neither for it: %v; nor directly: %v", c.errThrough, c.errDirect)
		f.Remedy = fmt.Sprintf("on %v, ss -ltn: whether something listens; and its packet filter, nft list ruleset", c.way.Server.Addr())
	default:
		f.Seen = fmt.Sprintf("answers directly, not for the VIP: %v", c.errThrough)
		f.Remedy = c.remedy()
		if allSilent {
			from := c.way.VIP
			if c.way.Method == ipvsctl.NAT {
				from = c.way.Server
			}
			f.Remedy += fmt.Sprintf("; as no server of %q answers, also the packet filter of this host, which must let answers from %v in", c.service, from)
		}
		if c.way.Method.KeepsPort() && !master {
			f.Remedy += "; if it hands requests on to a container, ask from the master, as a backup cannot tell that"
		}
	}
	return f
}

func (c *client) seen() string {
	seen := "also directly"
	if c.errDirect != nil {
		seen = "for that alone"
	}
	if c.askedLarger {
		seen += fmt.Sprintf(", and requests of %d bytes", largeRequest)
	}
	return seen
}

// page is the documentation of the way packets go.
func (c *client) page() string {
	if c.fullNAT {
		return "docs/methods/fullnat.md"
	}
	return fmt.Sprintf("docs/methods/%v.md", c.way.Method)
}

// remedy is what is likely wrong with a server that answers only directly. Why is rarely told by how: it may be refused by
// a packet filter, and lost where nothing listens.
func (c *client) remedy() string {
	switch {
	case c.fullNAT:
		return fmt.Sprintf("poise status: whether net.ipv4.vs.conntrack is 1 and table inet poise is there; then the packet filter of %v", c.way.Server.Addr())
	case c.way.Method == ipvsctl.NAT:
		return c.command() + fmt.Sprintf(": on %v, whose replies must come back here; then its packet filter, nft list ruleset", c.way.Server.Addr())
	}
	return c.command() + fmt.Sprintf(": on %v; then something has to listen on %v there, ss -ltn, and its packet filter has to let it in, nft list ruleset",
		c.way.Server.Addr(), c.way.VIP)
}

// command sets the server up.
func (c *client) command() string {
	w := c.way
	switch w.Method {
	case ipvsctl.NAT:
		return fmt.Sprintf("poise realserver apply --mode nat --gateway %s", c.gateway)
	case ipvsctl.TUN:
		text := fmt.Sprintf("poise realserver apply --mode tun --address %v --vip %v", w.Server.Addr(), w.VIP.Addr())
		if w.Tunnel.Type != ipvsctl.IPIP {
			text += fmt.Sprintf(" --tunnel %v", w.Tunnel.Type)
		}
		if w.Tunnel.Port != 0 {
			text += fmt.Sprintf(" --tunnel-port %d", w.Tunnel.Port)
		}
		if w.Tunnel.Type == ipvsctl.GRE && w.Tunnel.Checksum != ipvsctl.NoChecksum {
			text += " --tunnel-checksum"
		}
		return text
	}
	return fmt.Sprintf("poise realserver apply --mode dr --vip %v", w.VIP.Addr())
}

// gatewayOf is the address by which a server knows its way back: in its network one of a router, which goes with the role, or else
// this host's own.
func gatewayOf(cfg *config.Config, server netip.Addr) string {
	link, ok := linkTo(server)
	at := slices.IndexFunc(link.Addrs, func(a host.Address) bool { return a.Masked().Contains(server) })
	if !ok || at < 0 {
		return "DIRECTOR"
	}
	for _, r := range cfg.Routers {
		for _, addr := range r.All() {
			if link.Addrs[at].Masked().Contains(addr) {
				return addr.String()
			}
		}
	}
	return link.Addrs[at].Addr().String()
}

// judgeReturn says whether a server's replies to clients go where they have to. master is whether this host has the virtual
// address: with NAT they come to the one that has.
func (c *client) judgeReturn(r through.Return, master bool) []finding.Finding {
	server := c.way.Server.Addr()
	f := finding.Finding{How: finding.Probed, Page: c.page()}
	switch {
	case c.fullNAT, c.way.Method == ipvsctl.NAT && !master:
		return nil
	case c.way.Method == ipvsctl.NAT:
		f.What, f.Seen = fmt.Sprintf("replies of %v for %v to clients come back here", server, c.way.VIP), "by "+r.Link
		if !r.Here {
			f.Severity, f.Seen, f.Want = finding.Fault, fmt.Sprintf("one to %v did not: clients get them from an address they never asked, if at all", through.Somebody(server.Is6())), "by this host"
			f.Remedy = fmt.Sprintf("%s: on %v", c.command(), server)
		}
	default:
		f.What, f.Seen = fmt.Sprintf("replies of %v for %v to clients pass this host by", server, c.way.VIP), "none came here"
		if r.Here {
			f.Severity, f.Seen, f.Want = finding.Fault, fmt.Sprintf("one came back by %s, from %v: ", r.Link, r.From), "another way to clients"
			if r.SentOn {
				f.Severity = finding.Warning
				f.Seen += "this host sends them on, as long as it forwards, and carries what direct replies would spare it"
			} else {
				f.Seen += "as master this host drops them, as the address in them is its own"
			}
			f.Remedy = fmt.Sprintf("ip route replace default via ROUTER: on %v, the router of its network instead of this host", server)
		}
	}
	if f.Severity == finding.OK {
		f.Page = ""
	}
	return []finding.Finding{f}
}
