package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"pgregory.net/rapid"

	"poise/checker"
	"poise/ipvsctl"
	"poise/vrrp"
)

func noFiles(path string) ([]byte, error) {
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

const (
	smallRouter = `
[[router]]
name = "public"
interface = "eth0"
vrid = 51
addresses = ["192.0.2.10"]
`
	small = `
[[service]]
name = "web"
listen = ["192.0.2.10:80"]
forward = "nat"
[[service.server]]
address = "10.0.0.7"
`
)

func TestDefaults(t *testing.T) {
	got, err := Parse("poise.toml", []byte(smallRouter+small+"[service.check]\ntype = \"http\"\n"), nil, noFiles)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Global: Global{OnStop: Leave},
		Routers: []vrrp.Config{{
			Name: "public", Interface: "eth0", VRID: 51, Version: 3, Priority: 100, Interval: time.Second,
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Preempt: true, Checksum: vrrp.PseudoHeader,
		}},
		Services: []Service{{
			Name: "web", Listen: []Listen{{netip.MustParseAddr("192.0.2.10"), 80, 80}}, Family: IPv4,
			Protocol: ipvsctl.TCP, Scheduler: "wlc", Forward: NAT, Quorum: 1,
			Check: &checker.Config{
				Type: checker.KindHTTP, Path: "/", Status: []checker.StatusRange{{First: 200, Last: 299}},
				Interval: 2 * time.Second, Timeout: time.Second, Rise: 1, Fall: 2,
				OnFailure: checker.WeightZero, Initial: checker.InitialUnknown,
			},
			Servers: []Server{{Address: netip.MustParseAddr("10.0.0.7"), Port: 80, Weight: 1, Forward: NAT}},
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestEveryKey(t *testing.T) {
	got, err := Load("testdata/full.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile("testdata/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Global: Global{
			Node: "lb1", API: netip.MustParseAddrPort("[::1]:9650"), OnStop: Remove, Interfaces: []string{"eth0", "eth1"},
		},
		Routers: []vrrp.Config{{
			Name: "public", Interface: "eth0", VRID: 255, Version: 2, Priority: 150, Interval: 2 * time.Second,
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")},
			Excluded:  []netip.Addr{netip.MustParseAddr("2001:db8::10")},
			Source:    netip.MustParseAddr("192.0.2.1"), Peers: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
			Password: "secret", Checksum: vrrp.PseudoHeader,
		}, {
			Name: "inside", Interface: "eth0", VRID: 1, Version: 3, Priority: 1, Interval: 100 * time.Millisecond,
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Preempt: true, PreemptDelay: time.Minute,
			Checksum: vrrp.MessageOnly,
		}, { // another family: another election
			Name: "inside6", Interface: "eth0", VRID: 1, Version: 3, Priority: 255, Interval: time.Second,
			Addresses: []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8:1::1")}, Preempt: true,
			Checksum: vrrp.PseudoHeader,
		}},
		Services: []Service{{
			Name: "web", Listen: []Listen{
				{netip.MustParseAddr("192.0.2.10"), 80, 80},
				{netip.MustParseAddr("192.0.2.10"), 443, 443},
				{netip.MustParseAddr("192.0.2.11"), 8000, 8009},
			},
			Family: IPv4, Protocol: ipvsctl.TCP, Scheduler: "mh", SchedulerFlags: []SchedulerFlag{"mh-port", "mh-fallback"},
			Forward: TUN, Tunnel: &ipvsctl.Tunnel{Type: ipvsctl.GUE, Port: 6080, Checksum: ipvsctl.RemoteChecksum},
			Persistence: 5 * time.Minute, PersistenceGranularity: "255.255.255.0",
			Quorum: 3, QuorumHysteresis: 1, SorryServer: netip.MustParseAddrPort("192.0.2.99:0"),
			Check: &checker.Config{
				Type: checker.KindHTTPS, Port: 8443, Path: "/healthz", Host: "www.example.org",
				Status: []checker.StatusRange{{First: 200, Last: 200}, {First: 301, Last: 302}}, CAFile: "ca.pem", CA: ca,
				Interval: 500 * time.Millisecond, Timeout: 200 * time.Millisecond, Rise: 2, Fall: 3,
				OnFailure: checker.Remove, Initial: checker.InitialUp,
			},
			Servers: []Server{
				{Address: netip.MustParseAddr("192.0.2.21"), Weight: 4, Forward: TUN, UpperThreshold: 100, LowerThreshold: 80},
				{
					Address: netip.MustParseAddr("192.0.2.22"), Forward: TUN,
					Tunnel: &ipvsctl.Tunnel{Type: ipvsctl.GRE, Checksum: ipvsctl.FullChecksum},
				},
				{Address: netip.MustParseAddr("192.0.2.23"), Weight: 1, Forward: FullNAT},
			},
		}, {
			Name: "sip", Listen: []Listen{{netip.MustParseAddr("2001:db8::10"), 5060, 5060}}, Family: IPv4,
			Protocol: ipvsctl.UDP, Scheduler: "wlc", Forward: NAT, OnePacket: true,
			Persistence: time.Minute, PersistenceGranularity: "/64", PersistenceEngine: "sip", Quorum: 1,
			Servers: []Server{{Address: netip.MustParseAddr("2001:db8:1::23"), Port: 5353, Weight: 1, Forward: NAT}},
		}, {
			Name: "mine", Fwmark: 666, Family: IPv6, Protocol: ipvsctl.TCP, Scheduler: "wlc", Forward: DR, Quorum: 1,
			Servers: []Server{{Address: netip.MustParseAddr("2001:db8:1::24"), Weight: 1, Forward: DR}},
		}},
		IPVS: IPVS{
			Timeouts: ipvsctl.Timeouts{TCP: time.Hour, TCPFin: 2 * time.Minute, UDP: 30 * time.Second},
			Sync: &Sync{
				Router: "public", Interface: "eth1", ID: new(uint8(0)), Group: netip.MustParseAddr("224.0.0.82"),
				Port: 8849, TTL: 2, MaxLength: 1400,
			},
			Sysctl: Sysctl{
				Conntrack: new(1), ExpireNodestConn: new(0), SyncPorts: new(4), SyncThreshold: []int{3, 100},
				EstCpulist: "0-1", EstNice: new(-5),
			},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	web := got.Services[0]
	for i, want := range []string{"mark 0x500", "[2001:db8::10]:5060/udp", "mark 666 ipv6"} {
		if key := got.Services[i].Key().String(); !strings.HasPrefix(key, want) {
			t.Errorf("service %s is %s in the kernel, want %s", got.Services[i].Name, key, want)
		}
	}
	settings := ipvsctl.Settings{
		Scheduler: "mh", Flags: ipvsctl.SourcePort | ipvsctl.Fallback, Persistence: 5 * time.Minute, ClientMask: 0xff,
	}
	if got := web.Settings(); got != settings {
		t.Errorf("settings %+v, want %+v", got, settings)
	}
	for i, want := range []string{
		"tun weight 4 thresholds 100 80 gue port 6080 checksum remote", "tun weight 4 gre checksum full", "nat weight 4",
	} {
		if d := web.Destination(web.Servers[i], 4).String(); d != want {
			t.Errorf("server %d is %s in the kernel, want %s", i, d, want)
		}
	}
	sysctls := map[string]string{
		"conntrack": "1", "expire_nodest_conn": "0", "sync_ports": "4", "sync_threshold": "3 100", "est_cpulist": "0-1", "est_nice": "-5",
	}
	if values := got.IPVS.Sysctl.Values(); !maps.Equal(values, sysctls) {
		t.Errorf("sysctls %v, want %v", values, sysctls)
	}
	if addr := web.CheckAddr(web.Servers[0]).String(); addr != "192.0.2.21:8443" {
		t.Errorf("asked at %s", addr)
	}
}

// The files in testdata/bad say what is wrong with them, where it is: "# want: ERROR", once for each error of the line.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			n := 0
			for line := range strings.Lines(string(text)) {
				n++
				for _, s := range strings.Split(strings.TrimSpace(line), "# want: ")[1:] {
					want = append(want, fmt.Sprintf("%s:%d: %s", file, n, strings.TrimSpace(s)))
				}
			}
			c, err := Load(file, nil)
			if err == nil {
				t.Fatalf("no error, and %+v", c)
			}
			got := strings.Split(err.Error(), "\n")
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.toml")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxSize+1); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, path, want string }{
		{"missing", dir + "/none", "open " + dir + "/none: no such file or directory"},
		{"folder", dir, "read " + dir + ": is a directory"},
		{"large", large, large + ": larger than 16 MiB"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Load(tc.path, nil); err == nil || err.Error() != tc.want {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

// The parent sends the Config to its children as JSON.
func TestJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := randomConfig().Draw(t, "config")
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Config
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("sent %+v\ngot  %+v", want, got)
		}
	})
}

func randomConfig() *rapid.Generator[Config] {
	addr4 := rapid.Map(rapid.Uint32(), func(n uint32) netip.Addr {
		return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	})
	addr16 := rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) })
	addr := rapid.OneOf(addr4, addr16)
	addrPort := rapid.Custom(func(t *rapid.T) netip.AddrPort {
		return netip.AddrPortFrom(addr4.Draw(t, "addr"), rapid.Uint16().Draw(t, "port"))
	})
	duration := rapid.Map(rapid.Int64Min(0), func(n int64) time.Duration { return time.Duration(n) })
	check := rapid.Custom(func(t *rapid.T) *checker.Config {
		return &checker.Config{
			Type:      rapid.SampledFrom([]checker.Kind{checker.KindTCP, checker.KindHTTP, checker.KindHTTPS}).Draw(t, "type"),
			Port:      rapid.Uint16().Draw(t, "port"),
			Path:      rapid.String().Draw(t, "path"),
			Host:      rapid.String().Draw(t, "host"),
			Status:    []checker.StatusRange{{First: 200, Last: rapid.IntRange(200, 599).Draw(t, "status")}},
			CAFile:    rapid.String().Draw(t, "ca_file"),
			CA:        rapid.SliceOf(rapid.Byte()).Draw(t, "ca"),
			Interval:  duration.Draw(t, "interval"),
			Timeout:   duration.Draw(t, "timeout"),
			Rise:      rapid.Int().Draw(t, "rise"),
			Fall:      rapid.Int().Draw(t, "fall"),
			OnFailure: rapid.SampledFrom([]checker.OnFailure{checker.WeightZero, checker.Remove}).Draw(t, "on_failure"),
			Initial:   rapid.SampledFrom([]checker.Initial{checker.InitialUnknown, checker.InitialUp}).Draw(t, "initial"),
		}
	})
	forward := rapid.SampledFrom([]Forward{NAT, DR, TUN, FullNAT})
	tunnel := rapid.SampledFrom([]*ipvsctl.Tunnel{nil, {}, {Type: ipvsctl.GUE, Port: 6080}, {Type: ipvsctl.GRE, Checksum: ipvsctl.FullChecksum}})
	listen := rapid.Custom(func(t *rapid.T) Listen {
		l := Listen{Addr: addr.Draw(t, "addr"), First: rapid.Uint16().Draw(t, "port")}
		if l.Last = l.First; l.First > 0 {
			l.Last = rapid.Uint16Min(l.First).Draw(t, "last")
		}
		return l
	})
	number := rapid.OneOf(rapid.Just[*int](nil), rapid.Map(rapid.Int(), func(n int) *int { return &n }))
	server := rapid.Custom(func(t *rapid.T) Server {
		return Server{
			Address:        addr.Draw(t, "address"),
			Port:           rapid.Uint16().Draw(t, "port"),
			Weight:         rapid.Int().Draw(t, "weight"),
			Forward:        forward.Draw(t, "forward"),
			Tunnel:         tunnel.Draw(t, "tunnel"),
			UpperThreshold: rapid.Uint32().Draw(t, "upper_threshold"),
			LowerThreshold: rapid.Uint32().Draw(t, "lower_threshold"),
		}
	})
	service := rapid.Custom(func(t *rapid.T) Service {
		return Service{
			Name:                   rapid.String().Draw(t, "name"),
			Listen:                 rapid.SliceOf(listen).Draw(t, "listen"),
			Fwmark:                 rapid.Uint32().Draw(t, "fwmark"),
			Family:                 rapid.SampledFrom([]Family{IPv4, IPv6}).Draw(t, "family"),
			Protocol:               rapid.SampledFrom([]ipvsctl.Protocol{ipvsctl.TCP, ipvsctl.UDP, ipvsctl.SCTP}).Draw(t, "protocol"),
			Scheduler:              Scheduler(rapid.SampledFrom(ipvsctl.Schedulers).Draw(t, "scheduler")),
			SchedulerFlags:         rapid.SliceOf(rapid.SampledFrom([]SchedulerFlag{"sh-port", "mh-fallback"})).Draw(t, "scheduler_flags"),
			Forward:                forward.Draw(t, "forward"),
			Tunnel:                 tunnel.Draw(t, "tunnel"),
			OnePacket:              rapid.Bool().Draw(t, "one_packet"),
			Persistence:            duration.Draw(t, "persistence"),
			PersistenceGranularity: rapid.String().Draw(t, "persistence_granularity"),
			PersistenceEngine:      rapid.String().Draw(t, "persistence_engine"),
			Quorum:                 rapid.Int().Draw(t, "quorum"),
			QuorumHysteresis:       rapid.Int().Draw(t, "hysteresis"),
			SorryServer:            rapid.OneOf(rapid.Just(netip.AddrPort{}), addrPort).Draw(t, "sorry_server"),
			Check:                  rapid.OneOf(rapid.Just[*checker.Config](nil), check).Draw(t, "check"),
			Servers:                rapid.SliceOf(server).Draw(t, "servers"),
		}
	})
	sync := rapid.Custom(func(t *rapid.T) *Sync {
		return &Sync{
			Router:    rapid.String().Draw(t, "router"),
			Role:      rapid.SampledFrom([]SyncRole{"", SyncMaster, SyncBackup, SyncBoth}).Draw(t, "role"),
			Interface: rapid.String().Draw(t, "interface"),
			ID:        rapid.SampledFrom([]*uint8{nil, new(uint8(0)), new(uint8(255))}).Draw(t, "id"),
			Group:     rapid.OneOf(rapid.Just(netip.Addr{}), addr).Draw(t, "group"),
			Port:      rapid.Uint16().Draw(t, "port"), TTL: rapid.Byte().Draw(t, "ttl"), MaxLength: rapid.Uint16().Draw(t, "max_length"),
		}
	})
	router := rapid.Custom(func(t *rapid.T) vrrp.Config {
		return vrrp.Config{
			Name:         rapid.String().Draw(t, "name"),
			Interface:    rapid.String().Draw(t, "interface"),
			VRID:         rapid.Byte().Draw(t, "vrid"),
			Version:      rapid.IntRange(2, 3).Draw(t, "version"),
			Priority:     rapid.Byte().Draw(t, "priority"),
			Interval:     duration.Draw(t, "advert_interval"),
			Addresses:    rapid.SliceOf(addr).Draw(t, "addresses"),
			Excluded:     rapid.SliceOf(addr).Draw(t, "excluded_addresses"),
			Preempt:      rapid.Bool().Draw(t, "preempt"),
			PreemptDelay: duration.Draw(t, "preempt_delay"),
			Source:       rapid.OneOf(rapid.Just(netip.Addr{}), addr).Draw(t, "source"),
			Peers:        rapid.SliceOf(addr).Draw(t, "peers"),
			Password:     rapid.String().Draw(t, "password"),
			Checksum:     rapid.SampledFrom([]vrrp.Checksum{vrrp.PseudoHeader, vrrp.MessageOnly}).Draw(t, "checksum"),
		}
	})
	return rapid.Custom(func(t *rapid.T) Config {
		return Config{
			Global: Global{
				Node:       rapid.String().Draw(t, "node"),
				API:        rapid.OneOf(rapid.Just(netip.AddrPort{}), addrPort).Draw(t, "api"),
				OnStop:     rapid.SampledFrom([]OnStop{Leave, Remove}).Draw(t, "on_stop"),
				Interfaces: rapid.SliceOf(rapid.String()).Draw(t, "interfaces"),
			},
			Routers:  rapid.SliceOfN(router, 0, 3).Draw(t, "routers"),
			Services: rapid.SliceOfN(service, 0, 3).Draw(t, "services"),
			IPVS: IPVS{
				Timeouts: ipvsctl.Timeouts{TCP: duration.Draw(t, "tcp")},
				Sync:     rapid.OneOf(rapid.Just[*Sync](nil), sync).Draw(t, "sync"),
				Sysctl: Sysctl{
					Conntrack: number.Draw(t, "conntrack"), EstCpulist: rapid.String().Draw(t, "est_cpulist"),
					SyncThreshold: rapid.OneOf(rapid.Just[[]int](nil), rapid.SliceOf(rapid.Int())).Draw(t, "sync_threshold"),
				},
			},
		}
	})
}

// Whatever the file holds: no panic, every error on a line of the file, and each key on the line where the decoder saw it.
func FuzzConfig(f *testing.F) {
	for _, pattern := range []string{"testdata/*.toml", "testdata/bad/*.toml", "../examples/*.toml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Add([]byte("a = 0b\n")) // the decoder quotes the newline in its message
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("poise.toml", text, nil, noFiles)
		if err != nil {
			lines := strings.Count(string(text), "\n") + 1
			for e := range everyError(err) {
				if e.Line < 1 || e.Line > lines || strings.Contains(e.Error(), "\n") {
					t.Errorf("line %d of %d: %q", e.Line, lines, e.Error())
				}
			}
		} else if again, err := Parse("poise.toml", text, nil, noFiles); err != nil || !reflect.DeepEqual(c, again) {
			t.Errorf("%+v, and again %+v: %v", c, again, err)
		}
		tables, root, err := decode("", string(text))
		if err == nil && !decoderErrs(root) {
			if err := sameShape(tables, root); err != nil {
				t.Error(err)
			}
			// Though the decoder may take what the parts did not, never otherwise.
			if parts := decodeInParts(string(text), root, 2); parts != nil && !reflect.DeepEqual(parts, tables) {
				t.Errorf("in parts %v, at once %v", parts, tables)
			}
		}
	})
}

// decoderErrs reports the two cases in which the decoder (v1.6.0) forgets values: beside an empty key in a
// list of inline tables, and in a table within an array whose header follows those of its sub-tables.
func decoderErrs(m *mark) bool {
	if _, ok := m.keys[""]; ok {
		return true
	}
	for c := range maps.Values(m.keys) {
		for _, sub := range c.keys {
			if sub.line < c.line {
				return true
			}
		}
		if decoderErrs(c) {
			return true
		}
	}
	return slices.ContainsFunc(m.list, decoderErrs)
}

func everyError(err error) func(yield func(*Error) bool) {
	return func(yield func(*Error) bool) {
		if e, ok := err.(*Error); ok {
			yield(e)
			return
		}
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			if !yield(e.(*Error)) {
				return
			}
		}
	}
}

func TestErrorIsTyped(t *testing.T) {
	_, err := Parse("poise.toml", []byte(small+"port = 0\nweight = -1\n"), nil, noFiles)
	e, ok := errors.AsType[*Error](err)
	if want := (&Error{"poise.toml", 8, `service "web", server 10.0.0.7:0`, "port", "0", "outside 1..65535"}); !ok || *e != *want {
		t.Errorf("first error %+v, want %+v", e, want)
	}
}

// A large file is the same whether or not it is decoded in parts, and so are its mistakes.
func TestDecodeInParts(t *testing.T) {
	services := string(large()[:20000])
	services = services[:strings.LastIndex(services, "[[service]]")]
	decodes := func(text string) (tables map[string]any, inParts bool) {
		root, _ := scan(text)
		if _, err := toml.Decode(text, &tables); err != nil {
			tables = nil
		}
		parts := decodeInParts(text, root, 2)
		if parts != nil && !reflect.DeepEqual(parts, tables) {
			t.Errorf("decoded in parts it is another table:\n%s", text)
		}
		return tables, parts != nil
	}
	for _, tc := range []struct {
		name, text string
		inParts    bool
	}{
		{"services only", services, true},
		{"other tables before", smallRouter + "[global]\nnode = \"a\"\n" + services, true},
		{"and behind", "[global]\nnode = \"a\"\n" + services + "[ipvs.sysctl]\nconntrack = 1\n", true},
		{"some before, some behind", smallRouter + services + smallRouter, true},
		{"a table in two pieces", "[ipvs.sysctl]\nconntrack = 1\n" + services + "[ipvs.timeouts]\ntcp = \"1m\"\n", false},
		{"a table twice", "[global]\n" + services + "[global]\n", false},
		{"a table and an array", services + "[service]\n", false},
		{"a list of the same name", "service = []\n" + services, false},
		{"a mistake in the last part", services + "x = \n", false},
		{"a mistake in the first one", "x = \n" + services, false},
		{"a header behind something", services + "x = 1 " + services, false},
		{"a header in a string", services + "name = \"\"\"\n[[service]]\n\"\"\"\n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, inParts := decodes(tc.text); inParts != tc.inParts && runtime.GOMAXPROCS(0) > 1 {
				t.Errorf("in parts: %v, want %v", inParts, tc.inParts)
			}
		})
	}
}

// large is a file of 1000 services with 10 servers each.
func large() []byte {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "[[service]]\nname = \"s%d\"\nlisten = [\"10.1.%d.%d:80\"]\nforward = \"nat\"\n[service.check]\ntype = \"tcp\"\n",
			i, i/250, 1+i%250)
		for j := range 10 {
			fmt.Fprintf(&b, "[[service.server]]\naddress = \"10.2.0.%d\"\nport = %d\nweight = 5\n", 1+j, 1+i)
		}
	}
	return []byte(b.String())
}

// Finding lines and mistakes may cost as much again as decoding, and half of that: BenchmarkParse
// stays below 2.5 times BenchmarkDecode.
func BenchmarkParse(b *testing.B) {
	text := large()
	for b.Loop() {
		if _, err := Parse("poise.toml", text, nil, noFiles); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	text := string(large())
	for b.Loop() {
		var tables any
		if _, err := toml.Decode(text, &tables); err != nil {
			b.Fatal(err)
		}
	}
}
