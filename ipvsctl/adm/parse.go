package adm

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"poise/ipvsctl"
)

// request is what a command line asks for.
type request struct {
	command  optionID
	given    given
	service  ipvsctl.ServiceKey
	settings ipvsctl.Settings
	server   netip.AddrPort
	dest     ipvsctl.Destination
	daemon   ipvsctl.Daemon
	timeouts ipvsctl.Timeouts
}

// failure is why a command line is not carried out.
type failure struct {
	text   string
	status int
	ends   bool // a restore whose line it is, too
}

func (f *failure) Error() string { return f.text }

// errNoCommand is the failure of a command line that does not begin with a command.
var errNoCommand = &failure{"no command", 255, true}

// refuse is the failure of a check of ours.
func refuse(format string, args ...any) error {
	return &failure{fmt.Sprintf(format, args...), 2, true}
}

// What a value may be. These are Debian's numbers.
const (
	mostSeconds    = 31 * 24 * 3600
	mostWeight     = 1<<31 - 1
	mostThreshold  = 1<<31 - 1
	mostMark       = 1<<32 - 1
	mostSyncLen    = 65535 - 20 - 8
	usualSeconds   = 360
	usualScheduler = "wlc"
	usualInterface = "eth0"
	mostName       = 15 // bytes of a scheduler's, an engine's or an interface's name; the rest is cut off
)

// parse reads the words behind the program's name. Values are looked at as they come, so the first bad one is named.
func (p *program) parse(words []string) (request, error) {
	r := request{
		service: ipvsctl.ServiceKey{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)},
		dest:    ipvsctl.Destination{Method: ipvsctl.DR, Weight: 1},
	}
	s := scanner{words: words}
	first, arg, _, wrong := s.next()
	if wrong != "" || first == nil || first.id > optVersion {
		return r, errNoCommand
	}
	r.command = first.id
	switch r.command {
	case optStartDaemon, optStopDaemon:
		role, known := map[string]ipvsctl.Role{"master": ipvsctl.SyncMaster, "backup": ipvsctl.SyncBackup}[arg]
		if !known {
			what := "start-daemon parameter"
			if r.command == optStopDaemon {
				what = "start_daemon"
			}
			return r, refuse("illegal %s specified", what)
		}
		r.daemon.Role = role
	case optHelp, optVersion:
		return r, nil // whatever follows
	}

	flags := ""
	for {
		o, arg, has, wrong := s.next()
		if wrong != "" {
			return r, &failure{s.word + ": " + wrong, 255, false}
		}
		if o == nil {
			break
		}
		if o.id <= optVersion {
			return r, refuse("invalid option `%s'", s.word)
		}
		if o.id == optFlags {
			flags = arg
		}
		if err := r.take(p, o.id, arg, has); err != nil {
			return r, err
		}
	}
	if r.command == optSet {
		if len(s.strays) < 3 {
			return r, refuse("--set option requires 3 timeout values")
		}
		for i, t := range []*time.Duration{&r.timeouts.TCP, &r.timeouts.TCPFin, &r.timeouts.UDP} {
			var err error
			if *t, err = seconds(s.strays[i], 0); err != nil {
				return r, err
			}
		}
		s.strays = s.strays[3:]
	}
	if len(s.strays) > 0 {
		return r, refuse("unexpected argument %s", s.strays[0])
	}
	if err := r.setFlags(flags); err != nil {
		return r, err
	}
	return r, r.check()
}

var protocols = [...]ipvsctl.Protocol{optTCP: ipvsctl.TCP, optUDP: ipvsctl.UDP, optSCTP: ipvsctl.SCTP}

// take notes one option.
func (r *request) take(p *program, id optionID, arg string, has bool) error {
	if given := noted[id]; given != 0 {
		if r.given&given != 0 {
			return refuse("multiple '%s' options specified", given.name())
		}
		r.given |= given
	}
	number := func(least, most int64, what string) (int64, error) {
		n, ok := parseNumber(arg, least, most)
		if !ok {
			return 0, refuse("illegal %s specified", what)
		}
		return n, nil
	}
	var n int64
	var err error
	switch id {
	case optTCP, optUDP, optSCTP:
		r.service.Protocol = protocols[id]
		e, ok := p.names.parseEndpoint(arg, r.service.Protocol)
		if !ok {
			return refuse("illegal virtual server address[:port] specified")
		}
		r.service.Addr = netip.AddrPortFrom(e.addr, e.port)
		if e.addr.Is6() {
			r.settings.ClientMask = 0
		}
	case optMark:
		n, ok := parseNumber(arg, 1, mostMark)
		if !ok {
			return refuse("invalid fwmark value `%s' specified", arg)
		}
		r.service = ipvsctl.ByMark(uint32(n), r.service.IsIPv6())
	case optIPv6:
		if r.service.Mark == 0 {
			return refuse("-6 used before -f\n")
		}
		r.service = ipvsctl.ByMark(r.service.Mark, true)
		r.settings.ClientMask = 0
	case optScheduler:
		r.settings.Scheduler = cut(arg, mostName)
	case optPersistent:
		if !has {
			r.settings.Persistence = usualSeconds * time.Second
			return nil
		}
		r.settings.Persistence, err = seconds(arg, 1)
	case optNetmask:
		r.settings.ClientMask, err = p.parseMask(arg, r.service.IsIPv6())
	case optOnePacket:
		r.settings.Flags |= ipvsctl.OnePacket
	case optEngine:
		r.settings.Engine = cut(arg, mostName)

	case optServer:
		e, ok := p.names.parseEndpoint(arg, r.service.Protocol)
		if !ok {
			return refuse("illegal real server address[:port] specified")
		}
		if !e.hasPort {
			e.port = r.service.Addr.Port() // as far as it is known
		}
		r.server = netip.AddrPortFrom(e.addr, e.port)
	case optNAT:
		r.dest.Method = ipvsctl.NAT
	case optDR:
		r.dest.Method = ipvsctl.DR
	case optTUN:
		r.dest.Method = ipvsctl.TUN
	case optWeight:
		n, err = number(0, mostWeight, "weight")
		r.dest.Weight = int(n)
	case optUpper:
		n, err = number(0, mostThreshold, "u_threshold")
		r.dest.Upper = uint32(n)
	case optLower:
		n, err = number(0, mostThreshold, "l_threshold")
		r.dest.Lower = uint32(n)
	case optTunType:
		if r.dest.Tunnel.Type.UnmarshalText([]byte(arg)) != nil {
			return refuse("illegal tunnel type specified")
		}
	case optTunPort:
		n, err = number(1, 65535, "tunnel port")
		r.dest.Tunnel.Port = uint16(n)
	case optTunNoChecksum:
		r.dest.Tunnel.Checksum = ipvsctl.NoChecksum
	case optTunChecksum:
		r.dest.Tunnel.Checksum = ipvsctl.FullChecksum
	case optTunRemoteChecksum:
		r.dest.Tunnel.Checksum = ipvsctl.RemoteChecksum

	case optMcastInterface:
		r.daemon.Interface = cut(arg, mostName)
	case optMcastGroup:
		family := "IPv4"
		if strings.Contains(arg, ":") {
			family = "IPv6"
		}
		a, err := netip.ParseAddr(arg)
		if err != nil || !a.IsMulticast() || a.Zone() != "" {
			return refuse("invalid %s mcast-group `%s'", family, arg)
		}
		r.daemon.Group = a
	case optMcastPort:
		n, err = number(1, 65535, "mcast-port")
		r.daemon.Port = uint16(n)
	case optMcastTTL:
		n, err = number(1, 255, "mcast-ttl")
		r.daemon.TTL = uint8(n)
	case optSyncMaxLen:
		n, err = number(1, mostSyncLen, "sync-maxlen")
		r.daemon.MaxLen = uint16(n)
	case optSyncID:
		n, err = number(0, 255, "syncid")
		r.daemon.ID = uint8(n)
	}
	return err
}

// seconds reads a timeout.
func seconds(text string, least int64) (time.Duration, error) {
	n, ok := parseNumber(text, least, mostSeconds)
	if !ok {
		return 0, refuse("invalid timeout value `%s' specified", text)
	}
	return time.Duration(n) * time.Second, nil
}

// parseMask reads which clients stay together: an address of bits, or of IPv6 a prefix length with anything behind it.
func (p *program) parseMask(text string, ipv6 bool) (ipvsctl.ClientMask, error) {
	if ipv6 {
		text = strings.TrimLeft(text, " \t\n\v\f\r")
		end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(text)
		}
		n, ok := parseNumber(text[:end], 1, 128)
		if !ok {
			return 0, refuse("illegal ipv6 netmask specified")
		}
		return ipvsctl.PrefixMask(int(n), true), nil
	}
	a, ok := p.names.parseIPv4(text)
	if !ok {
		return 0, refuse("illegal virtual server persistent mask specified")
	}
	return ipvsctl.MaskOf(a), nil
}

// schedulerFlags are the names of switches that mean something to one scheduler only.
var schedulerFlags = []struct {
	name, scheduler string
	flag            ipvsctl.Flags
}{
	{"flag-1", "", ipvsctl.Fallback},
	{"flag-2", "", ipvsctl.SourcePort},
	{"flag-3", "", ipvsctl.Flag3},
	{"sh-fallback", "sh", ipvsctl.Fallback},
	{"sh-port", "sh", ipvsctl.SourcePort},
	{"mh-fallback", "mh", ipvsctl.Fallback},
	{"mh-port", "mh", ipvsctl.SourcePort},
}

// setFlags notes what -b says, which depends on the scheduler wherever that was named.
func (r *request) setFlags(text string) error {
	for name := range strings.FieldsFuncSeq(text, func(c rune) bool { return c == ',' }) {
		found := false
		for _, f := range schedulerFlags {
			if f.name != name {
				continue
			}
			if f.scheduler != "" && f.scheduler != r.settings.Scheduler {
				return refuse("incompatible scheduler flag `%s'", name)
			}
			r.settings.Flags |= f.flag
			found = true
		}
		if !found {
			return refuse("invalid scheduler flag `%s'", name)
		}
	}
	return nil
}

// check applies the rules about the whole, and fills in what was not said.
func (r *request) check() error {
	if err := r.checkOptions(); err != nil {
		return err
	}
	switch r.command {
	case optAddService, optEditService:
		if r.service.Mark == 0 && r.service.Addr.Port() == 0 && r.settings.Persistence == 0 {
			return refuse("Zero port specified for non-persistent service")
		}
		if r.settings.Flags&ipvsctl.OnePacket != 0 && r.service.Mark == 0 && r.service.Protocol != ipvsctl.UDP {
			return refuse("One-Packet Scheduling is only for UDP virtual services")
		}
		if r.settings.Scheduler == "" {
			r.settings.Scheduler = usualScheduler
		}
		if r.settings.Persistence == 0 {
			r.settings.ClientMask = 0 // means nothing then, and is not read back
		}
	case optAddServer, optEditServer:
		if r.service.Mark == 0 && r.dest.Method.KeepsPort() {
			r.server = netip.AddrPortFrom(r.server.Addr(), r.service.Addr.Port())
		}
		if r.dest.Method != ipvsctl.TUN && r.server.Addr().Is6() != r.service.IsIPv6() {
			return refuse("Different address family is allowed only for tunneling servers")
		}
		if r.dest.Method != ipvsctl.TUN && r.given&tunnelOptions != 0 {
			return refuse("Tunnel options conflict with forward method")
		}
		return r.checkTunnel()
	case optList:
		aside := r.given & (givenConnections | givenTimeout | givenDaemon)
		if aside != 0 && r.given&(givenStats|givenRate|givenThresholds) != 0 ||
			aside&^givenConnections != 0 && r.given&givenPersistentConn != 0 {
			return refuse("options conflicts in the list command")
		}
	case optStartDaemon:
		if r.daemon.Interface == "" {
			r.daemon.Interface = usualInterface
		}
	}
	return nil
}

// opKinds are, one more than they are, the changes that commands of the table ask for.
var opKinds = [...]ipvsctl.OpKind{
	optAddService: ipvsctl.AddService + 1, optEditService: ipvsctl.EditService + 1, optDeleteService: ipvsctl.RemoveService + 1,
	optAddServer: ipvsctl.AddDestination + 1, optEditServer: ipvsctl.EditDestination + 1, optDeleteServer: ipvsctl.RemoveDestination + 1,
}

// op is the change of the table that is asked for, if it is one.
func (r *request) op() (ipvsctl.Op, bool) {
	if int(r.command) >= len(opKinds) || opKinds[r.command] == 0 {
		return ipvsctl.Op{}, false
	}
	return ipvsctl.Op{
		Kind: opKinds[r.command] - 1, Service: r.service, Settings: r.settings, Server: r.server, Destination: r.dest,
	}, true
}
