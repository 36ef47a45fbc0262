package adm

import (
	"context"
	"fmt"
	"strings"
)

// introduce prints the version, in a line that begins as ipvsadm's, which scripts look at, and for -h the usage.
func (p *program) introduce(ctx context.Context, command optionID) error {
	info, err := p.kernel.Info(ctx)
	if err != nil {
		return p.unread(err)
	}
	v := info.Version
	fmt.Fprintf(p.out, "ipvsadm v1.31 2019/12/24 (as poise speaks it, and IPVS v%d.%d.%d)\n", v[0], v[1], v[2])
	if command == optHelp {
		p.out.WriteString(strings.ReplaceAll(usage, "@", p.name))
	}
	return nil
}

const usage = `
Change the table:
  @ -A SERVICE [-s SCHEDULER] [-p [SECONDS] [-M MASK]] [-o] [--pe ENGINE] [-b FLAG,...]
                          add a service
  @ -E SERVICE ...        edit one; what is not said goes back to its default
  @ -D SERVICE            delete one with its servers
  @ -C                    delete all services
  @ -a SERVICE -r SERVER [-m | -g | -i [TUNNEL]] [-w WEIGHT] [-x UPPER] [-y LOWER]
                          add a real server to a service
  @ -e SERVICE -r SERVER ...
                          edit one; what is not said goes back to its default
  @ -d SERVICE -r SERVER  delete one
  @ -S [-n] [--exact]     print the commands that make this table; --exact keeps thresholds and large marks
  @ -R [--atomic]         read commands, one a line; --atomic reads all of them before it changes
                          anything, names bad lines, and changes only what differs
  @ -Z [SERVICE]          zero the counters
  @ --set TCP TCPFIN UDP  timeouts of connections in seconds, 0 leaves one as it is

Look:
  @ -L [SERVICE] [-n] [--stats | --rate | --thresholds | --persistent-conn | --tun-info] [-X] [--nosort]
  @ -L -c [-n] [--persistent-conn]
                          connections
  @ -L --timeout          timeouts
  @ -L --daemon           synchronisation daemons
  @ -h, -v

Synchronise connections:
  @ --start-daemon master|backup [--mcast-interface NAME] [--syncid 0..255] [--sync-maxlen BYTES]
          [--mcast-group ADDRESS] [--mcast-port PORT] [--mcast-ttl TTL]
  @ --stop-daemon master|backup

SERVICE is one of
  -t, --tcp-service ADDRESS[:PORT]     -u, --udp-service ADDRESS[:PORT]     --sctp-service ADDRESS[:PORT]
  -f, --fwmark-service MARK [-6]       packets that the firewall marked, of IPv6 with -6
  without a port, or with port 0, it is all ports and needs -p

SERVER is ADDRESS[:PORT]; -g and -i keep the service's port. IPv6 with a port is [ADDRESS]:PORT.

Long names of options:
  -A --add-service     -E --edit-service    -D --delete-service    -C --clear
  -a --add-server      -e --edit-server     -d --delete-server
  -L -l --list         -Z --zero            -S --save              -R --restore
  -s --scheduler       rr wrr lc wlc (usual) lblc lblcr dh sh sed nq fo ovf mh twos
  -p --persistent      a client stays with its server this long, 360 s if nothing is said
  -M --netmask         clients that share this network stay together; of IPv6 a prefix length
  -o --ops             schedule each datagram by itself
  -b --sched-flags     flag-1 flag-2 flag-3, sh-fallback sh-port, mh-fallback mh-port
  -r --real-server     -w --weight (1)      -x --u-threshold       -y --l-threshold
  -m --masquerading    NAT
  -g --gatewaying      direct routing (usual)
  -i --ipip            tunnelling: --tun-type ipip|gue|gre, --tun-port PORT,
                       --tun-nocsum | --tun-csum | --tun-remcsum
  -n --numeric         -c --connection      -X --exact             -6 --ipv6
`
