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

// String is "sync master on eth1, id 51".
func (d Daemon) String() string {
	return fmt.Sprintf("sync %v on %s, id %d", d.Role, d.Interface, d.ID)
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
	return d
}

// Info is what the kernel says of its IPVS.
type Info struct {
	Version   [3]uint8 // 1.2.1 since 2008
	TableSize uint32   // buckets for connections, the module's parameter conn_tab_bits
}
