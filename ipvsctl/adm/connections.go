package adm

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"poise/ipvsctl"
)

// connectionsFile lists the connections of the calling thread's network namespace; /proc/net would be that of the process.
const connectionsFile = "/proc/thread-self/net/ip_vs_conn"

// listConnections prints the connections that the kernel remembers.
func (p *program) listConnections(how given) error {
	f, err := os.Open(connectionsFile)
	if err != nil {
		return &failure{"cannot open file /proc/net/ip_vs_conn", 1, true}
	}
	defer f.Close()
	withEngine := how&givenPersistentConn != 0
	p.out.WriteString("IPVS connection entries\npro expire state       source             virtual            destination")
	if withEngine {
		p.out.WriteString("        pe name          pe_data")
	}
	p.out.WriteString("\n")
	lines := bufio.NewScanner(f)
	lines.Scan() // titles
	for lines.Scan() {
		c, err := parseConnection(lines.Text())
		if err != nil {
			return &failure{fmt.Sprintf("%s: %v", connectionsFile, err), 1, true}
		}
		name := func(a netip.AddrPort) string { return p.names.endpoint(a, c.protocol(), how&givenNumeric != 0) }
		fmt.Fprintf(p.out, "%-3s %02d:%02d  %-11s %-18s %-18s ", c.proto, c.expires/60, c.expires%60, c.state, name(c.client), name(c.virtual))
		if withEngine && c.engine != "" {
			fmt.Fprintf(p.out, "%-16s %-18s %s\n", name(c.server), c.engine, c.data)
		} else {
			fmt.Fprintf(p.out, "%s\n", name(c.server))
		}
	}
	if err := lines.Err(); err != nil {
		return &failure{fmt.Sprintf("%s: %v", connectionsFile, err), 1, true}
	}
	return nil
}

// connection is one line of ip_vs_conn (ip_vs_conn_seq_show in net/netfilter/ipvs/ip_vs_conn.c).
type connection struct {
	proto                   string // TCP, UDP, SCTP; IP of the template of a mark, which stands in virtual
	client, virtual, server netip.AddrPort
	state                   string
	expires                 int // seconds
	engine, data            string
}

// protocol is by which the ports have names.
func (c *connection) protocol() (p ipvsctl.Protocol) {
	_ = p.UnmarshalText([]byte(strings.ToLower(c.proto))) // none of IP
	return p
}

func parseConnection(line string) (connection, error) {
	f := strings.Fields(line)
	if len(f) < 9 {
		return connection{}, fmt.Errorf("%q has not nine fields", line)
	}
	c := connection{proto: f[0], state: f[7]}
	for i, a := range []*netip.AddrPort{&c.client, &c.virtual, &c.server} {
		addr, port := f[1+2*i], f[2+2*i]
		n, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			return c, fmt.Errorf("%q: %w", line, err)
		}
		parsed, err := parseHexAddr(addr)
		if err != nil {
			return c, fmt.Errorf("%q: %w", line, err)
		}
		*a = netip.AddrPortFrom(parsed, uint16(n))
	}
	var err error
	if c.expires, err = strconv.Atoi(f[8]); err != nil {
		return c, fmt.Errorf("%q: %w", line, err)
	}
	if len(f) > 10 {
		c.engine, c.data = f[9], f[10]
	}
	return c, nil
}

// parseHexAddr reads "0A000064", or of IPv6 "2001:0db8:...", perhaps in brackets.
func parseHexAddr(text string) (netip.Addr, error) {
	if strings.Contains(text, ":") {
		return netip.ParseAddr(strings.Trim(text, "[]"))
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(b) != 4 {
		return netip.Addr{}, fmt.Errorf("%q is no address", text)
	}
	return netip.AddrFrom4([4]byte(b)), nil
}
