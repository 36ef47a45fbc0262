package adm

import (
	"context"
	"fmt"
	"strings"

	"poise/ipvsctl"
)

// save prints the commands that make the table.
func (p *program) save(ctx context.Context, how given) error {
	entries, err := p.entries(ctx, how)
	if err != nil {
		return p.unread(err)
	}
	for i := range entries {
		e := &entries[i]
		service := p.serviceOption(e.key, how)
		p.saveService(service, e)
		servers, err := p.servers(ctx, e.key, how)
		if err != nil {
			return p.unread(err)
		}
		for j := range servers {
			p.saveServer(service, e.key.Protocol, &servers[j], how)
		}
	}
	return nil
}

// saveService prints the command that adds a service.
func (p *program) saveService(service string, e *entry) {
	fmt.Fprintf(p.out, "-A %s -s %s%s\n", service, e.settings.Scheduler, serviceOptions(e.key, &e.settings))
}

// saveServer prints the command that adds a server to a service.
func (p *program) saveServer(service string, protocol ipvsctl.Protocol, s *server, how given) {
	fmt.Fprintf(p.out, "-a %s -r %s %s -w %d%s\n", service, p.names.endpoint(s.addr, protocol, how&givenNumeric != 0),
		methods[s.dest.Method].option, s.dest.Weight, serverRest(s.dest, how))
}

var serviceLetters = [256]string{ipvsctl.TCP: "-t", ipvsctl.UDP: "-u", ipvsctl.SCTP: "--sctp-service"}

// serviceOption is "-t 10.0.0.1:80" or "-f 66 -6".
func (p *program) serviceOption(key ipvsctl.ServiceKey, how given) string {
	if key.Mark != 0 {
		option := fmt.Sprintf("-f %d", int32(key.Mark)) // -R does not take negative ones
		if how&givenExact != 0 {
			option = fmt.Sprintf("-f %d", key.Mark)
		}
		if key.IsIPv6() {
			option += " -6"
		}
		return option
	}
	return serviceLetters[key.Protocol] + " " + p.names.endpoint(key.Addr, key.Protocol, how&givenNumeric != 0)
}

// serviceOptions are those of a service after its scheduler.
func serviceOptions(key ipvsctl.ServiceKey, s *ipvsctl.Settings) string {
	var b strings.Builder
	if s.Persistence != 0 {
		fmt.Fprintf(&b, " -p %d", int64(s.Persistence.Seconds()))
		if s.ClientMask != 0 {
			b.WriteString(" -M " + s.ClientMask.Text(key.IsIPv6()))
		}
	}
	if s.Engine != "" {
		b.WriteString(" --pe " + s.Engine)
	}
	if s.Flags&ipvsctl.OnePacket != 0 {
		b.WriteString(" -o")
	}
	if flags := flagNames(s); flags != "" {
		b.WriteString(" -b " + flags)
	}
	return b.String()
}

// serverRest are the options of a server after its weight. ipvsadm's own does not save thresholds.
func serverRest(d ipvsctl.Destination, how given) string {
	var b strings.Builder
	if d.Method == ipvsctl.TUN {
		fmt.Fprintf(&b, " --tun-type %v", d.Tunnel.Type)
		if d.Tunnel.Type == ipvsctl.GUE {
			fmt.Fprintf(&b, " --tun-port %d", d.Tunnel.Port)
		}
		if d.Tunnel.Type != ipvsctl.IPIP {
			b.WriteString(map[ipvsctl.Checksum]string{
				ipvsctl.NoChecksum: " --tun-nocsum", ipvsctl.FullChecksum: " --tun-csum", ipvsctl.RemoteChecksum: " --tun-remcsum",
			}[d.Tunnel.Checksum])
		}
	}
	if how&givenExact != 0 && d.Upper != 0 {
		fmt.Fprintf(&b, " -x %d -y %d", d.Upper, d.Lower)
	}
	return b.String()
}
