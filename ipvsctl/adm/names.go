package adm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"poise/ipvsctl"
)

// names knows hosts and services by the files hosts and services of a directory, which are read when first needed.
//
// No name server is asked for an address's name: a listing must not wait for one that is perhaps behind this very table.
// One is asked for the address of a host that no file knows.
type names struct {
	etc string
	ask func(host string) (netip.Addr, bool) // a name server

	hosts    map[netip.Addr]string
	addrs    map[string]netip.Addr // of IPv4; by lower-case name
	services map[service]string
	ports    map[named]uint16
}

type service struct {
	port     uint16
	protocol string
}

type named struct{ name, protocol string }

// endpoint writes an address and a port, in numbers or by name where there is one. ipvsadm has room for 59 characters.
func (n *names) endpoint(addr netip.AddrPort, p ipvsctl.Protocol, numeric bool) string {
	if numeric {
		return addr.String()
	}
	host := n.hostName(addr.Addr())
	if addr.Addr().Is6() {
		host = "[" + host + "]"
	}
	port := n.portName(addr.Port(), p)
	return cut(host+":"+port, 59)
}

func cut(text string, most int) string { return text[:min(len(text), most)] }

func (n *names) hostName(a netip.Addr) string {
	n.readHosts()
	if name, known := n.hosts[a]; known {
		return name
	}
	return a.String()
}

func (n *names) portName(port uint16, p ipvsctl.Protocol) string {
	n.readServices()
	if name, known := n.services[service{port, p.String()}]; known {
		return name
	}
	return fmt.Sprint(port)
}

// host finds the IPv4 address of a name.
func (n *names) host(name string) (netip.Addr, bool) {
	n.readHosts()
	if a, known := n.addrs[strings.ToLower(name)]; known {
		return a, true
	}
	if name == "" || strings.ContainsAny(name, " :/[]") {
		return netip.Addr{}, false // nothing that a name server could know
	}
	return n.ask(name)
}

// nameServerPatience bounds how long a name server may take.
const nameServerPatience = 10 * time.Second

func askNameServer(name string) (netip.Addr, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), nameServerPatience)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
	if err != nil || len(found) == 0 {
		return netip.Addr{}, false
	}
	return found[0].Unmap(), true
}

// port finds the port that a service has with a protocol.
func (n *names) port(name string, p ipvsctl.Protocol) (int64, bool) {
	n.readServices()
	port, known := n.ports[named{name, p.String()}]
	return int64(port), known
}

// readHosts reads lines such as "192.0.2.80 www.example.com www". The first to name something counts.
func (n *names) readHosts() {
	if n.hosts != nil {
		return
	}
	n.hosts, n.addrs = make(map[netip.Addr]string), make(map[string]netip.Addr)
	n.read("hosts", func(fields []string) {
		a, err := netip.ParseAddr(fields[0])
		if err != nil {
			return
		}
		setFirst(n.hosts, a, fields[1])
		for _, name := range fields[1:] {
			if a.Is4() {
				setFirst(n.addrs, strings.ToLower(name), a)
			}
		}
	})
}

// readServices reads lines such as "http 80/tcp www".
func (n *names) readServices() {
	if n.services != nil {
		return
	}
	n.services, n.ports = make(map[service]string), make(map[named]uint16)
	n.read("services", func(fields []string) {
		number, protocol, _ := strings.Cut(fields[1], "/")
		port, ok := parseNumber(number, 0, 65535)
		if !ok {
			return
		}
		setFirst(n.services, service{uint16(port), protocol}, fields[0])
		setFirst(n.ports, named{fields[0], protocol}, uint16(port))
		for _, alias := range fields[2:] {
			setFirst(n.ports, named{alias, protocol}, uint16(port))
		}
	})
}

// read hands each line of a file of names that says something to take. A file that cannot be read has none.
func (n *names) read(file string, take func(fields []string)) {
	text, _ := os.ReadFile(filepath.Join(n.etc, file))
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 1 {
			take(fields)
		}
	}
}

func setFirst[K comparable, V any](m map[K]V, key K, value V) {
	if _, known := m[key]; !known {
		m[key] = value
	}
}
