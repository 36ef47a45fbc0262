package status

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"poise/checker"
	"poise/ipvsctl"
	"poise/vrrp"
)

// Metric is one of poise's metrics, as docs/metrics.md lists them.
type Metric struct {
	Name   string
	Kind   string // gauge, counter or histogram
	Labels []string
	Help   string
}

var (
	byRouter  = []string{"router"}
	byService = []string{"service"}
	byServer  = []string{"service", "server"}
)

// The metrics, in the order of the documentation.
var (
	up           = Metric{"poise_up", "gauge", nil, "0 when the balancer does not answer and the numbers of services are its last words; else 1, and 1 without services."}
	electorUp    = Metric{"poise_elector_up", "gauge", nil, "0 when the elector does not answer and the numbers of routers are its last words; else 1. Absent without routers."}
	buildInfo    = Metric{"poise_build_info", "gauge", []string{"version", "goversion"}, "Always 1; the labels say which build runs."}
	configEpoch  = Metric{"poise_config_epoch", "gauge", nil, "Configurations taken since the start: 1, and one more after each reload that was not rejected."}
	configBad    = Metric{"poise_config_rejected", "gauge", nil, "1 when the last reload was rejected and the older configuration is still in force."}
	reelected    = Metric{"poise_elector_restarts_total", "counter", nil, "Times the elector process died and was started again."}
	restarts     = Metric{"poise_balancer_restarts_total", "counter", nil, "Times the balancer process died and was started again."}
	serviceHeld  = Metric{"poise_service_held", "gauge", byService, "1 while an operator wants the service's entries in the kernel left alone."}
	serviceUp    = Metric{"poise_service_up", "gauge", byService, "1 while the usable servers of the service meet its quorum."}
	serverUp     = Metric{"poise_server_up", "gauge", byServer, "1 while the server counts as up. A server without checks always does."}
	serverWeight = Metric{"poise_server_weight", "gauge", byServer, "Weight of the server in the kernel; 0 when it takes no new connections or is not there."}
	duration     = Metric{"poise_check_duration_seconds", "histogram", byService, "How long the checks of the service took."}
	checks       = Metric{"poise_checks_total", "counter", []string{"service", "server", "result"}, "Checks of the server by result: ok, failed, or self when a fault of this host kept them from saying anything."}
	writes       = Metric{"poise_ipvs_writes_total", "counter", []string{"result"}, "Changes of the kernel's IPVS table by result: ok or refused."}
	drift        = Metric{"poise_drift_total", "counter", nil, "Entries and settings that somebody else had changed and poise put back."}
	foreign      = Metric{"poise_foreign_entries", "gauge", nil, "Services, and servers in our services, that somebody else has put into the kernel's table. They are left alone and not checked."}

	routerState       = Metric{"poise_router_state", "gauge", []string{"router", "state"}, "1 for the state that this node is in, of init, backup, master and fault; 0 for the others."}
	routerPriority    = Metric{"poise_router_priority", "gauge", byRouter, "Priority of this node in the router."}
	routerTransitions = Metric{"poise_router_transitions_total", "counter", byRouter, "Changes of the state."}
	advertsSent       = Metric{"poise_router_adverts_sent_total", "counter", byRouter, "Adverts that this node has sent."}
	advertsReceived   = Metric{"poise_router_adverts_received_total", "counter", byRouter, "Adverts of other nodes that counted."}
	advertsDropped    = Metric{"poise_router_adverts_dropped_total", "counter", []string{"router", "reason"}, dropReasons()}
	lateness          = Metric{"poise_router_advert_lateness_seconds", "histogram", byRouter, "How long after their time this node's adverts left. Three intervals late, and another node takes over."}

	serviceCounters = counterMetrics("poise_service", byService, "the service")
	serverCounters  = counterMetrics("poise_server", byServer, "the server")
	serverActive    = Metric{"poise_server_active_connections", "gauge", byServer, "Connections of the server that are established or being set up."}
	serverInactive  = Metric{"poise_server_inactive_connections", "gauge", byServer, "Connections of the server in any other state."}
)

func dropReasons() string {
	var reasons []string
	for _, r := range vrrp.Reasons() {
		reasons = append(reasons, string(r))
	}
	return "Packets that counted for nothing, by reason: " + strings.Join(reasons, ", ") + "."
}

// Metrics lists all of them.
func Metrics() []Metric {
	all := []Metric{
		up, buildInfo, configEpoch, configBad, electorUp, reelected, restarts,
		routerState, routerPriority, routerTransitions, advertsSent, advertsReceived, advertsDropped, lateness,
		serviceUp, serviceHeld, serverUp, serverWeight, duration, checks, writes, drift, foreign,
	}
	all = append(all, serviceCounters[:]...)
	all = append(all, serverCounters[:]...)
	return append(all, serverActive, serverInactive)
}

// counterMetrics are the kernel's five counters of a thing, in the order that counted returns them.
func counterMetrics(prefix string, labels []string, thing string) [5]Metric {
	kernel := " of " + thing + ", as the kernel counts them (up to 2 s late)."
	return [5]Metric{
		{prefix + "_connections_total", "counter", labels, "Connections" + kernel},
		{prefix + "_in_packets_total", "counter", labels, "Packets from clients" + kernel},
		{prefix + "_out_packets_total", "counter", labels, "Packets to clients" + kernel + " With dr and tun replies do not pass the director."},
		{prefix + "_in_bytes_total", "counter", labels, "Bytes from clients" + kernel},
		{prefix + "_out_bytes_total", "counter", labels, "Bytes to clients" + kernel + " With dr and tun replies do not pass the director."},
	}
}

func counted(c ipvsctl.Counters) [5]uint64 {
	return [5]uint64{c.Connections, c.InPackets, c.OutPackets, c.InBytes, c.OutBytes}
}

// scrapeTimeout bounds the wait for the balancer: Prometheus gives up after 10 s by default.
const scrapeTimeout = 8 * time.Second

// MetricsHandler serves what snapshot returns, read afresh at each scrape, so that metrics cannot
// tell anything but what "poise status" tells.
func MetricsHandler(snapshot func(context.Context) *Snapshot) http.Handler {
	registry := prometheus.NewRegistry() // cannot clash: it holds one collector
	registry.MustRegister(&collector{snapshot, descriptions()})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

type collector struct {
	snapshot func(context.Context) *Snapshot
	descs    map[string]*prometheus.Desc
}

func descriptions() map[string]*prometheus.Desc {
	descs := make(map[string]*prometheus.Desc)
	for _, m := range Metrics() {
		descs[m.Name] = prometheus.NewDesc(m.Name, m.Help, m.Labels, nil)
	}
	return descs
}

// Describe tells the registry which metrics there are.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		descs <- d
	}
}

// Collect turns one snapshot into metrics.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	put := func(m Metric, value float64, labels ...string) {
		kind := prometheus.GaugeValue
		if m.Kind == "counter" {
			kind = prometheus.CounterValue
		}
		metrics <- prometheus.MustNewConstMetric(c.descs[m.Name], kind, value, labels...)
	}
	s := c.snapshot(ctx)
	histogram := func(m Metric, h Histogram, labels ...string) {
		buckets := make(map[float64]uint64)
		for i, n := range h.Buckets {
			buckets[DurationBuckets[i]] = n
		}
		metrics <- prometheus.MustNewConstHistogram(c.descs[m.Name], h.Count, h.Seconds, buckets, labels...)
	}
	put(up, oneIf(!s.Balancer.Stale || s.Balancer.none()))
	if !s.Elector.none() {
		put(electorUp, oneIf(!s.Elector.Stale))
	}
	put(reelected, float64(s.Elector.Restarts))
	put(buildInfo, 1, s.Version, runtime.Version())
	put(configEpoch, float64(s.Config.Epoch))
	put(configBad, oneIf(s.Config.Rejected != ""))
	put(restarts, float64(s.Balancer.Restarts))
	put(writes, float64(s.Totals.Writes), "ok")
	put(writes, float64(s.Totals.WriteErrors), "refused")
	put(drift, float64(s.Totals.Drift))
	for _, router := range s.Routers {
		for _, state := range []vrrp.State{vrrp.Init, vrrp.Backup, vrrp.Master, vrrp.Fault} {
			put(routerState, oneIf(router.State == state), router.Name, state.String())
		}
		put(routerPriority, float64(router.Priority), router.Name)
		put(routerTransitions, float64(router.Transitions), router.Name)
		put(advertsSent, float64(router.Sent), router.Name)
		put(advertsReceived, float64(router.Received), router.Name)
		for _, reason := range vrrp.Reasons() {
			put(advertsDropped, float64(router.Dropped[reason]), router.Name, string(reason))
		}
		histogram(lateness, router.Lateness, router.Name)
	}
	strangers := len(s.ForeignServices)
	for _, service := range s.Services {
		strangers += len(service.ForeignServers)
		put(serviceUp, oneIf(service.Up), service.Name)
		put(serviceHeld, oneIf(service.Hold != nil), service.Name)
		for i, n := range counted(service.Counters) {
			put(serviceCounters[i], float64(n), service.Name)
		}
		if service.Checked {
			histogram(duration, service.Checks, service.Name)
		}
		for _, server := range service.Servers {
			addr := server.Addr.String()
			put(serverUp, oneIf(server.State == checker.Up || !service.Checked), service.Name, addr)
			put(serverWeight, float64(server.Weight), service.Name, addr)
			put(serverActive, float64(server.Active), service.Name, addr)
			put(serverInactive, float64(server.Inactive), service.Name, addr)
			for i, n := range counted(server.Counters) {
				put(serverCounters[i], float64(n), service.Name, addr)
			}
			if service.Checked {
				put(checks, float64(server.OK), service.Name, addr, "ok")
				put(checks, float64(server.Failed), service.Name, addr, "failed")
				put(checks, float64(server.Self), service.Name, addr, "self")
			}
		}
	}
	put(foreign, float64(strangers))
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
