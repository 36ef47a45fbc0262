package vrrp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	addrs := func(list ...string) (all []netip.Addr) {
		for _, a := range list {
			all = append(all, netip.MustParseAddr(a))
		}
		return all
	}
	many := func(first string, n int) (all []netip.Addr) {
		for a := netip.MustParseAddr(first); len(all) < n; a = a.Next() {
			all = append(all, a)
		}
		return all
	}
	v6 := func(c *Config) { c.Addresses = addrs("fe80::10", "2001:db8::10") }
	const (
		host  = "not the address of one host in the network"
		twice = "stands here twice"
	)
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"valid", func(*Config) {}, nil},
		{"valid over IPv6", func(c *Config) {
			v6(c)
			c.Excluded, c.Source, c.Peers = addrs("192.0.2.10"), netip.MustParseAddr("2001:db8::1"), addrs("2001:db8::2")
		}, nil},
		{"valid version 2", func(c *Config) {
			c.Version, c.Interval, c.Password = 2, 255*time.Second, "8 bytes!"
		}, nil},
		{"valid owner", func(c *Config) { c.Priority = 255 }, nil},
		{"valid preemption", func(c *Config) { c.PreemptDelay = time.Minute }, nil},
		{"valid without preemption", func(c *Config) { c.Preempt = false }, nil},
		{"valid checksum of the message", func(c *Config) { c.Checksum, c.Excluded = MessageOnly, addrs("2001:db8::10") }, nil},
		{"nothing is sound", func(c *Config) { *c = Config{Addresses: make([]netip.Addr, 2), Peers: make([]netip.Addr, 2)} }, nil},
		{"all but the version is sound", func(c *Config) { c.Version, c.Interval, c.Password = 0, 15*time.Millisecond, "secret" }, nil},
		{"nothing but peers is sound", func(c *Config) { *c = Config{Peers: addrs("192.0.2.2", "2001:db8::2")} }, nil},

		{"interface with a slash", func(c *Config) { c.Interface = "eth/0" }, []string{"interface: not the name of an interface"}},
		{"interface of 16 letters", func(c *Config) { c.Interface = "sixteen-letters!" }, []string{"interface: not the name of an interface"}},
		{"interface of 15 letters", func(c *Config) { c.Interface = "fifteen-letters" }, nil},
		{"interface ..", func(c *Config) { c.Interface = ".." }, []string{"interface: not the name of an interface"}},

		{"excluded interface", func(c *Config) { c.Excluded, c.ExcludedInterface = addrs("10.0.0.254"), "eth1" }, nil},
		{"excluded interface with a blank", func(c *Config) { c.Excluded, c.ExcludedInterface = addrs("10.0.0.254"), "eth 1" }, []string{"excluded_interface: not the name of an interface"}},
		{"excluded interface for nothing", func(c *Config) { c.ExcludedInterface = "eth1" }, []string{"excluded_interface: has no meaning without excluded_addresses"}},

		{"version 2, part of a second", func(c *Config) { c.Version, c.Interval = 2, 1500*time.Millisecond }, []string{"advert_interval: version 2 counts in whole seconds"}},
		{"version 3, part of 10 ms", func(c *Config) { c.Interval = 15 * time.Millisecond }, []string{"advert_interval: not in steps of 10ms"}},
		{"version 3, longest", func(c *Config) { c.Interval = 40950 * time.Millisecond }, nil},
		{"version 3, too long", func(c *Config) { c.Interval = 40960 * time.Millisecond }, []string{"advert_interval: version 3 has at most 40.95s"}},
		{"version 2 over IPv6", func(c *Config) { v6(c); c.Version = 2 }, []string{"version: version 2 is for IPv4 only"}},

		{"no addresses", func(c *Config) { c.Addresses = []netip.Addr{} }, []string{"addresses: at least one is required"}},
		{"two families", func(c *Config) { c.Addresses = addrs("192.0.2.10", "2001:db8::10") }, []string{"addresses[1]: the first address is IPv4, and adverts carry one family: others can be excluded_addresses"}},
		{"not of one host", func(c *Config) {
			c.Addresses = addrs("0.0.0.0", "127.0.0.1", "224.0.0.18", "255.255.255.255")
		}, []string{"addresses[0]: " + host, "addresses[1]: " + host, "addresses[2]: " + host, "addresses[3]: " + host}},
		{"not of one host, IPv6", func(c *Config) { c.Excluded = addrs("::", "::1", "ff02::12") }, []string{"excluded_addresses[0]: " + host, "excluded_addresses[1]: " + host, "excluded_addresses[2]: " + host}},
		{"IPv4 as IPv6", func(c *Config) { c.Excluded = addrs("::ffff:192.0.2.11") }, []string{"excluded_addresses[0]: IPv4 in the form of IPv6"}},
		{"zone", func(c *Config) { c.Addresses = addrs("fe80::10%eth0") }, []string{`addresses[0]: an interface (%) does not belong to the address`}},
		{"twice", func(c *Config) { c.Addresses = addrs("192.0.2.10", "192.0.2.11", "192.0.2.10") }, []string{"addresses[2]: " + twice}},
		{"excluded and advertised", func(c *Config) { c.Excluded = addrs("192.0.2.10") }, []string{"excluded_addresses[0]: already a virtual address of this router"}},
		{"excluded twice", func(c *Config) { c.Excluded = addrs("192.0.2.11", "192.0.2.11") }, []string{"excluded_addresses[1]: already a virtual address of this router"}},
		{"255 of IPv4", func(c *Config) { c.Addresses = many("192.0.2.1", 255) }, nil},
		{"256 of IPv4", func(c *Config) { c.Addresses = many("192.0.2.1", 256) }, []string{"addresses: 256 are more than the 255 that fit an advert over IPv4: others can be excluded_addresses"}},
		{"89 of IPv6", func(c *Config) { c.Addresses = many("2001:db8::1", 89) }, nil},
		{"90 of IPv6", func(c *Config) { c.Addresses = many("2001:db8::1", 90) }, []string{"addresses: 90 are more than the 89 that fit an advert over IPv6: others can be excluded_addresses"}},
		{"300 excluded", func(c *Config) { c.Excluded = many("198.51.100.1", 300) }, nil},

		{"source of the other family", func(c *Config) { c.Source = netip.MustParseAddr("2001:db8::1") }, []string{"source: adverts go over IPv4, as the addresses are"}},
		{"virtual source", func(c *Config) { c.Source = netip.MustParseAddr("192.0.2.10") }, []string{"source: a virtual address, which is not always on the same node"}},
		{"source of many hosts", func(c *Config) { c.Source = netip.MustParseAddr("224.0.0.18") }, []string{"source: " + host}},
		{"peer of the other family", func(c *Config) { v6(c); c.Source, c.Peers = netip.MustParseAddr("2001:db8::1"), addrs("192.0.2.2") }, []string{"peers[0]: adverts go over IPv6, as the addresses are"}},
		{"virtual peer", func(c *Config) {
			c.Excluded, c.Peers = addrs("192.0.2.11"), addrs("192.0.2.2", "192.0.2.10", "192.0.2.11")
		}, []string{
			"peers[1]: a virtual address, which is not always on the same node", "peers[2]: a virtual address, which is not always on the same node",
		}},
		{"peer of many hosts", func(c *Config) { c.Peers = addrs("224.0.0.18") }, []string{"peers[0]: " + host}},
		{"peer is this node", func(c *Config) { c.Source, c.Peers = netip.MustParseAddr("192.0.2.1"), addrs("192.0.2.2", "192.0.2.1") }, []string{"peers[1]: this node itself, by its source"}},
		{"peer twice", func(c *Config) { c.Peers = addrs("192.0.2.2", "192.0.2.2") }, []string{"peers[1]: " + twice}},
		{"peers over IPv6 without source", func(c *Config) { v6(c); c.Peers = addrs("2001:db8::2") }, []string{"source: required with peers over IPv6"}},

		{"delay without preemption", func(c *Config) { c.Preempt, c.PreemptDelay = false, time.Second }, []string{"preempt: leaves nothing for preempt_delay to delay"}},
		{"owner without preemption", func(c *Config) { c.Preempt, c.Priority = false, 255 }, []string{"preempt: the owner of the addresses (priority = 255) always takes over"}},
		{"owner with delay", func(c *Config) { c.PreemptDelay, c.Priority = time.Second, 255 }, []string{"preempt_delay: the owner of the addresses (priority = 255) does not wait"}},

		{"password in version 3", func(c *Config) { c.Password = "secret" }, []string{"password: has no meaning with version = 3"}},
		{"password of 9 bytes", func(c *Config) { c.Version, c.Password = 2, "9 bytes.." }, []string{"password: longer than 8 bytes"}},
		{"password of 8 letters and 9 bytes", func(c *Config) { c.Version, c.Password = 2, "pässword" }, []string{"password: longer than 8 bytes"}},
		{"password beyond ASCII", func(c *Config) { c.Version, c.Password = 2, "päss" }, []string{"password: holds a character that is not printable ASCII"}},
		{"password with a tab", func(c *Config) { c.Version, c.Password = 2, "a\tb" }, []string{"password: holds a character that is not printable ASCII"}},
		{"checksum in version 2", func(c *Config) { c.Version, c.Checksum = 2, MessageOnly }, []string{"checksum: has a meaning only with version 3 over IPv4"}},
		{"checksum over IPv6", func(c *Config) { v6(c); c.Checksum = MessageOnly }, []string{"checksum: has a meaning only with version 3 over IPv4"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := Config{
				Name: "public", Interface: "eth0", VRID: 51, Version: 3, Priority: 100, Interval: time.Second,
				Addresses: addrs("192.0.2.10"), Preempt: true, Checksum: PseudoHeader,
			}
			tc.change(&c)
			var got []string
			c.Validate(func(key, rule string) { got = append(got, key+": "+rule) })
			if !slices.Equal(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

func TestInterfaceOf(t *testing.T) {
	public, inside := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("10.0.0.254")
	c := Config{Interface: "eth0", Addresses: []netip.Addr{public}, Excluded: []netip.Addr{inside}}
	if c.InterfaceOf(public) != "eth0" || c.InterfaceOf(inside) != "eth0" || !slices.Equal(c.Interfaces(), []string{"eth0"}) {
		t.Errorf("by default: %s, %s, %v", c.InterfaceOf(public), c.InterfaceOf(inside), c.Interfaces())
	}
	c.ExcludedInterface = "eth1"
	if c.InterfaceOf(public) != "eth0" || c.InterfaceOf(inside) != "eth1" || !slices.Equal(c.Interfaces(), []string{"eth0", "eth1"}) {
		t.Errorf("with another: %s, %s, %v", c.InterfaceOf(public), c.InterfaceOf(inside), c.Interfaces())
	}
	other := c
	other.ExcludedInterface = "eth2"
	if c.SameRouter(other) {
		t.Error("addresses elsewhere do not make another router")
	}
}
