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
)

// Snapshot is the state of one director at one moment.
type Snapshot struct {
	Time     time.Time `json:"time"`
	Node     string    `json:"node"`
	Version  string    `json:"version"`
	Config   Config    `json:"config"`
	Balancer Balancer  `json:"balancer"`
	Services []Service `json:"services"`
	Sysctls  []Sysctl  `json:"sysctls"`
	// OwnFault is why checks said nothing about their servers in the last minute; empty when they did.
	OwnFault string `json:"own_fault,omitempty"`
	// Dormant are intents about servers that are not in the configuration just now.
	Dormant []Dormant `json:"dormant,omitempty"`
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

// Dormant is an intent that waits for its server to come back into the configuration.
type Dormant struct {
	checker.Key
	Intent
}

// Service is one virtual service.
type Service struct {
	Name      string             `json:"name"`
	Key       ipvsctl.ServiceKey `json:"key"`
	Scheduler string             `json:"scheduler"`
	Forward   ipvsctl.Method     `json:"forward"`
	NoVIP     bool               `json:"no_vip,omitempty"` // the service's address is not this host's
	Up        bool               `json:"up"`               // the quorum is met
	Why       string             `json:"why"`              // the sum of weights and the states behind Up
	Quorum    int                `json:"quorum"`
	Weight    int                `json:"weight"` // sum over the servers that count towards the quorum
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

// Checks is how long the checks of one service took.
type Checks struct {
	Count   uint64   `json:"count"`
	Seconds float64  `json:"seconds"` // sum over all
	Buckets []uint64 `json:"buckets"` // cumulative, one for each of CheckBuckets
}

// CheckBuckets are the upper bounds, in seconds, that Checks.Buckets counts by.
var CheckBuckets = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// Observe counts one check.
func (c *Checks) Observe(took time.Duration) {
	if c.Buckets == nil {
		c.Buckets = make([]uint64, len(CheckBuckets))
	}
	c.Count++
	c.Seconds += took.Seconds()
	for i, bound := range CheckBuckets {
		if took.Seconds() <= bound {
			c.Buckets[i]++
		}
	}
}

// Sysctl is one kernel setting that forwarding needs.
type Sysctl struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Want    string `json:"want"`
	Problem string `json:"problem,omitempty"` // why it could not be set
}

// Totals count since the balancer started.
type Totals struct {
	Writes      uint64 `json:"ipvs_writes"`
	WriteErrors uint64 `json:"ipvs_write_errors"`
	Drift       uint64 `json:"drift"`       // entries and settings found changed by somebody else, and put back
	Lost        uint64 `json:"events_lost"` // events that could not be handed to the parent
}
