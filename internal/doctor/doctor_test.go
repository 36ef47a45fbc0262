package doctor

import (
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"poise/checker"
	"poise/config"
	"poise/internal/finding"
	"poise/internal/host"
)

func TestJudgeHolder(t *testing.T) {
	vip, server := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.21")
	peer, real := net.HardwareAddr{2, 0, 0, 0, 0, 2}, net.HardwareAddr{2, 0, 0, 0, 0, 0x21}
	servers := map[string]netip.Addr{real.String(): server}
	for _, tt := range []struct {
		name    string
		local   bool
		answers []net.HardwareAddr
		want    finding.Severity
		seen    string
		remedy  string
	}{
		{"master", true, nil, finding.OK, "this host has it, nobody else answers", ""},
		{"backup", false, []net.HardwareAddr{peer}, finding.OK, "02:00:00:00:00:02 answers", ""},
		{"two masters", true, []net.HardwareAddr{peer}, finding.Fault, "this host, and 02:00:00:00:00:02 answers", "ip address show"},
		{"two others", false, []net.HardwareAddr{peer, {2, 0, 0, 0, 0, 3}}, finding.Fault, "02:00:00:00:00:02, 02:00:00:00:00:03 answers", "ip address show"},
		{"no master", false, nil, finding.Fault, "nobody answers", "poise status"},
		{"a server, master", true, []net.HardwareAddr{real}, finding.Fault, "this host, and server 192.0.2.21 (02:00:00:00:00:21) answers", "poise realserver apply --mode dr --vip 192.0.2.10: on 192.0.2.21"},
		{"a server alone", false, []net.HardwareAddr{real}, finding.Fault, "server 192.0.2.21 (02:00:00:00:00:21) answers", "poise realserver apply"},
	} {
		f := judgeHolder("eth0", vip, tt.local, tt.answers, servers)
		if f.Severity != tt.want || f.Seen != tt.seen || !strings.HasPrefix(f.Remedy, tt.remedy) || (f.Remedy == "") != (tt.want == finding.OK) {
			t.Errorf("%s: %+v", tt.name, f)
		}
	}
}

func TestTracking(t *testing.T) {
	for _, tt := range []struct {
		count, most string
		want        finding.Severity
	}{
		{"0", "100", finding.OK},
		{"79", "100", finding.OK},
		{"80", "100", finding.Warning},
		{"98", "100", finding.Fault},
		{"101", "100", finding.Fault},
		{"5000", "0", finding.OK},
		{"5", "many", finding.Warning},
	} {
		s := host.Sysctls{Root: t.TempDir()}
		dir := filepath.Join(s.Root, "net/netfilter")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"nf_conntrack_count": tt.count, "nf_conntrack_max": tt.most} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := finding.Worst(tracking(s)); got != tt.want {
			t.Errorf("%s of %s: %v, want %v", tt.count, tt.most, got, tt.want)
		}
	}
	if got := tracking(host.Sysctls{Root: t.TempDir()}); got != nil {
		t.Errorf("where nothing is tracked: %+v", got)
	}
}

func TestOpenFiles(t *testing.T) {
	for text, want := range map[string]int{
		"Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 524288               files\n": 1024,
		"Max open files            unlimited            unlimited            files\n":                                                                            math.MaxInt,
		"Max open files\n": 0, // an error
		"":                 0,
	} {
		if n, err := openFiles(text); n != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %d %v", text, n, err)
		}
	}
}

// TestDescriptors: too few are seen, of the process that has to have them.
func TestDescriptors(t *testing.T) {
	var cfg config.Config
	if found := descriptors(&cfg, 0); found != nil {
		t.Errorf("nothing is checked: %+v", found)
	}
	cfg.Services = []config.Service{{Check: &checker.Config{}, Servers: make([]config.Server, 20)}}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	for most, want := range map[uint64]finding.Severity{20 + otherFiles - 1: finding.Fault, 20 + otherFiles: finding.OK} {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
		for _, pid := range []int{0, os.Getpid()} {
			if found := descriptors(&cfg, pid); len(found) != 1 || found[0].Severity != want {
				t.Errorf("%d: %+v", most, found)
			}
		}
	}
	if found := descriptors(&cfg, 1<<30); len(found) != 1 || found[0].Severity != finding.Warning {
		t.Errorf("a process that is gone: %+v", found)
	}
}
