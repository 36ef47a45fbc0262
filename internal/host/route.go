package host

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// DefaultRoutes returns the default routes of a table, 0 for main, as one text from which [SetDefaultRoutes] can make
// them again, "" for none. They are sorted by metric, those of one metric as the kernel tries them:
//
//	via 10.0.0.1 dev eth0 proto dhcp metric 100 src 10.0.0.5; dev ppp0 metric 200 mtu 1400
//
// The words are those of ip-route(8). A default route that they cannot say is an [OddRouteError].
func DefaultRoutes(table int, ipv6 bool) (string, error) {
	routes, err := readDefaultRoutes(table, ipv6)
	if err != nil {
		return "", fmt.Errorf("default routes of %s: %w", tableName(table, ipv6), err)
	}
	return textOf(routes), nil
}

// SetDefaultRoutes makes the default routes of a table, 0 for main, those of a text as [DefaultRoutes] returns. It
// leaves alone what is right already. What comes new is there before the old goes, where both can be, so that there is
// always a route. Present default routes that DefaultRoutes cannot say are an error, and stay.
func SetDefaultRoutes(table int, ipv6 bool, text string) error {
	want, err := parseDefaultRoutes(text, ipv6)
	if err == nil {
		err = setDefaultRoutes(table, ipv6, want)
	}
	if err != nil {
		return fmt.Errorf("set default routes of %s: %w", tableName(table, ipv6), err)
	}
	return nil
}

// OddRouteError is about a default route that could not be made again from a text.
type OddRouteError struct {
	route string
	has   []string // what no text says
}

func (e *OddRouteError) Error() string {
	return fmt.Sprintf("%q has %s, and could not be made again", e.route, strings.Join(e.has, ", "))
}

func setDefaultRoutes(table int, ipv6 bool, want []defaultRoute) error {
	// Deleting takes the first route that has all that is said, and it may have more: an MTU, or for IPv6 a gateway. What
	// went instead, and what others change just then, another round puts right.
	for round := 0; ; round++ {
		have, err := readDefaultRoutes(table, ipv6)
		if err != nil {
			return err
		}
		if slices.Equal(have, want) {
			return nil
		}
		if round == 3 {
			return fmt.Errorf("they are %q again", textOf(have))
		}
		for _, s := range routeSteps(have, want) {
			if err := s.do(table); err != nil {
				return fmt.Errorf("%v: %w", s, err)
			}
		}
	}
}

// routeStep is one change to the default routes.
type routeStep struct {
	verb  string
	route defaultRoute
}

// The verbs.
const (
	appendRoute  = "append"  // behind those of the same metric
	replaceRoute = "replace" // the one of the same metric
	deleteRoute  = "delete"
)

func (s routeStep) String() string { return s.verb + " " + s.route.String() }

// routeSteps lead from some routes to others. Both are sorted.
func routeSteps(have, want []defaultRoute) []routeStep {
	var steps, last []routeStep
	for _, metric := range metricsOf(have, want) {
		old, fresh := withMetric(have, metric), withMetric(want, metric)
		if len(old) == 1 && len(fresh) == 1 && fresh[0].replaces(old[0]) {
			if old[0] != fresh[0] {
				steps = append(steps, routeStep{replaceRoute, fresh[0]})
			}
			continue
		}
		// The kernel puts a route behind the others: those can stay that are the first ones wanted.
		old = slices.DeleteFunc(old, func(r defaultRoute) bool {
			stays := len(fresh) > 0 && r == fresh[0]
			if stays {
				fresh = fresh[1:]
			}
			return stays
		})
		for _, r := range fresh {
			if i := slices.IndexFunc(old, r.excludes); i >= 0 { // or r itself, which stands too far in front
				steps = append(steps, routeStep{deleteRoute, old[i]})
				old = slices.Delete(old, i, i+1)
			}
			steps = append(steps, routeStep{appendRoute, r})
		}
		for _, r := range old {
			last = append(last, routeStep{deleteRoute, r})
		}
	}
	return append(steps, last...)
}

func metricsOf(have, want []defaultRoute) []uint32 {
	var metrics []uint32
	for _, r := range slices.Concat(have, want) {
		metrics = append(metrics, r.metric)
	}
	slices.Sort(metrics)
	return slices.Compact(metrics)
}

func withMetric(routes []defaultRoute, metric uint32) []defaultRoute {
	return slices.DeleteFunc(slices.Clone(routes), func(r defaultRoute) bool { return r.metric != metric })
}

// do makes the change, or finds it made.
func (s routeStep) do(table int) error {
	message, err := s.route.message(table)
	if err != nil {
		return err
	}
	switch s.verb {
	case appendRoute:
		err = send(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, message)
	case replaceRoute:
		err = send(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, message)
	case deleteRoute:
		err = send(unix.RTM_DELROUTE, 0, message)
	}
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// message is what the kernel is sent to make or delete a route: exactly this one.
func (r defaultRoute) message(table int) ([]byte, error) {
	link, err := linkByName(r.dev)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", r.dev, err)
	}
	header := nl.RtMsg{RtMsg: unix.RtMsg{
		Family:   uint8(familyOf(r.ipv6)),
		Type:     unix.RTN_UNICAST,
		Protocol: r.proto,
		Scope:    r.scope,
	}}
	if r.onlink {
		header.Flags = unix.RTNH_F_ONLINK
	}
	attrs := []*nl.RtAttr{
		nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(tableNumber(table))),
		nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(link.Attrs().Index))),
		nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(r.metric)),
	}
	if r.via.IsValid() {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_GATEWAY, r.via.AsSlice()))
	}
	if r.src.IsValid() {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_PREFSRC, r.src.AsSlice()))
	}
	metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
	if r.mtu != 0 {
		metrics.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(r.mtu))
	}
	if r.advmss != 0 {
		metrics.AddRtAttr(unix.RTAX_ADVMSS, nl.Uint32Attr(r.advmss))
	}
	message := header.Serialize()
	for _, a := range append(attrs, metrics) {
		message = append(message, a.Serialize()...)
	}
	return message, nil
}

// readDefaultRoutes reads messages for itself: the library's functions drop what they do not know of a route, and so
// would make another one of it.
func readDefaultRoutes(table int, ipv6 bool) ([]defaultRoute, error) {
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(ipv6))}}
	messages, err := dump(unix.RTM_GETROUTE, header, unix.RTM_NEWROUTE)
	if err != nil {
		return nil, err
	}
	var routes []defaultRoute
	for _, m := range messages {
		if nl.DeserializeRtMsg(m).Dst_len != 0 { // nearly all, where there are many
			continue
		}
		r, err := parseRoute(m)
		if err != nil {
			return nil, err
		}
		if r.table != tableNumber(table) {
			continue
		}
		if r.link != 0 { // one with several gateways has several
			if r.dev, err = deviceName(r.link); err != nil {
				return nil, err
			}
		}
		if len(r.more) > 0 {
			return nil, &OddRouteError{fmt.Sprintf("default %v", r.defaultRoute), r.more}
		}
		routes = append(routes, r.defaultRoute)
	}
	sortRoutes(routes)
	return routes, nil
}

// route is what the kernel tells of one to any destination.
type route struct {
	defaultRoute
	table uint32
	link  int
	more  []string // what the text cannot say
}

func parseRoute(message []byte) (route, error) {
	header := nl.DeserializeRtMsg(message)
	attrs, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return route{}, err
	}
	r := route{defaultRoute: defaultRoute{ipv6: header.Family == unix.AF_INET6, proto: header.Protocol, scope: header.Scope}}
	r.onlink = header.Flags&unix.RTNH_F_ONLINK != 0
	r.cannotSay(header.Type != unix.RTN_UNICAST, "type "+nameOr(typeNames, int(header.Type), "type"))
	r.cannotSay(header.Tos != 0, fmt.Sprintf("tos %d", header.Tos))
	r.cannotSay(header.Src_len != 0, "from")
	r.cannotSay(header.Flags&unix.RTNH_F_PERVASIVE != 0, "pervasive")
	for _, a := range attrs {
		if err := r.parseAttr(a.Attr.Type&nl.NLA_TYPE_MASK, a.Value); err != nil {
			return route{}, err
		}
	}
	return r, nil
}

func (r *route) cannotSay(is bool, what string) {
	if is {
		r.more = append(r.more, what)
	}
}

// What x/sys lacks of linux/rtnetlink.h.
const rtaNextHopID = 30

func (r *route) parseAttr(kind uint16, value []byte) error {
	switch kind {
	case unix.RTA_TABLE:
		r.table = binary.NativeEndian.Uint32(value)
	case unix.RTA_OIF:
		r.link = int(binary.NativeEndian.Uint32(value))
	case unix.RTA_GATEWAY:
		r.via, _ = netip.AddrFromSlice(value)
	case unix.RTA_PRIORITY:
		r.metric = binary.NativeEndian.Uint32(value)
	case unix.RTA_PREFSRC:
		r.src, _ = netip.AddrFromSlice(value)
	case unix.RTA_METRICS:
		return r.parseMetrics(value)
	case unix.RTA_CACHEINFO: // of IPv6
		const expires = 8 // struct rta_cacheinfo
		r.cannotSay(binary.NativeEndian.Uint32(value[expires:]) != 0, "an end (of a router's advertisement)")
	case unix.RTA_PREF: // RFC 4191: 0 is medium
		r.cannotSay(value[0] != 0, "pref")
	case unix.RTA_SRC, unix.RTA_PAD: // RTA_SRC: its length is not 0
	case unix.RTA_ENCAP_TYPE: // RTA_ENCAP comes with it
	default:
		r.cannotSay(true, nameOr(attrNames, int(kind), "attribute"))
	}
	return nil
}

func (r *route) parseMetrics(value []byte) error {
	attrs, err := nl.ParseRouteAttr(value)
	if err != nil {
		return err
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTAX_MTU:
			r.mtu = binary.NativeEndian.Uint32(a.Value)
		case unix.RTAX_ADVMSS:
			r.advmss = binary.NativeEndian.Uint32(a.Value)
		default:
			r.cannotSay(true, nameOr(metricNames, int(a.Attr.Type), "metric"))
		}
	}
	return nil
}

// What an operator reads of a route that cannot be said, as ip-route(8) has it.
var (
	typeNames = map[int]string{
		unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast",
		unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
	}
	attrNames = map[int]string{
		unix.RTA_MULTIPATH: "several gateways", unix.RTA_ENCAP: "encap", unix.RTA_VIA: "a gateway of the other family",
		unix.RTA_FLOW: "realm", rtaNextHopID: "nhid",
	}
	metricNames = map[int]string{
		unix.RTAX_LOCK: "lock", unix.RTAX_WINDOW: "window", unix.RTAX_RTT: "rtt", unix.RTAX_RTTVAR: "rttvar",
		unix.RTAX_SSTHRESH: "ssthresh", unix.RTAX_CWND: "cwnd", unix.RTAX_REORDERING: "reordering",
		unix.RTAX_HOPLIMIT: "hoplimit", unix.RTAX_INITCWND: "initcwnd", unix.RTAX_FEATURES: "features",
		unix.RTAX_RTO_MIN: "rto_min", unix.RTAX_INITRWND: "initrwnd", unix.RTAX_QUICKACK: "quickack",
		unix.RTAX_CC_ALGO: "congctl", unix.RTAX_FASTOPEN_NO_COOKIE: "fastopen_no_cookie",
	}
)

func nameOr(names map[int]string, number int, kind string) string {
	if name, known := names[number]; known {
		return name
	}
	return fmt.Sprintf("%s %d", kind, number)
}

// deviceName is an interface's name if a text can have it in it.
func deviceName(index int) (string, error) {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("interface %d: %w", index, err)
	}
	name := link.Attrs().Name
	if err := checkDevice(name); err != nil {
		return "", fmt.Errorf("dev %s: %w", name, err)
	}
	return name, nil
}

// tableNumber is a routing table's, of which 0 is the main one.
func tableNumber(table int) uint32 { return uint32(cmp.Or(table, unix.RT_TABLE_MAIN)) }

func tableName(table int, ipv6 bool) string {
	number := tableNumber(table)
	if number == unix.RT_TABLE_MAIN {
		return familyName(ipv6) + " table main"
	}
	return fmt.Sprintf("%s table %d", familyName(ipv6), number)
}
