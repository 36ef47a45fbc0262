package adm

import (
	"strings"
	"sync"
)

// option is one thing a command line can say, with what it wants to be followed by.
type option struct {
	id     optionID
	letter byte // 0: it has none
	long   string
	arg    argument
}

type argument uint8

const (
	noArgument argument = iota
	anArgument
	perhapsArgument // the next word is one unless it begins with '-'
)

// optionID names an option. The commands are options, too: the first one of a command line must be one of them.
type optionID uint8

const (
	optNone optionID = iota
	// commands
	optAddService
	optEditService
	optDeleteService
	optClear
	optRestore
	optSave
	optAddServer
	optEditServer
	optDeleteServer
	optList
	optZero
	optSet
	optStartDaemon
	optStopDaemon
	optHelp
	optVersion
	// services
	optTCP
	optUDP
	optSCTP
	optMark
	optIPv6
	optScheduler
	optPersistent
	optNetmask
	optOnePacket
	optEngine
	optFlags
	// servers
	optServer
	optNAT
	optDR
	optTUN
	optWeight
	optUpper
	optLower
	optTunType
	optTunPort
	optTunNoChecksum
	optTunChecksum
	optTunRemoteChecksum
	// listings
	optNumeric
	optConnections
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optTunInfo
	optExact
	optSort
	optNoSort
	// synchronisation
	optMcastInterface
	optMcastGroup
	optMcastPort
	optMcastTTL
	optSyncMaxLen
	optSyncID
	// poise's own
	optAtomic
)

var options = [...]option{
	{optAddService, 'A', "add-service", noArgument},
	{optEditService, 'E', "edit-service", noArgument},
	{optDeleteService, 'D', "delete-service", noArgument},
	{optClear, 'C', "clear", noArgument},
	{optRestore, 'R', "restore", noArgument},
	{optSave, 'S', "save", noArgument},
	{optAddServer, 'a', "add-server", noArgument},
	{optEditServer, 'e', "edit-server", noArgument},
	{optDeleteServer, 'd', "delete-server", noArgument},
	{optList, 'L', "list", noArgument},
	{optList, 'l', "list", noArgument},
	{optZero, 'Z', "zero", noArgument},
	{optSet, 0, "set", noArgument},
	{optStartDaemon, 0, "start-daemon", anArgument},
	{optStopDaemon, 0, "stop-daemon", anArgument},
	{optHelp, 'h', "help", noArgument},
	{optVersion, 'v', "version", noArgument},

	{optTCP, 't', "tcp-service", anArgument},
	{optUDP, 'u', "udp-service", anArgument},
	{optSCTP, 0, "sctp-service", anArgument},
	{optMark, 'f', "fwmark-service", anArgument},
	{optIPv6, '6', "ipv6", noArgument},
	{optScheduler, 's', "scheduler", anArgument},
	{optPersistent, 'p', "persistent", perhapsArgument},
	{optNetmask, 'M', "netmask", anArgument},
	{optOnePacket, 'o', "ops", noArgument},
	{optEngine, 0, "pe", anArgument},
	{optFlags, 'b', "sched-flags", anArgument},

	{optServer, 'r', "real-server", anArgument},
	{optNAT, 'm', "masquerading", noArgument},
	{optDR, 'g', "gatewaying", noArgument},
	{optTUN, 'i', "ipip", noArgument},
	{optWeight, 'w', "weight", anArgument},
	{optUpper, 'x', "u-threshold", anArgument},
	{optLower, 'y', "l-threshold", anArgument},
	{optTunType, 0, "tun-type", anArgument},
	{optTunPort, 0, "tun-port", anArgument},
	{optTunNoChecksum, 0, "tun-nocsum", noArgument},
	{optTunChecksum, 0, "tun-csum", noArgument},
	{optTunRemoteChecksum, 0, "tun-remcsum", noArgument},

	{optNumeric, 'n', "numeric", noArgument},
	{optConnections, 'c', "connection", noArgument},
	{optTimeout, 0, "timeout", noArgument},
	{optDaemon, 0, "daemon", noArgument},
	{optStats, 0, "stats", noArgument},
	{optRate, 0, "rate", noArgument},
	{optThresholds, 0, "thresholds", noArgument},
	{optPersistentConn, 0, "persistent-conn", noArgument},
	{optTunInfo, 0, "tun-info", noArgument},
	{optExact, 'X', "exact", noArgument},
	{optSort, 0, "sort", noArgument},
	{optNoSort, 0, "nosort", noArgument},

	{optMcastInterface, 0, "mcast-interface", anArgument},
	{optMcastGroup, 0, "mcast-group", anArgument},
	{optMcastPort, 0, "mcast-port", anArgument},
	{optMcastTTL, 0, "mcast-ttl", anArgument},
	{optSyncMaxLen, 0, "sync-maxlen", anArgument},
	{optSyncID, 0, "syncid", anArgument},

	{optAtomic, 0, "atomic", noArgument},
}

// byLetter is a table, as restoring looks up a letter for each option of each line. It is made when it is needed: every
// process of poise would wait for it at its start.
var byLetter = sync.OnceValue(func() *[256]*option {
	t := new([256]*option)
	for i := range options {
		if o := &options[i]; o.letter != 0 {
			t[o.letter] = o
		}
	}
	return t
})

func byName(long string) *option {
	for i := range options {
		if options[i].long == long {
			return &options[i]
		}
	}
	return nil
}

// scanner takes a command line apart as popt does, the library of ipvsadm: options and other words in any order, letters
// in bundles of which the last may take what follows, and no abbreviations.
type scanner struct {
	words   []string // still to come
	word    string   // taken last: the one that errors name
	letters string   // of word, still to come
	closed  bool     // "--" has come: no more options
	strays  []string // words that are no options
}

// next returns the next option with its argument, nil at the end, or what is wrong with one.
func (s *scanner) next() (o *option, arg string, given bool, wrong string) {
	attached, isAttached := "", false
	for s.letters == "" {
		if len(s.words) == 0 {
			return nil, "", false, ""
		}
		s.word, s.words = s.words[0], s.words[1:]
		switch {
		case s.closed || len(s.word) < 2 || s.word[0] != '-':
			s.strays = append(s.strays, s.word)
			continue
		case s.word == "--":
			s.closed = true
			continue
		case s.word[1] != '-':
			s.letters = s.word[1:]
			continue
		}
		name, value, has := strings.Cut(s.word[2:], "=")
		if o = byName(name); o == nil {
			return nil, "", false, "unknown option"
		}
		attached, isAttached = value, has
		break
	}
	if o == nil {
		if o = byLetter()[s.letters[0]]; o == nil {
			return nil, "", false, "unknown option"
		}
		s.letters = s.letters[1:]
		if value, follows := strings.CutPrefix(s.letters, "="); follows || o.arg != noArgument && value != "" {
			attached, isAttached = value, true
			s.letters = ""
		}
	}
	switch {
	case o.arg == noArgument && isAttached:
		return nil, "", false, "option does not take an argument"
	case o.arg == noArgument:
		return o, "", false, ""
	case isAttached:
		return o, attached, true, ""
	case len(s.words) == 0 && o.arg == anArgument:
		return nil, "", false, "missing argument"
	case len(s.words) == 0 || o.arg == perhapsArgument && strings.HasPrefix(s.words[0], "-"):
		return o, "", false, ""
	}
	s.word, s.words = s.words[0], s.words[1:]
	return o, s.word, true, ""
}
