package director

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"poise/config"
	"poise/internal/host"
	"poise/internal/status"
)

func TestForwardingPlan(t *testing.T) {
	always := []string{
		"net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0", "net.ipv4.conf.eth0/100.send_redirects=0",
		"net.ipv4.vs.expire_nodest_conn=1", "net.ipv4.vs.expire_quiescent_template=1",
	}
	service := func(forward config.Forward, address string) config.Service {
		listen, server := config.Listen{First: 80, Last: 80}, netip.MustParseAddr(address)
		listen.Addr = server
		return config.Service{Listen: []config.Listen{listen}, Forward: forward, Servers: []config.Server{{Address: server, Forward: forward}}}
	}
	mixed := service(config.DR, "10.0.0.1")
	mixed.Servers = append(mixed.Servers, config.Server{Forward: config.FullNAT})
	tests := []struct {
		name     string
		services []config.Service
		sysctl   config.Sysctl
		want     []string
	}{
		{
			"nat forwards the replies",
			[]config.Service{service(config.DR, "10.0.0.1"), service(config.NAT, "10.0.0.1")},
			config.Sysctl{},
			append([]string{"net.ipv4.ip_forward=1"}, always...),
		},
		{
			"dr and tun need no forwarding",
			[]config.Service{service(config.DR, "10.0.0.1"), service(config.TUN, "2001:db8::1")},
			config.Sysctl{},
			always,
		},
		{
			"each family has its own forwarding",
			[]config.Service{service(config.NAT, "2001:db8::1")},
			config.Sysctl{},
			append([]string{"net.ipv6.conf.all.forwarding=1"}, always...),
		},
		{
			"full nat, if only of one server, needs tracked connections",
			[]config.Service{mixed},
			config.Sysctl{},
			append(append([]string{"net.ipv4.ip_forward=1"}, always[:3]...), append([]string{"net.ipv4.vs.conntrack=1"}, always[3:]...)...),
		},
		{
			"what the file says counts",
			[]config.Service{service(config.DR, "10.0.0.1")},
			config.Sysctl{ExpireNodestConn: new(0), SyncThreshold: []int{3, 50}},
			append(append([]string{}, always[:3]...), "net.ipv4.vs.expire_nodest_conn=0", always[4], "net.ipv4.vs.sync_threshold=3 50"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config.Config{Services: tt.services, IPVS: config.IPVS{Sysctl: tt.sysctl}}
			var got []string
			for _, s := range forwardingPlan(&cfg, []string{"eth0.100"}) {
				got = append(got, s.Name+"="+s.Want)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// sysctlTree is a /proc/sys of files, as "path=value" words, and what it holds now.
func sysctlTree(t *testing.T, words ...string) (host.Sysctls, func() []string) {
	root := t.TempDir()
	var paths []string
	for _, word := range words {
		path, value, _ := strings.Cut(word, "=")
		paths = append(paths, path)
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return host.Sysctls{Root: root}, func() []string {
		var now []string
		for _, path := range paths {
			value, err := os.ReadFile(filepath.Join(root, path))
			if err != nil {
				t.Fatal(err)
			}
			now = append(now, path+"="+strings.TrimSpace(string(value)))
		}
		return now
	}
}

func newForwarding(t *testing.T, tree host.Sysctls, path string, events *told) *forwarding {
	record, err := host.OpenRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	return &forwarding{sysctls: tree, record: record, emit: events.emit, totals: &status.Totals{}}
}

func TestForwardingKeepsAndRestores(t *testing.T) {
	before := []string{
		"net/ipv4/ip_forward=0",
		"net/ipv4/conf/all/accept_redirects=0", "net/ipv4/conf/all/send_redirects=1",
		"net/ipv4/conf/default/forwarding=0", "net/ipv4/conf/eth0/forwarding=1",
		"net/ipv4/vs/expire_nodest_conn=1",
	}
	tree, now := sysctlTree(t, before...)
	record := filepath.Join(t.TempDir(), "sysctls.json")
	plan := []status.Sysctl{
		{Name: ipForward, Want: "1"},
		{Name: "net.ipv4.conf.all.send_redirects", Want: "0"},
		{Name: "net.ipv4.vs.expire_nodest_conn", Want: "1"},
	}
	set := func(path, value string) {
		t.Helper()
		if err := tree.Write(strings.ReplaceAll(path, "/", "."), value); err != nil {
			t.Fatal(err)
		}
	}
	var events told
	first := newForwarding(t, tree, record, &events)
	first.setPlan(plan)
	first.keep()
	first.keep()
	// What the kernel does when ip_forward changes, which this tree cannot.
	set("net/ipv4/conf/all/accept_redirects", "1")
	set("net/ipv4/conf/default/forwarding", "1")
	want := told{
		"sysctl set: net.ipv4.ip_forward = 1 (was 0)",
		"sysctl set: net.ipv4.conf.all.send_redirects = 0 (was 1)",
	}
	if !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}

	// Somebody flips a setting: put back, and told apart from the beginning.
	events = nil
	set("net/ipv4/conf/all/send_redirects", "1")
	first.keep()
	want = told{"drift: changed by somebody else, put back: net.ipv4.conf.all.send_redirects = 0 (was 1)"}
	if !slices.Equal(events, want) || first.totals.Drift != 1 {
		t.Errorf("events %q, want %q; drift %d", events, want, first.totals.Drift)
	}

	// The first run was killed: its values are what the second finds, and not what it restores.
	second := newForwarding(t, tree, record, &events)
	second.setPlan(plan)
	second.keep()
	if err := second.undo(); err != nil {
		t.Fatal(err)
	}
	if got := now(); !slices.Equal(got, before) {
		t.Errorf("restored to %q, want %q", got, before)
	}
	if _, err := os.Stat(record); !os.IsNotExist(err) {
		t.Errorf("the record is still there: %v", err)
	}
}

func TestForwardingCheck(t *testing.T) {
	tree, _ := sysctlTree(t, "net/ipv4/ip_forward=1")
	f := &forwarding{sysctls: readOnly{tree}}
	if err := f.check([]status.Sysctl{{Name: ipForward, Want: "1"}}); err != nil {
		t.Errorf("a value that is right need not be writable: %v", err)
	}
	err := f.check([]status.Sysctl{{Name: ipForward, Want: "0"}})
	if want := "net.ipv4.ip_forward: cannot be set: read-only file system, and it must be 0"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// readOnly is /proc/sys as containers see it.
type readOnly struct{ host.Sysctls }

func (readOnly) Writable(name string) error {
	return fmt.Errorf("%s: cannot be set: %w", name, unix.EROFS)
}

// What the kernel writes in its own way, or changes by itself, is nobody's doing.
func TestForwardingKernelsOwnWay(t *testing.T) {
	tree, _ := sysctlTree(t, "net/ipv4/vs/est_cpulist=0", "net/ipv4/vs/drop_entry=0")
	var events told
	f := newForwarding(t, tree, filepath.Join(t.TempDir(), "sysctls.json"), &events)
	f.setPlan([]status.Sysctl{{Name: "net.ipv4.vs.est_cpulist", Want: "0,1"}, {Name: "net.ipv4.vs.drop_entry", Want: "1"}})
	f.keep()
	f.became["net.ipv4.vs.est_cpulist"] = "0-1" // as the kernel's file would have read
	for name, value := range map[string]string{"net.ipv4.vs.est_cpulist": "0-1", "net.ipv4.vs.drop_entry": "2"} {
		if err := tree.Write(name, value); err != nil {
			t.Fatal(err)
		}
	}
	events = nil
	f.keep()
	if len(events) > 0 {
		t.Errorf("said %q", events)
	}
	if err := tree.Write("net.ipv4.vs.drop_entry", "3"); err != nil {
		t.Fatal(err)
	}
	f.keep()
	if len(events) != 1 {
		t.Errorf("said %q, want one drift", events)
	}
}
