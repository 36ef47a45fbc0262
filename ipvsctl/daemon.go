package ipvsctl

import (
	"fmt"
	"net/netip"
)

// Role is one side of connection synchronisation, as the kernel numbers it (IP_VS_STATE_* in include/uapi/linux/ip_vs.h).
type Role uint8

// The two roles. A network namespace may have a daemon for each.
const (
	SyncMaster Role = 1 // tells the network of connections that pass here
	SyncBackup Role = 2 // takes in what masters tell
)

var roleNames = map[Role]string{SyncMaster: "master", SyncBackup: "backup"}

// String returns "master" or "backup".
func (r Role) String() string { return nameOf(roleNames, r) }

// Daemon is a kernel thread that synchronises connections with another director. Zero values of all
// but Role and Interface stand for the kernel's defaults.
type Daemon struct {
	Role      Role
	Interface string     // must exist
	ID        uint8      // of masters and backups that belong together; a backup with 0 takes in everybody's
	MaxLen    uint16     // bytes of a message, 1..65507; 0: 1472 as master, what fits the interface as backup
	Group     netip.Addr // multicast; the zero value: 224.0.0.81
	Port      uint16     // 0: 8848
	TTL       uint8      // 0: 1
}

// String is "sync master on eth1, id 51", with what else is not as the kernel has it by itself.
func (d Daemon) String() string {
	text := fmt.Sprintf("sync %v on %s, id %d", d.Role, d.Interface, d.ID)
	usual := Daemon{}.Normal()
	d = d.Normal()
	if d.Group != usual.Group || d.Port != usual.Port {
		text += fmt.Sprintf(", to %v", netip.AddrPortFrom(d.Group, d.Port))
	}
	if d.TTL != usual.TTL {
		text += fmt.Sprintf(", ttl %d", d.TTL)
	}
	return text
}

// Normal returns d as the kernel reports it: with the defaults filled in that do not depend on the interface.
func (d Daemon) Normal() Daemon {
	if !d.Group.IsValid() {
		d.Group = netip.AddrFrom4([4]byte{224, 0, 0, 81})
	}
	if d.Port == 0 {
		d.Port = 8848
	}
	if d.TTL == 0 {
		d.TTL = 1
	}
	// start_sync_thread in net/netfilter/ipvs/ip_vs_sync.c
	if d.MaxLen != 0 && d.Role == SyncBackup {
		d.MaxLen = max(d.MaxLen, 1024)
	}
	if d.Group.Is6() {
		d.MaxLen = min(d.MaxLen, 65535-40-8)
	}
	return d
}

// Info is what the kernel says of its IPVS.
type Info struct {
	Version   [3]uint8 // 1.2.1 since 2008
	TableSize uint32   // buckets for connections, the module's parameter conn_tab_bits
}
