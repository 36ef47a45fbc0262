package config

import (
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"poise/ipvsctl"
)

// IPVS is what belongs to the kernel's IPVS as a whole.
type IPVS struct {
	// Timeouts are how long the kernel remembers a silent connection. What is not written here stays as it is.
	Timeouts ipvsctl.Timeouts `toml:"timeouts"`
	// Sync has the directors tell each other of their connections, so that those survive a hand-over: the kernel's
	// synchronisation daemon, which keepalived and ipvsadm use as well.
	Sync *Sync `toml:"sync"`
	// Sysctl are the kernel's settings below net.ipv4.vs, by name. What is not written here stays as it is, but for
	// expire_nodest_conn and expire_quiescent_template, which are 1 by default, and conntrack, which fullnat needs.
	Sysctl Sysctl `toml:"sysctl"`
}

// Sync is the kernel's connection synchronisation.
type Sync struct {
	// Router is the name of the router whose role the daemon follows: it sends while this node is master, and
	// takes in otherwise.
	Router string `toml:"router"`
	// Role is what the daemon does where it follows no router: it sends ("master"), takes in ("backup"), or does both.
	Role SyncRole `toml:"role" json:",omitempty"`
	// Interface is where the multicast goes, best a network of the directors' own. It should have an address.
	Interface string `toml:"interface,required"`
	// ID is what the directors that belong together have in common; a backup with 0 takes in everybody's. Without it, the
	// router's vrid, as with keepalived, and 0 without a router.
	ID *uint8 `toml:"id" range:"0..255"`
	// Group is the multicast address. Without it, 224.0.0.81.
	Group netip.Addr `toml:"group"`
	// Port is the UDP port.
	Port uint16 `toml:"port" default:"8848" range:"1..65535"`
	// TTL is how many routers the multicast may pass, and one.
	TTL uint8 `toml:"ttl" default:"1" range:"1..255"`
	// MaxLength is the most bytes of a message. Without it, what the kernel thinks fit: 1472 for a master, the
	// interface's MTU less headers for a backup.
	MaxLength uint16 `toml:"max_length" range:"1..65507"`
}

// SyncRole is what a synchronisation daemon does that follows no router.
type SyncRole string

// The roles.
const (
	SyncMaster SyncRole = "master"
	SyncBackup SyncRole = "backup"
	SyncBoth   SyncRole = "both"
)

// UnmarshalText accepts "master", "backup" and "both".
func (r *SyncRole) UnmarshalText(text []byte) error {
	return oneOf(r, text, SyncMaster, SyncBackup, SyncBoth)
}

// Sysctl are the settings in /proc/sys/net/ipv4/vs (net/netfilter/ipvs/ip_vs_ctl.c, and Documentation/networking/
// ipvs-sysctl.rst). nil, or an empty list, is not to be touched.
type Sysctl struct {
	// AmDroprate is how many packets the mode 3 of drop_packet lets pass for one that it drops.
	AmDroprate *int `toml:"am_droprate" range:"0..2147483647"`
	// AmemThresh is the memory, in pages, below which the automatic defences begin.
	AmemThresh *int `toml:"amemthresh" range:"0..2147483647"`
	// BackupOnly has this director serve nothing while its synchronisation daemon is only a backup: for one that is also a
	// DR or TUN server, or packets go round in circles.
	BackupOnly *int `toml:"backup_only" range:"0..1"`
	// CacheBypass sends what is for a service by mark without usable servers to its own destination: for transparent caches.
	CacheBypass *int `toml:"cache_bypass" range:"0..1"`
	// ConnReuseMode is what becomes of a client's port that is used again: 0 it stays with its server, 1 it is scheduled
	// anew where the old connection was over, with 2 also where it was ending.
	ConnReuseMode *int `toml:"conn_reuse_mode" range:"0..3"`
	// Conntrack has connections known to connection tracking, for stateful rules and fullnat. It costs speed.
	Conntrack *int `toml:"conntrack" range:"0..1"`
	// DebugLevel has the kernel log what it does, where it was built for that.
	DebugLevel *int `toml:"debug_level" range:"0..255"`
	// DropEntry drops connections that wait for an answer: 0 never, 1 while memory is short, 3 always. 2 is what the
	// kernel makes of 1 then.
	DropEntry *int `toml:"drop_entry" range:"0..3"`
	// DropPacket drops packets, with modes as drop_entry.
	DropPacket *int `toml:"drop_packet" range:"0..3"`
	// EstCpulist are the processors that sum up counters, such as "0-3,7". Since Linux 6.2.
	EstCpulist string `toml:"est_cpulist"`
	// EstNice is their precedence when they do, the least 19. Since Linux 6.2.
	EstNice *int `toml:"est_nice" range:"-20..19"`
	// ExpireNodestConn ends connections whose server was removed, instead of swallowing their packets. 1 unless it stands here.
	ExpireNodestConn *int `toml:"expire_nodest_conn" range:"0..1"`
	// ExpireQuiescentTemplate gives a persistent client another server when its own has weight 0. 1 unless it stands here.
	ExpireQuiescentTemplate *int `toml:"expire_quiescent_template" range:"0..1"`
	// IgnoreTunneled leaves tunnelled packets alone: for a TUN server that is itself a director.
	IgnoreTunneled *int `toml:"ignore_tunneled" range:"0..1"`
	// LblcExpiration is how long, in seconds, the scheduler lblc remembers a destination.
	LblcExpiration *int `toml:"lblc_expiration" range:"0..2147483"`
	// LblcrExpiration is the same for lblcr.
	LblcrExpiration *int `toml:"lblcr_expiration" range:"0..2147483"`
	// NatIcmpSend tells a server by ICMP when its connection is unknown here.
	NatIcmpSend *int `toml:"nat_icmp_send" range:"0..1"`
	// PmtuDisc has packets that are too large for a tunnel refused by ICMP instead of cut in pieces.
	PmtuDisc *int `toml:"pmtu_disc" range:"0..1"`
	// RunEstimation has counters summed up every 2 s. With 0 all of them stand still.
	RunEstimation *int `toml:"run_estimation" range:"0..1"`
	// ScheduleICMP schedules ICMP errors about unknown connections like requests: for routers that spread packets over directors.
	ScheduleICMP *int `toml:"schedule_icmp" range:"0..1"`
	// SecureTCP uses shorter timeouts under attack, with modes as drop_entry.
	SecureTCP *int `toml:"secure_tcp" range:"0..3"`
	// SloppySCTP takes in SCTP connections in their middle.
	SloppySCTP *int `toml:"sloppy_sctp" range:"0..1"`
	// SloppyTCP takes in TCP connections in their middle: for DR and TUN directors without synchronisation.
	SloppyTCP *int `toml:"sloppy_tcp" range:"0..1"`
	// SnatReroute looks up a route for replies again after their source was rewritten.
	SnatReroute *int `toml:"snat_reroute" range:"0..1"`
	// SyncPersistMode has only what persistence needs synchronised.
	SyncPersistMode *int `toml:"sync_persist_mode" range:"0..1"`
	// SyncPorts is over how many UDP ports, and threads, synchronisation spreads: a power of two, the same on all directors.
	// A daemon that runs goes on with what it was started with.
	SyncPorts *int `toml:"sync_ports" range:"1..64"`
	// SyncQlenMax is how many messages may wait to be sent.
	SyncQlenMax *int `toml:"sync_qlen_max" range:"1..2147483647"`
	// SyncRefreshPeriod is how old, in seconds, what was said of a connection may get; 0 is up to sync_threshold.
	SyncRefreshPeriod *int `toml:"sync_refresh_period" range:"0..2147483"`
	// SyncRetries is how often a new connection is told again, in eighths of sync_refresh_period.
	SyncRetries *int `toml:"sync_retries" range:"0..3"`
	// SyncSockSize is the socket's buffer in bytes; 0 is the system's default.
	SyncSockSize *int `toml:"sync_sock_size" range:"0..2147483647"`
	// SyncThreshold is of two numbers: a connection is told with that packet, and then with every so many, as in [3, 50].
	SyncThreshold []int `toml:"sync_threshold" range:"0..2147483647"`
	// SyncVersion is of the messages: 1, or 0 for kernels before 2.6.39.
	SyncVersion *int `toml:"sync_version" range:"0..1"`
}

// Values are the settings that stand in the file, by name, as the kernel writes them.
func (s Sysctl) Values() map[string]string {
	values := make(map[string]string)
	for field, v := range reflect.ValueOf(s).Fields() {
		name := field.Tag.Get("toml")
		switch v := v.Interface().(type) {
		case *int:
			if v != nil {
				values[name] = strconv.Itoa(*v)
			}
		case []int:
			if v != nil {
				var words []string
				for _, n := range v {
					words = append(words, strconv.Itoa(n))
				}
				values[name] = strings.Join(words, " ")
			}
		case string:
			if v != "" {
				values[name] = v
			}
		}
	}
	return values
}
