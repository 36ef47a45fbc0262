// Package status is what is true now, as one value, and the views of it: metrics, JSON and text.
//
//	balancer ── Snapshot ──▶ Metrics (Prometheus)
//	                     ──▶ JSON    (GET /v1/status, poise status --json)
//	                     ──▶ Text    (poise status)
package status

import (
	"net/netip"
	"time"

	"poise/checker"
	"poise/ipvsctl"
	"poise/vrrp"
)

// Snapshot is the state of one director at one moment.
type Snapshot struct {
	Time     time.Time `json:"time"`
	Node     string    `json:"node"`
	Version  string    `json:"version"`
	Config   Config    `json:"config"`
	Elector  Elector   `json:"elector,omitzero"`  // without PID and problem while there are no routers
	Balancer Balancer  `json:"balancer,omitzero"` // without PID and problem while there are no services
	Routers  []Router  `json:"routers,omitempty"`
	Services []Service `json:"services"`
	Sysctls  []Sysctl  `json:"sysctls"`
	// OwnFault is why checks said nothing about their servers in the last minute; empty when they did.
	OwnFault string `json:"own_fault,omitempty"`
	// Dormant are intents about servers that are not in the configuration just now.
	Dormant []Dormant `json:"dormant,omitempty"`
	// Sync are the synchronisation daemons that should run; SyncProblem is why they do not.
	Sync        []string `json:"sync,omitempty"`
	SyncProblem string   `json:"sync_problem,omitempty"`
	// NFTProblem is why the packets' marks and sources are not as wanted.
	NFTProblem string `json:"nft_problem,omitempty"`
	// ForeignServices are in the kernel but neither in the configuration nor ever poise's: they are left alone.
	ForeignServices []ipvsctl.ServiceKey `json:"foreign_services,omitempty"`
	Totals          Totals               `json:"totals"`
}

// Config says which configuration is in force.
type Config struct {
	File   string    `json:"file"`
	Epoch  uint64    `json:"epoch"` // 1 at start, one more after each reload that was taken
	Loaded time.Time `json:"loaded"`
	// Rejected is why the last reload was not taken; empty when it was.
	Rejected string `json:"rejected,omitempty"`
}

// Elector is the process that stands for election and has the virtual addresses.
type Elector struct {
	PID      int    `json:"pid"`
	Restarts uint64 `json:"restarts"`
	// Spare is the process that takes the elector's place should it die; 0 while there is none, then a new one is started.
	Spare int `json:"spare"`
	// Stale says that what is told of the routers is the elector's last word, of the time Heard.
	Stale bool      `json:"stale"`
	Heard time.Time `json:"heard,omitzero"`
	// Problem is what is the matter with the elector; empty when nothing is.
	Problem string `json:"problem,omitempty"`
	// NoRealtime is why the elector competes with other processes for the processor; empty when it has precedence.
	NoRealtime string `json:"no_realtime,omitempty"`
}

// none reports whether there is no elector, and should be none.
func (e Elector) none() bool { return e.PID == 0 && e.Problem == "" }

// Balancer is the process that checks servers and programs the kernel.
type Balancer struct {
	PID      int    `json:"pid"`
	Restarts uint64 `json:"restarts"`
	// Stale says that there is no fresh snapshot from the balancer and this is its last. The kernel
	// forwards with the table it has.
	Stale bool `json:"stale"`
	// Problem is what is the matter with the balancer; empty when nothing is.
	Problem string `json:"problem,omitempty"`
}

// none reports whether there is no balancer, and should be none.
func (b Balancer) none() bool { return b.PID == 0 && b.Problem == "" }

// Router is this node's part in one virtual router. Its counters start with the elector.
type Router struct {
	Name      string     `json:"name"`
	Interface string     `json:"interface"`
	VRID      uint8      `json:"vrid"`
	Version   int        `json:"version"`
	State     vrrp.State `json:"state"`
	Since     time.Time  `json:"since,omitzero"` // when State was reached
	Why       string     `json:"why"`            // what led to State: "no advert from 192.0.2.2 for 3.609s"
	Priority  uint8      `json:"priority"`       // 1 to 255, as this node advertises it
	// Addresses are the virtual ones that are advertised, Excluded the others. Serving says that this host has them all.
	Addresses         []netip.Addr `json:"addresses"`
	Excluded          []netip.Addr `json:"excluded_addresses,omitempty"`
	ExcludedInterface string       `json:"excluded_interface,omitempty"` // that has the excluded ones, where it is another
	Serving           bool         `json:"serving"`
	Source            netip.Addr   `json:"source,omitzero"` // of this node's adverts; zero when there is none
	// Master is the node whose advert was heard last, zero when none was; Speakers says when.
	Master         netip.Addr `json:"master,omitzero"`
	MasterPriority uint8      `json:"master_priority,omitempty"`
	// Waiting is what the router waits for before it stands for election: "for the first table"; empty when it does not.
	Waiting string `json:"waiting,omitempty"`
	// Hold is an operator's wish that this node does not serve.
	Hold *Hold `json:"hold,omitempty"`
	// Faults are the reasons why the router cannot stand for election; empty when it can.
	Faults string `json:"faults,omitempty"`
	// Speakers are the other nodes heard with this VRID.
	Speakers    []Speaker              `json:"speakers,omitempty"`
	Sent        uint64                 `json:"adverts_sent"`
	Received    uint64                 `json:"adverts_received"`          // that counted
	Dropped     map[vrrp.Reason]uint64 `json:"adverts_dropped,omitempty"` // that did not
	Transitions uint64                 `json:"transitions"`               // changes of State
	// Lateness is how long after their time this node's adverts left.
	Lateness Histogram `json:"lateness,omitzero"`
}

// Hold is an operator's wish that a node does not serve a router's addresses once another can, or that a service's
// entries in the kernel are left alone.
type Hold struct {
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by"` // the user who asked
	At     time.Time `json:"at"`
}

// Speaker is another node that was heard with a router's VRID.
type Speaker struct {
	Addr      netip.Addr    `json:"addr"`
	Priority  uint8         `json:"priority"`
	Interval  time.Duration `json:"interval_ns"` // between its adverts, as they say
	LastHeard time.Time     `json:"last_heard"`
	// Problem is what is wrong with its adverts: "advertises other addresses: 192.0.2.99"; empty when nothing is.
	Problem string `json:"problem,omitempty"`
}

// Dormant is an intent that waits for its server to come back into the configuration.
type Dormant struct {
	checker.Key
	Intent
}

// Service is one virtual service.
type Service struct {
	Name      string             `json:"name"`
	Key       ipvsctl.ServiceKey `json:"key"`
	Listen    []string           `json:"listen,omitempty"` // what clients use, where the key is a mark that poise sets
	Scheduler string             `json:"scheduler"`
	Forward   string             `json:"forward"`
	NoVIP     []netip.Addr       `json:"no_vip,omitempty"` // addresses of the service that are not this host's
	Up        bool               `json:"up"`               // the quorum is met
	Why       string             `json:"why"`              // the sum of weights and the states behind Up
	Quorum    int                `json:"quorum"`
	Weight    int                `json:"weight"` // sum over the servers that count towards the quorum
	// Hold is an operator's wish that the service is left alone; Withheld is what would be changed without it.
	Hold     *Hold    `json:"hold,omitempty"`
	Withheld []string `json:"withheld,omitempty"`
	// Sorry is the sorry server, zero without one; it takes traffic while SorryActive.
	Sorry       netip.AddrPort `json:"sorry,omitzero"`
	SorryActive bool           `json:"sorry_active,omitempty"`
	// Problem is the kernel's answer when it refused this service or one of its servers.
	Problem  string           `json:"problem,omitempty"`
	Counters ipvsctl.Counters `json:"counters"`
	Checked  bool             `json:"checked"` // the service has a check; without one its servers always count as up
	Checks   Checks           `json:"checks,omitzero"`
	Servers  []Server         `json:"servers"`
	// ForeignServers were added to the service by somebody else: they are left alone.
	ForeignServers []netip.AddrPort `json:"foreign_servers,omitempty"`
}

// Server is one real server of one service.
type Server struct {
	Addr  netip.AddrPort `json:"addr"`
	State checker.State  `json:"state"`
	Since time.Time      `json:"since,omitzero"` // when State was reached, or first seen by this balancer
	// Reason is why the server has the weight it has: "up", "GET /healthz: status 503", "drained by root: new disk".
	Reason     string           `json:"reason"`
	Configured int              `json:"configured_weight"`
	Weight     int              `json:"weight"` // in the kernel; 0 when absent
	Absent     bool             `json:"absent"` // not in the kernel's table
	Intent     *Intent          `json:"intent,omitempty"`
	OK         uint64           `json:"checks_ok"`
	Failed     uint64           `json:"checks_failed"`
	Self       uint64           `json:"checks_self"` // that said nothing about the server: the fault was this host's
	Active     uint32           `json:"active"`
	Inactive   uint32           `json:"inactive"`
	Counters   ipvsctl.Counters `json:"counters"`
}

// Intent is what an operator wants of a server, whatever its checks say.
type Intent struct {
	Drain  bool      `json:"drain,omitempty"`  // no new connections
	Weight *int      `json:"weight,omitempty"` // instead of the configured one
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by"` // the user who asked
	At     time.Time `json:"at"`
}

// Histogram counts how long things took.
type Histogram struct {
	Count   uint64  `json:"count"`
	Seconds float64 `json:"seconds"` // sum over all
	// Buckets count cumulatively, one for each of DurationBuckets. An array: who has a copy may look while others count.
	Buckets [len(DurationBuckets)]uint64 `json:"buckets"`
}

// Checks is the Histogram of a service's checks.
type Checks = Histogram

// DurationBuckets are the upper bounds, in seconds, that Histogram.Buckets counts by: the short ones are for
// adverts, the long ones for checks.
var DurationBuckets = [...]float64{
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
}

// Observe counts one that took so long.
func (h *Histogram) Observe(took time.Duration) {
	h.Count++
	h.Seconds += took.Seconds()
	for i, bound := range DurationBuckets {
		if took.Seconds() <= bound {
			h.Buckets[i]++
		}
	}
}

// Sysctl is one kernel setting that forwarding needs or the configuration asks for: a sysctl, or a timeout of IPVS
// ("ipvs.timeouts.tcp").
type Sysctl struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Want    string `json:"want"`
	Problem string `json:"problem,omitempty"` // why it could not be set
}

// Totals count since the balancer started, and Lost since the elector did too.
type Totals struct {
	Writes      uint64 `json:"ipvs_writes"`
	WriteErrors uint64 `json:"ipvs_write_errors"`
	Drift       uint64 `json:"drift"`       // entries and settings found changed by somebody else, and put back
	Lost        uint64 `json:"events_lost"` // events that no child could hand to the parent
}
