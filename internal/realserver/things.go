package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	"poise/internal/host"
)

// thing is something of this host that has a value.
type thing interface {
	key() string
	want() []string // values that will do; Apply sets the first
	get() (string, error)
	set(value string) error
}

// kind is one sort of things, by how their keys look.
type kind struct {
	pattern *regexp.Regexp
	read    func(parts []string) (thing, error)
}

// kinds are the things that keys are read as, by the first pattern that fits. Their texts are in the records of
// hosts: a new version must still know them. They are made when they are needed: every process of poise would wait for
// them at its start.
var kinds = sync.OnceValue(func() []kind {
	return []kind{
		{regexp.MustCompile(`^(\S+) on (lo|poise-\w+)$`), readQuietVIP},
		{regexp.MustCompile(`^(\S+) silent by nftables$`), readSilent},
		{regexp.MustCompile(`^(\S+) with MSS (\d+) by nftables$`), readClamped},
		{regexp.MustCompile(`^tunnel (\S+) to (\S+?)( with checksums)?$`), readTunnelEnd},
		{regexp.MustCompile(`^GUE to UDP port (\d+) of IPv([46])$`), readGUE},
		{regexp.MustCompile(`^default route via (\S+) dev (\S+)$`), readDefaultRoute},
		{regexp.MustCompile(`^replies through (\S+) dev (\S+)$`), readReplyRoute},
		{regexp.MustCompile(`^replies from (\S+) (tcp|udp|sctp) port (\d+)$`), readReplies},
		{regexp.MustCompile(`^(net\.\S+)$`), readSysctl},
	}
})

// thingOf returns what a key names.
func thingOf(key string) (thing, error) {
	for _, k := range kinds() {
		if parts := k.pattern.FindStringSubmatch(key); parts != nil {
			t, err := k.read(parts[1:])
			if err != nil {
				return nil, fmt.Errorf("undo record: %q: %w", key, err)
			}
			return t, nil
		}
	}
	return nil, fmt.Errorf("undo record: %q is nothing this version of poise sets", key)
}

// stepOf returns the step that a recorded key stands for.
func stepOf(key string) (Step, error) {
	t, err := thingOf(key)
	if err != nil {
		return Step{}, err
	}
	return Step{key, t.want()}, nil
}

// fits tells whether a value will do. Of a route nothing more is wanted than the way; who made it, and the like, is as it is.
func (s Step) fits(value string) bool {
	return slices.ContainsFunc(s.Want, func(want string) bool {
		rest, is := strings.CutPrefix(value, want)
		return is && (rest == "" || strings.HasPrefix(want, "via ") && rest[0] == ' ' && !strings.Contains(rest, ";"))
	})
}

// objectOf returns what a key is about, whatever value the key asks for.
func objectOf(key string) string {
	t, err := thingOf(key)
	if err != nil {
		return key
	}
	switch t := t.(type) {
	case defaultRoute:
		return fmt.Sprintf("table %d of IPv%s", t.table, familyDigit(t.gateway.Is6()))
	case clamped:
		return "MSS of " + t.vip.String()
	}
	return key
}

// vipOf returns the virtual address that a key is about, if it is about one.
func vipOf(key string) (netip.Addr, bool) {
	t, err := thingOf(key)
	if err != nil {
		return netip.Addr{}, false
	}
	switch t := t.(type) {
	case quietVIP:
		return t.Addr(), true
	case silent:
		return t.vip, true
	case clamped:
		return t.vip, true
	}
	return netip.Addr{}, false
}

// vipsOf are the virtual addresses that keys are about, each once.
func vipsOf(keys []string) (vips []netip.Addr) {
	for _, key := range keys {
		if vip, ok := vipOf(key); ok && !slices.Contains(vips, vip) {
			vips = append(vips, vip)
		}
	}
	return vips
}

// sysctl is a kernel setting. Those of a tunnel's interface come and go with it.
type sysctl struct{ name string }

func readSysctl(parts []string) (thing, error) {
	s := sysctl{parts[0]}
	if s.want() == nil {
		return nil, errors.New("nothing this version of poise sets")
	}
	return s, nil
}

func (s sysctl) key() string { return s.name }

func (s sysctl) want() []string {
	switch s.name[strings.LastIndexByte(s.name, '.')+1:] {
	case "arp_ignore":
		// 1 and 2 answer only for addresses of the interface the question came in by, 8 answers for
		// none at all. 3 answers: the VIP has global scope. The kernel takes every other value for 0.
		return []string{"1", "2", "8"}
	case "arp_announce":
		// Else the host asks for its clients' addresses in the VIP's name, and so takes the VIP over
		// in their caches. 1 still does where they share a network; above 2 the kernel takes it for 0.
		return []string{"2"}
	case "rp_filter":
		// What comes out of a tunnel is from clients to whom another interface leads. The larger one of this and all's is in
		// force: 2 allows that whatever all's is.
		return []string{"2"}
	}
	return nil
}

func (s sysctl) get() (string, error) {
	value, err := host.Sysctls{}.Read(s.name)
	if errors.Is(err, fs.ErrNotExist) && strings.Contains(s.name, "."+tunnelPrefix) {
		return absent, nil
	}
	return value, err
}

func (s sysctl) set(value string) error {
	if value == absent {
		return nil // it goes with its interface
	}
	return host.Sysctls{}.Write(s.name, value)
}

// quietVIP is a virtual address on an interface on which nobody asks by ARP: lo, or the end of a tunnel.
type quietVIP struct {
	netip.Prefix
	ifname string
}

func readQuietVIP(parts []string) (thing, error) {
	p, err := netip.ParsePrefix(parts[0])
	return quietVIP{p, parts[1]}, err
}

func (v quietVIP) key() string    { return v.String() + " on " + v.ifname }
func (v quietVIP) want() []string { return []string{present} }

func (v quietVIP) get() (string, error) {
	if exists, err := host.LinkExists(v.ifname); !exists {
		return absent, err
	}
	has, err := host.HasAddr(v.ifname, v.Prefix)
	return presence(has), err
}

func (v quietVIP) set(value string) (err error) {
	if value == present {
		_, err = host.AddAddr(v.ifname, v.Prefix)
	} else {
		_, err = host.DelAddr(v.ifname, v.Prefix)
	}
	return err
}

// quiet tells whether an interface is one where a virtual address may stand.
func quiet(ifname string) bool { return ifname == "lo" || strings.HasPrefix(ifname, tunnelPrefix) }

func presence(is bool) string {
	if is {
		return present
	}
	return absent
}
