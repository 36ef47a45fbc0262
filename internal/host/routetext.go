package host

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// defaultRoute is all that the text says of one default route. Each says it in its one way: equal routes are ==.
type defaultRoute struct {
	ipv6   bool
	via    netip.Addr // the gateway; not valid where the destinations are neighbours
	dev    string
	proto  uint8 // who made it
	scope  uint8
	metric uint32
	src    netip.Addr
	onlink bool // the gateway need not be in a network of the interface's
	mtu    uint32
	advmss uint32
}

// String is what `ip route add default` takes.
func (r defaultRoute) String() string {
	var words []string
	say := func(is bool, more ...string) {
		if is {
			words = append(words, more...)
		}
	}
	say(r.via.IsValid(), "via", r.via.String())
	say(r.dev != "", "dev", r.dev)
	say(r.proto != unix.RTPROT_BOOT, "proto", nameIn(protocols, r.proto))
	say(r.scope != r.usualScope(), "scope", nameIn(scopes, r.scope))
	say(r.metric != 0, "metric", decimal(r.metric))
	say(r.src.IsValid(), "src", r.src.String())
	say(r.onlink, "onlink")
	say(r.mtu != 0, "mtu", decimal(r.mtu))
	say(r.advmss != 0, "advmss", decimal(r.advmss))
	return strings.Join(words, " ")
}

// usualScope is that of a route of which the text says none. IPv6 has no scopes.
func (r defaultRoute) usualScope() uint8 {
	if r.ipv6 || r.via.IsValid() {
		return unix.RT_SCOPE_UNIVERSE
	}
	return unix.RT_SCOPE_LINK
}

// names are those that mean the same whatever is in /etc/iproute2; other numbers stay numbers.
type names []struct {
	number uint8
	name   string
}

var (
	protocols = names{
		{unix.RTPROT_BOOT, "boot"}, // what ip-route(8) says of its own, and the text does not say
		{unix.RTPROT_KERNEL, "kernel"},
		{unix.RTPROT_STATIC, "static"},
		{unix.RTPROT_RA, "ra"},
		{unix.RTPROT_DHCP, "dhcp"},
		{unix.RTPROT_ZEBRA, "zebra"},
		{unix.RTPROT_BIRD, "bird"},
	}
	scopes = names{
		{unix.RT_SCOPE_UNIVERSE, "global"},
		{unix.RT_SCOPE_LINK, "link"},
		{unix.RT_SCOPE_HOST, "host"},
	}
)

func nameIn(known names, number uint8) string {
	for _, n := range known {
		if n.number == number {
			return n.name
		}
	}
	return decimal(uint32(number))
}

func numberIn(known names, word string) (uint8, error) {
	for _, n := range known {
		if n.name == word {
			return n.number, nil
		}
	}
	number, err := parseNumber(word, 0, 255)
	return uint8(number), err
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func parseNumber(word string, least, most uint32) (uint32, error) {
	n, err := strconv.ParseUint(word, 10, 32)
	if err != nil || n < uint64(least) || n > uint64(most) {
		return 0, fmt.Errorf("not a number of %d to %d", least, most)
	}
	return uint32(n), nil
}

// BetweenRoutes stands between two routes in a text. An interface's name may end in a semicolon, but has no blanks.
const BetweenRoutes = "; "

func textOf(routes []defaultRoute) string {
	var texts []string
	for _, r := range routes {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, BetweenRoutes)
}

// maxDefaultRoutes is more than a host can use.
const maxDefaultRoutes = 100

// parseDefaultRoutes reads a text, and sorts the routes. Words may come in any order.
func parseDefaultRoutes(text string, ipv6 bool) ([]defaultRoute, error) {
	if text == "" {
		return nil, nil
	}
	var routes []defaultRoute
	for one := range strings.SplitSeq(text, BetweenRoutes) {
		if len(routes) == maxDefaultRoutes {
			return nil, fmt.Errorf("more than %d default routes", maxDefaultRoutes)
		}
		r, err := parseDefaultRoute(one, ipv6)
		if err != nil {
			return nil, fmt.Errorf("default route %q: %w", one, err)
		}
		if i := slices.IndexFunc(routes, r.excludes); i >= 0 {
			return nil, fmt.Errorf("default route %q: there is %q: the kernel keeps only one of them", one, routes[i])
		}
		if slices.ContainsFunc(routes, r.balances) {
			return nil, fmt.Errorf("default route %q: two gateways of metric %d would be one route that uses both in turn", one, r.metric)
		}
		routes = append(routes, r)
	}
	sortRoutes(routes)
	return routes, nil
}

func sortRoutes(routes []defaultRoute) {
	slices.SortStableFunc(routes, func(a, b defaultRoute) int { return cmp.Compare(a.metric, b.metric) })
}

// excludes tells whether the kernel takes two routes for the same.
func (r defaultRoute) excludes(other defaultRoute) bool {
	if r.ipv6 {
		return r.metric == other.metric && r.dev == other.dev && r.via == other.via
	}
	return r == other
}

// replaces tells whether the kernel puts a route in the place of another one of its metric.
func (r defaultRoute) replaces(other defaultRoute) bool {
	return !r.ipv6 || r.via.IsValid() == other.via.IsValid()
}

// balances tells whether the kernel makes one route with several gateways of two.
func (r defaultRoute) balances(other defaultRoute) bool {
	return r.ipv6 && r.metric == other.metric && r.via.IsValid() && other.via.IsValid()
}

func parseDefaultRoute(text string, ipv6 bool) (defaultRoute, error) {
	r := defaultRoute{ipv6: ipv6, proto: unix.RTPROT_BOOT}
	scope := ""
	said := make(map[string]bool)
	for words := strings.Fields(text); len(words) > 0; {
		key := words[0]
		if said[key] {
			return r, fmt.Errorf("%s stands twice", key)
		}
		said[key] = true
		if key == "onlink" {
			r.onlink, words = true, words[1:]
			continue
		}
		if len(words) < 2 {
			return r, fmt.Errorf("nothing follows %s", key)
		}
		value := words[1]
		words = words[2:]
		var err error
		switch key {
		case "via":
			r.via, err = parseRouteAddr(value, ipv6)
		case "dev":
			r.dev, err = value, checkDevice(value)
		case "proto":
			r.proto, err = numberIn(protocols, value)
		case "scope":
			scope = value
		case "metric":
			r.metric, err = parseNumber(value, 0, 1<<32-1)
		case "src":
			r.src, err = parseRouteAddr(value, ipv6)
		case "mtu":
			r.mtu, err = parseNumber(value, 1, 65535-15) // the kernel makes larger ones these
		case "advmss":
			r.advmss, err = parseNumber(value, 1, 65535-40)
		default:
			return r, fmt.Errorf("no word of a default route's: %s", key)
		}
		if err != nil {
			return r, fmt.Errorf("%s %s: %w", key, value, err)
		}
	}
	return r, r.complete(scope)
}

// complete sets what the text does not say, and what depends on other words.
func (r *defaultRoute) complete(scope string) (err error) {
	switch {
	case r.dev == "":
		return errors.New("it has no dev")
	case r.ipv6 && scope != "":
		return errors.New("IPv6 has no scopes")
	case r.ipv6 && r.proto == unix.RTPROT_UNSPEC:
		return errors.New("proto 0: IPv6 has none such")
	}
	if r.ipv6 && r.metric == 0 {
		r.metric = 1024 // what the kernel makes of none
	}
	r.scope = r.usualScope()
	if scope != "" {
		if r.scope, err = numberIn(scopes, scope); err != nil {
			return fmt.Errorf("scope %s: %w", scope, err)
		}
	}
	return nil
}

func parseRouteAddr(word string, ipv6 bool) (netip.Addr, error) {
	addr, err := netip.ParseAddr(word)
	if err != nil || addr.Is6() != ipv6 || !ofHost(addr) {
		return netip.Addr{}, fmt.Errorf("not an address of %s", familyName(ipv6))
	}
	return addr, nil
}

// checkDevice tells whether a text can have an interface's name in it. The kernel allows nearly everything.
func checkDevice(name string) error {
	odd := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("/:;", r) }
	if len(name) < 1 || len(name) >= unix.IFNAMSIZ || !utf8.ValidString(name) || strings.ContainsFunc(name, odd) {
		return errors.New("not an interface's name without blanks and semicolons")
	}
	return nil
}
