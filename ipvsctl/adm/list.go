package adm

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"poise/ipvsctl"
)

// entry is a service as it is listed.
type entry struct {
	key      ipvsctl.ServiceKey
	settings ipvsctl.Settings
	counted  ipvsctl.ServiceStats
}

// server is a real server as it is listed.
type server struct {
	addr    netip.AddrPort
	dest    ipvsctl.Destination
	counted ipvsctl.DestinationStats
}

// listAll prints the whole table.
func (p *program) listAll(ctx context.Context, how given) error {
	info, err := p.kernel.Info(ctx)
	if err != nil {
		return p.unread(err)
	}
	entries, err := p.entries(ctx, how)
	if err != nil {
		return p.unread(err)
	}
	fmt.Fprintf(p.out, "IP Virtual Server version %d.%d.%d (size=%d)\n", info.Version[0], info.Version[1], info.Version[2], info.TableSize)
	p.out.WriteString(title(how))
	for i := range entries {
		if err := p.listEntry(ctx, &entries[i], how); err != nil {
			return err
		}
	}
	return nil
}

// listService prints one service.
func (p *program) listService(ctx context.Context, key ipvsctl.ServiceKey, how given) error {
	settings, counted, err := p.kernel.Service(ctx, key)
	if err != nil {
		return p.unread(err)
	}
	p.out.WriteString(title(how))
	return p.listEntry(ctx, &entry{key, settings, counted}, how)
}

// unread is the failure of a listing. It ends a restore, too.
func (p *program) unread(err error) error { return &failure{wording(optList, err), 1, true} }

// entries reads the services, sorted unless --nosort was said.
func (p *program) entries(ctx context.Context, how given) ([]entry, error) {
	var all []entry
	err := p.kernel.Services(ctx, func(key ipvsctl.ServiceKey, s ipvsctl.Settings, counted ipvsctl.ServiceStats) {
		all = append(all, entry{key, s, counted})
	})
	if how&givenNoSort == 0 {
		mergeSort(all, nil, func(a, b *entry) int { return compareServices(a.key, b.key) })
	}
	return all, err
}

// servers reads the servers of one service, sorted unless --nosort was said. They are good until the next call.
func (p *program) servers(ctx context.Context, key ipvsctl.ServiceKey, how given) ([]server, error) {
	all := p.read[:0]
	err := p.kernel.Servers(ctx, key, func(addr netip.AddrPort, d ipvsctl.Destination, counted ipvsctl.DestinationStats) {
		all = append(all, server{addr, d, counted})
	})
	if how&givenNoSort == 0 {
		p.scratch = mergeSort(all, p.scratch, func(a, b *server) int { return compareEndpoints(a.addr, b.addr) })
	}
	p.read = all
	return all, err
}

// layout is the one of the ways to list that wins where several are asked for.
func layout(how given) given {
	for _, l := range []given{givenStats, givenRate, givenThresholds, givenPersistentConn, givenTunInfo} {
		if how&l != 0 {
			return l
		}
	}
	return 0
}

func title(how given) string {
	switch layout(how) {
	case givenStats:
		return "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  -> RemoteAddress:Port\n"
	case givenRate:
		return "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n  -> RemoteAddress:Port\n"
	case givenThresholds:
		return "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n  -> RemoteAddress:Port\n"
	case givenPersistentConn:
		return "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n  -> RemoteAddress:Port\n"
	case givenTunInfo:
		return "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n"
	}
	return "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
}

// Widths of a service's and a server's name. Those of IPv4 are cut to fit.
const (
	serviceWidth = 33
	serverWidth  = 28
)

// listEntry prints a service and its servers. A line is appended to a buffer, as there may be many thousand.
func (p *program) listEntry(ctx context.Context, e *entry, how given) error {
	servers, err := p.servers(ctx, e.key, how)
	if err != nil {
		return p.unread(err)
	}
	exact, l := how&givenExact != 0, layout(how)
	line := p.out.AvailableBuffer()
	name := p.serviceName(e.key, how)
	switch c, r := &e.counted.Counters, &e.counted.Rates; l {
	case givenStats:
		line = appendPadded(line, name, serviceWidth)
		line = appendLarge(line, exact, c.Connections, c.InPackets, c.OutPackets, c.InBytes, c.OutBytes)
	case givenRate:
		line = appendPadded(line, name, serviceWidth)
		line = appendLarge(line, exact, r.Connections, r.InPackets, r.OutPackets, r.InBytes, r.OutBytes)
	default:
		line = append(append(append(line, name...), ' '), e.settings.Scheduler...)
		line = append(line, describe(e.key, &e.settings)...)
	}
	p.out.Write(append(line, '\n'))

	for i := range servers {
		s := &servers[i]
		name := p.names.endpoint(s.addr, e.key.Protocol, how&givenNumeric != 0)
		if s.addr.Addr().Is4() {
			name = cut(name, serverWidth)
		}
		line := appendPadded(append(p.out.AvailableBuffer(), "  -> "...), name, serverWidth)
		switch c, r := &s.counted.Counters, &s.counted.Rates; l {
		case givenStats:
			line = appendLarge(line, exact, c.Connections, c.InPackets, c.OutPackets, c.InBytes, c.OutBytes)
		case givenRate:
			for _, n := range []uint64{r.Connections, r.InPackets, r.OutPackets} { // never shortened
				line = appendRight(append(line, ' '), n, 8)
			}
			line = appendLarge(line, exact, r.InBytes, r.OutBytes)
		case givenThresholds:
			line = appendColumn(line, uint64(s.dest.Upper), 10)
			line = appendColumn(line, uint64(s.dest.Lower), 10)
		case givenPersistentConn:
			line = appendColumn(line, uint64(s.dest.Weight), 9)
			line = appendColumn(line, uint64(s.counted.Persistent), 11)
		case givenTunInfo:
			line = appendPadded(append(line, ' '), methods[s.dest.Method].name, 7)
			line = appendPadded(append(line, ' '), tunnelInfo(s.dest), 13)
			line = appendColumn(line, uint64(s.dest.Weight), 6)
		default:
			line = appendPadded(append(line, ' '), methods[s.dest.Method].name, 7)
			line = appendColumn(line, uint64(s.dest.Weight), 6)
		}
		if l != givenStats && l != givenRate {
			line = appendColumn(line, uint64(s.counted.Active), 10)
			line = appendColumn(line, uint64(s.counted.Inactive), 10)
		}
		p.out.Write(append(line, '\n'))
	}
	return nil
}

// methods are the names of forwarding methods in listings and in rules.
var methods = [8]struct{ name, option string }{
	ipvsctl.NAT: {"Masq", "-m"}, ipvsctl.Local: {"Local", "-g"}, ipvsctl.TUN: {"Tunnel", "-i"}, ipvsctl.DR: {"Route", "-g"},
}

var protocolNames = [256]string{ipvsctl.TCP: "TCP ", ipvsctl.UDP: "UDP ", ipvsctl.SCTP: "SCTP"}

// serviceName is "TCP  10.0.0.1:80" or "FWM  66 IPv6". Marks are signed numbers here.
func (p *program) serviceName(key ipvsctl.ServiceKey, how given) string {
	if key.Mark != 0 {
		if key.IsIPv6() {
			return fmt.Sprintf("FWM  %d IPv6", int32(key.Mark))
		}
		return fmt.Sprintf("FWM  %d", int32(key.Mark))
	}
	name := protocolNames[key.Protocol] + " " + p.names.endpoint(key.Addr, key.Protocol, how&givenNumeric != 0)
	if !key.IsIPv6() {
		name = cut(name, serviceWidth)
	}
	return name
}

// describe is what is said about a service after its scheduler.
func describe(key ipvsctl.ServiceKey, s *ipvsctl.Settings) string {
	text := ""
	if flags := flagNames(s); flags != "" {
		text += " (" + flags + ")"
	}
	if s.Persistence != 0 {
		text += fmt.Sprintf(" persistent %d", int64(s.Persistence.Seconds()))
		if s.ClientMask != 0 {
			text += " mask " + s.ClientMask.Text(key.IsIPv6())
		}
		if s.Engine != "" {
			text += " pe " + s.Engine
		}
	}
	if s.Flags&ipvsctl.OnePacket != 0 {
		text += " ops"
	}
	return text
}

// flagNames are the scheduler's switches that are on, in the scheduler's own words where it has some.
func flagNames(s *ipvsctl.Settings) string {
	own := ""
	if s.Scheduler == "sh" || s.Scheduler == "mh" {
		own = s.Scheduler
	}
	var on []string
	for _, f := range schedulerFlags {
		if f.scheduler == own && s.Flags&f.flag != 0 {
			on = append(on, f.name)
		}
	}
	return strings.Join(on, ",")
}

func tunnelInfo(d ipvsctl.Destination) string {
	if d.Method != ipvsctl.TUN {
		return "n/a"
	}
	checksum := map[ipvsctl.Checksum]string{
		ipvsctl.NoChecksum: "-c", ipvsctl.FullChecksum: "+c", ipvsctl.RemoteChecksum: "r+c",
	}[d.Tunnel.Checksum]
	switch d.Tunnel.Type {
	case ipvsctl.GUE:
		return fmt.Sprintf("gue:%d:%s", d.Tunnel.Port, checksum)
	case ipvsctl.GRE:
		return "gre:" + checksum
	}
	return d.Tunnel.Type.String()
}

// listTimeouts prints the timeouts of connections.
func (p *program) listTimeouts() error {
	t, err := ipvsctl.ReadTimeouts()
	if err != nil {
		return p.unread(err)
	}
	fmt.Fprintf(p.out, "Timeout (tcp tcpfin udp): %d %d %d\n", int64(t.TCP.Seconds()), int64(t.TCPFin.Seconds()), int64(t.UDP.Seconds()))
	return nil
}

// listDaemons prints the synchronisation daemons.
func (p *program) listDaemons(ctx context.Context) error {
	daemons, err := p.kernel.Daemons(ctx)
	if err != nil {
		return p.unread(err)
	}
	for _, d := range daemons {
		fmt.Fprintf(p.out, "%v sync daemon (mcast=%s, syncid=%d, maxlen=%d, group=%v, port=%d, ttl=%d)\n",
			d.Role, d.Interface, d.ID, d.MaxLen, d.Group, d.Port, d.TTL)
	}
	return nil
}

const blanks = "                                        "

// appendPadded appends text with blanks up to a width.
func appendPadded(b []byte, text string, width int) []byte {
	return append(append(b, text...), blanks[:max(0, width-len(text))]...)
}

// appendColumn appends a blank and a number with blanks behind it up to a width.
func appendColumn(b []byte, n uint64, width int) []byte {
	b = append(b, ' ')
	start := len(b)
	b = strconv.AppendUint(b, n, 10)
	return append(b, blanks[:max(0, width-len(b)+start)]...)
}

// appendRight appends a number with blanks before it up to a width.
func appendRight(b []byte, n uint64, width int) []byte {
	var digits [20]byte
	text := strconv.AppendUint(digits[:0], n, 10)
	return append(append(b, blanks[:max(0, width-len(text))]...), text...)
}

// appendLarge appends columns of 9 for numbers that are shortened from a hundred million on, unless they are to be exact.
func appendLarge(b []byte, exact bool, numbers ...uint64) []byte {
	for _, n := range numbers {
		switch {
		case exact && n > 99_999_999:
			b = strconv.AppendUint(append(b, ' '), n, 10)
		case n < 1e8:
			b = appendRight(b, n, 9)
		case n < 1e9:
			b = append(appendRight(b, n/1e3, 8), 'K')
		case n < 1e11:
			b = append(appendRight(b, n/1e6, 8), 'M')
		case n < 1e14:
			b = append(appendRight(b, n/1e9, 8), 'G')
		default:
			b = append(appendRight(b, n/1e12, 8), 'T')
		}
	}
	return b
}

// compareServices orders as ipvsadm does: by differences of 32 bits with a sign, so that what is more than 2^31 apart
// stands the other way round.
func compareServices(a, b ipvsctl.ServiceKey) int {
	return cmp.Or(
		int(int32(a.Mark-b.Mark)),
		a.Addr.Addr().BitLen()-b.Addr.Addr().BitLen(),
		int(a.Protocol)-int(b.Protocol),
		compareEndpoints(a.Addr, b.Addr))
}

// compareEndpoints orders addresses word by word as compareServices orders numbers, then ports. Of different families it
// compares as much as the first one has.
func compareEndpoints(a, b netip.AddrPort) int {
	x, y := wordsOf(a.Addr()), wordsOf(b.Addr())
	for i := range a.Addr().BitLen() / 32 {
		if d := int32(x[i] - y[i]); d != 0 {
			return int(d)
		}
	}
	return int(a.Port()) - int(b.Port())
}

func wordsOf(a netip.Addr) (words [4]uint32) {
	for i := range a.BitLen() / 32 {
		words[i] = binary.BigEndian.Uint32(a.AsSlice()[4*i:])
	}
	return words
}

// mergeSort sorts as the C library of ipvsadm does. That order is no order where addresses are far apart, so the result
// depends on the way. It returns scratch, perhaps grown, for the next call.
func mergeSort[E any](s, scratch []E, compare func(a, b *E) int) []E {
	if len(s) < 2 {
		return scratch
	}
	left, right := s[:len(s)/2], s[len(s)/2:]
	scratch = mergeSort(left, scratch, compare)
	scratch = mergeSort(right, scratch, compare)
	scratch = append(scratch[:0], left...)
	left = scratch
	for i := range s {
		if len(left) == 0 {
			break // what is left of right is where it belongs
		}
		if len(right) == 0 || compare(&left[0], &right[0]) <= 0 {
			s[i], left = left[0], left[1:]
		} else {
			s[i], right = right[0], right[1:]
		}
	}
	return scratch
}
