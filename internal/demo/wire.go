package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

// sighting is what a frame says about who has the virtual address.
type sighting struct {
	at       time.Time
	kind     kind
	by       string // the host, by its MAC
	priority int    // of an advert
}

type kind string

const (
	advert       kind = "advert"
	announcement kind = "gratuitous ARP"
	answer       kind = "ARP answer"
	release      kind = "priority 0" // an advert that says: I leave
)

// sightings are in order of time.
type sightings []sighting

// look returns what frames say about addr. Hosts that are not in names appear under their MAC.
func look(frames []lab.Frame, addr netip.Addr, names map[string]string) sightings {
	var all sightings
	for _, f := range frames {
		s := sighting{at: f.Time}
		mac := ""
		if a, ok := f.ARP(); ok {
			mac = a.MAC
			switch {
			case a.Addr != addr:
				continue
			case a.Gratuitous:
				s.kind = announcement
			case a.Reply:
				s.kind = answer
			default:
				continue
			}
		} else if s.priority, ok = advertised(f.Data); ok {
			mac = net.HardwareAddr(f.Data[6:12]).String()
			s.kind = advert
			if s.priority == 0 {
				s.kind = release
			}
		} else {
			continue
		}
		s.by = mac
		if name, known := names[mac]; known {
			s.by = name
		}
		all = append(all, s)
	}
	return all
}

// advertised is the priority in a frame, if that is an advert (RFC 9568 section 5).
func advertised(frame []byte) (priority int, ok bool) {
	const ethernet, vrrp, advertType = 14, 112, 1
	if len(frame) < ethernet+20 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return 0, false
	}
	packet := frame[ethernet:]
	header := int(packet[0]&0xf) * 4
	if packet[9] != vrrp || len(packet) < header+8 || packet[header]&0xf != advertType {
		return 0, false
	}
	return int(packet[header+2]), true
}

// since are those from t on.
func (all sightings) since(t time.Time) sightings {
	return all.that(func(s sighting) bool { return !s.at.Before(t) })
}

// of are those of a kind.
func (all sightings) of(k kind) sightings {
	return all.that(func(s sighting) bool { return s.kind == k })
}

// by are those of a host.
func (all sightings) by(host string) sightings {
	return all.that(func(s sighting) bool { return s.by == host })
}

func (all sightings) that(keep func(sighting) bool) (kept sightings) {
	for _, s := range all {
		if keep(s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// only is nil if all of these kinds are of one host, and else says whose they are.
func (all sightings) only(host string, kinds ...kind) error {
	for _, k := range kinds {
		if got := all.of(k).hosts(); len(got) > 0 && !slices.Equal(got, turns{host}) {
			return &mismatch{fmt.Sprintf("%s of %s alone", k, host), got.String()}
		}
	}
	return nil
}

// hosts are whose they are, in turn.
func (all sightings) hosts() turns {
	var hosts turns
	for _, s := range all {
		hosts = append(hosts, s.by)
	}
	return slices.Compact(hosts)
}

// turns are hosts in order of time.
type turns []string

func (t turns) String() string {
	if len(t) == 0 {
		return "nobody"
	}
	return strings.Join(t, ", ")
}
