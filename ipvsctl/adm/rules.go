package adm

import (
	"math/bits"

	"poise/ipvsctl"
)

// given is a set of options that were said. Where several are wrong, the lowest is named.
type given uint64

const (
	givenNumeric given = 1 << iota
	givenConnections
	givenService
	givenScheduler
	givenPersistent
	givenNetmask
	givenServer
	givenForward
	givenWeight
	givenUpper
	givenLower
	givenMcastInterface
	givenTimeout
	givenDaemon
	givenStats
	givenRate
	givenThresholds
	givenPersistentConn
	givenNoSort
	givenSyncID
	givenExact
	givenOnePacket
	givenEngine
	givenFlags
	givenMcastGroup
	givenMcastPort
	givenMcastTTL
	givenSyncMaxLen
	givenTunInfo
	givenTunType
	givenTunPort
	givenTunNoChecksum
	givenTunChecksum
	givenTunRemoteChecksum
	givenAtomic
)

const tunnelOptions = givenTunType | givenTunPort | givenTunNoChecksum | givenTunChecksum | givenTunRemoteChecksum

var givenNames = [...]string{
	"numeric", "connection", "service-address", "scheduler", "persistent", "netmask", "real-server", "forwarding-method",
	"weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon", "stats", "rate", "thresholds",
	"persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags", "mcast-group", "mcast-port", "mcast-ttl",
	"sync-maxlen", "tun-info", "tun-type", "tun-port", "tun-nocsum", "tun-csum", "tun-remcsum", "atomic",
}

// name is that of the lowest option.
func (g given) name() string { return givenNames[bits.TrailingZeros64(uint64(g))] }

// noted is what each option counts as. Those that count as one exclude each other; -6 and --sort may be said at will.
var noted = [...]given{
	optTCP: givenService, optUDP: givenService, optSCTP: givenService, optMark: givenService,
	optScheduler: givenScheduler, optPersistent: givenPersistent, optNetmask: givenNetmask, optOnePacket: givenOnePacket,
	optEngine: givenEngine, optFlags: givenFlags,
	optServer: givenServer, optNAT: givenForward, optDR: givenForward, optTUN: givenForward,
	optWeight: givenWeight, optUpper: givenUpper, optLower: givenLower,
	optTunType: givenTunType, optTunPort: givenTunPort, optTunNoChecksum: givenTunNoChecksum,
	optTunChecksum: givenTunChecksum, optTunRemoteChecksum: givenTunRemoteChecksum,
	optNumeric: givenNumeric, optConnections: givenConnections, optTimeout: givenTimeout, optDaemon: givenDaemon,
	optStats: givenStats, optRate: givenRate, optThresholds: givenThresholds, optPersistentConn: givenPersistentConn,
	optTunInfo: givenTunInfo, optExact: givenExact, optNoSort: givenNoSort,
	optMcastInterface: givenMcastInterface, optMcastGroup: givenMcastGroup, optMcastPort: givenMcastPort,
	optMcastTTL: givenMcastTTL, optSyncMaxLen: givenSyncMaxLen, optSyncID: givenSyncID,
	optAtomic: givenAtomic,
}

// grammar is what goes with a command, or with a kind of tunnel.
type grammar struct {
	name  string
	needs given
	takes given
	oneOf given // takes one of these at most
}

const serverOptions = givenForward | givenWeight | givenUpper | givenLower | tunnelOptions

// These are arrays, and no maps, as maps are made when a process starts.
var commands = [...]grammar{
	optAddService: {
		name: "add-service", needs: givenService,
		takes: givenScheduler | givenPersistent | givenNetmask | givenOnePacket | givenEngine | givenFlags,
	},
	optEditService: {
		name: "edit-service", needs: givenService,
		takes: givenScheduler | givenPersistent | givenNetmask | givenOnePacket | givenEngine | givenFlags,
	},
	optDeleteService: {name: "delete-service", needs: givenService},
	optClear:         {name: "flush"},
	optAddServer:     {name: "add-server", needs: givenService | givenServer, takes: serverOptions},
	optEditServer:    {name: "edit-server", needs: givenService | givenServer, takes: serverOptions},
	optDeleteServer:  {name: "delete-server", needs: givenService | givenServer},
	optList: {
		name: "list", oneOf: givenConnections | givenService | givenTimeout | givenDaemon,
		takes: givenNumeric | givenStats | givenRate | givenThresholds | givenPersistentConn | givenNoSort | givenExact | givenTunInfo,
	},
	optSet: {name: "set"},
	optStartDaemon: {
		name:  "start-daemon",
		takes: givenMcastInterface | givenSyncID | givenMcastGroup | givenMcastPort | givenMcastTTL | givenSyncMaxLen,
	},
	optStopDaemon: {name: "stop-daemon", takes: givenSyncID},
	optRestore:    {name: "restore", takes: givenAtomic},
	optSave:       {name: "save", takes: givenNumeric | givenExact},
	optZero:       {name: "zero", takes: givenService},
}

var tunnels = [...]grammar{
	ipvsctl.IPIP: {name: "ipip", takes: givenTunType},
	ipvsctl.GUE: {
		name: "gue", needs: givenTunPort, takes: givenTunType,
		oneOf: givenTunNoChecksum | givenTunChecksum | givenTunRemoteChecksum,
	},
	ipvsctl.GRE: {name: "gre", takes: givenTunType, oneOf: givenTunNoChecksum | givenTunChecksum},
}

// checkOptions looks whether the options go with the command.
func (r *request) checkOptions() error { return commands[r.command].check(r.given, "command") }

// checkTunnel looks whether the options of a tunnel go with its type.
func (r *request) checkTunnel() error {
	return tunnels[r.dest.Tunnel.Type].check(r.given&tunnelOptions, "tunnel type")
}

// check names the lowest option that is missing, does not belong, or excludes another; what is the kind of thing g is about.
func (g grammar) check(said given, what string) error {
	var before given // of those that exclude each other
	for rest := said | g.needs; rest != 0; rest &= rest - 1 {
		switch o := rest & -rest; {
		case said&o == 0:
			return refuse("You need to supply the '%s' option for the '%s' %s", o.name(), g.name, what)
		case (g.needs|g.takes|g.oneOf)&o == 0:
			return refuse("Illegal '%s' option with the '%s' %s", o.name(), g.name, what)
		case g.oneOf&o != 0 && before != 0:
			return refuse("The option '%s' conflicts with the '%s' option in the '%s' %s", o.name(), before.name(), g.name, what)
		case g.oneOf&o != 0:
			before = o
		}
	}
	return nil
}
