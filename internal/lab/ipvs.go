package lab

import (
	"cmp"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/moby/ipvs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Service is a service of a host's kernel as moby/ipvs, not poise's own code, reads it.
type Service struct {
	Protocol     uint16 // 6, 17, 132; 0 with a mark
	Addr         netip.AddrPort
	Mark         uint32
	Family       int // 4 or 6; a mark may have a service of each
	Scheduler    string
	Flags        uint32
	Persistence  time.Duration // valid with flag 1
	PrefixLen    int           // of the clients that persist as one; 32 or 128 for each by itself
	Counters     Counters
	Destinations []Destination // in order of address
}

// Destination is one real server of a Service. Weights above 65535 are not read right.
type Destination struct {
	Addr     netip.AddrPort
	Method   Method
	Weight   int
	Upper    int // thresholds of connections; 0: none
	Lower    int
	Active   int // established connections
	Inactive int // all others the kernel still remembers
	Counters Counters
}

// Counters grow from the entry's creation and wrap at 2^32. The kernel sums them up every
// two seconds: what just happened is not in them yet.
type Counters struct{ Connections, PacketsIn, PacketsOut uint32 }

// Method is how a director forwards to a real server, in the configuration's words.
type Method string

// The forwarding methods.
const (
	NAT     Method = "nat"
	DR      Method = "dr"
	TUN     Method = "tun"
	FullNAT Method = "fullnat" // NAT to the kernel's IPVS, and to who reads it
)

// moby/ipvs runs modprobe at its first use and warns through logrus where there is none,
// although IPVS is there already.
var quiet = sync.OnceFunc(func() { logrus.SetOutput(io.Discard) })

// IPVS returns the host's services in order of address, then mark, then family.
func (h *Host) IPVS() []Service {
	services, err := h.readIPVS()
	h.net.must(h.wrap("read IPVS", err))
	return services
}

func (h *Host) readIPVS() ([]Service, error) {
	quiet()
	kernel, err := ipvs.New(path(h.Namespace))
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	found, err := kernel.GetServices()
	if err != nil {
		return nil, err
	}
	var services []Service
	for _, f := range found {
		s := Service{
			Protocol:    f.Protocol,
			Addr:        addrPort(f.Address, f.Port),
			Mark:        f.FWMark,
			Family:      4,
			Scheduler:   f.SchedName,
			Flags:       f.Flags,
			Persistence: time.Duration(f.Timeout) * time.Second,
			PrefixLen:   bits.OnesCount32(f.Netmask), // moby/ipvs gets its byte order wrong
			Counters:    counters(f.Stats),
		}
		if f.AddressFamily == unix.AF_INET6 {
			s.Family, s.PrefixLen = 6, int(f.Netmask)
		}
		destinations, err := kernel.GetDestinations(f)
		if err != nil {
			return nil, fmt.Errorf("destinations of %v: %w", s.Addr, err)
		}
		for _, d := range destinations {
			s.Destinations = append(s.Destinations, Destination{
				Addr:     addrPort(d.Address, d.Port),
				Method:   method(d.ConnectionFlags),
				Weight:   d.Weight,
				Upper:    int(d.UpperThreshold),
				Lower:    int(d.LowerThreshold),
				Active:   d.ActiveConnections,
				Inactive: d.InactiveConnections,
				Counters: counters(ipvs.SvcStats(d.Stats)),
			})
		}
		slices.SortFunc(s.Destinations, func(a, b Destination) int { return a.Addr.Compare(b.Addr) })
		services = append(services, s)
	}
	slices.SortFunc(services, func(a, b Service) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Mark, b.Mark), cmp.Compare(a.Family, b.Family))
	})
	return services, nil
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip) // no address: a mark
	return netip.AddrPortFrom(addr.Unmap(), port)
}

func counters(s ipvs.SvcStats) Counters {
	return Counters{s.Connections, s.PacketsIn, s.PacketsOut}
}

func method(flags uint32) Method {
	switch flags & ipvs.ConnectionFlagFwdMask {
	case ipvs.ConnectionFlagMasq:
		return NAT
	case ipvs.ConnectionFlagDirectRoute:
		return DR
	case ipvs.ConnectionFlagTunnel:
		return TUN
	}
	return Method(fmt.Sprintf("method %d", flags&ipvs.ConnectionFlagFwdMask))
}
