package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"poise/checker"
	"poise/config"
	"poise/internal/director"
	"poise/internal/finding"
	"poise/internal/host"
	"poise/internal/nft"
	"poise/ipvsctl"
)

// permissions are the capabilities that the processes of poise run need.
func permissions(cfg *config.Config) []finding.Finding {
	change := finding.Finding{How: finding.Computed, What: "poise may change the network", Seen: "CAP_NET_ADMIN"}
	if err := host.NeedNetAdmin(); err != nil {
		change.Severity, change.Seen, change.Want, change.Remedy = finding.Fault, err.Error(), "CAP_NET_ADMIN", "run this as root"
	}
	if len(cfg.Routers) == 0 {
		return []finding.Finding{change}
	}
	raw := finding.Finding{How: finding.Computed, What: "poise may send adverts", Seen: "CAP_NET_RAW"}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		raw.Severity, raw.Seen, raw.Want, raw.Remedy = finding.Fault, "packet socket: "+err.Error(), "CAP_NET_RAW", "run this as root"
	} else {
		unix.Close(socket)
	}
	return []finding.Finding{change, raw}
}

// kernel looks at what the kernel has, is told, and holds for balancing. Without services nothing is balanced.
func kernel(ctx context.Context, cfg *config.Config, balancer int) ([]finding.Finding, error) {
	if len(cfg.Services) == 0 {
		return nil, nil
	}
	findings := features(ctx, cfg)
	settings, err := settings(cfg)
	finding.Refer(settings, "docs/operations.md#sysctls")
	findings = append(findings, settings...)
	findings = append(findings, tracking(host.Sysctls{})...)
	return append(findings, descriptors(cfg, balancer)...), err
}

// features are what the configuration needs of the kernel's IPVS and nftables.
func features(ctx context.Context, cfg *config.Config) []finding.Finding {
	findings := []finding.Finding{table(ctx)}
	if findings[0].Severity != finding.OK {
		return findings // the rest is part of it
	}
	var modules ipvsctl.Modules
	seen := make(map[string]bool)
	need := func(what string, err error) {
		if seen[what] {
			return
		}
		seen[what] = true
		f := finding.Finding{How: finding.Computed, What: "the kernel has " + what, Seen: "yes"}
		if err != nil {
			f.Severity, f.Seen, f.Want, f.Remedy = finding.Fault, err.Error(), "the module", "choose what this kernel has, or install its package of extra modules"
		}
		findings = append(findings, f)
	}
	marks := cfg.UsesFullNAT()
	for _, s := range cfg.Services {
		need("scheduler "+string(s.Scheduler), modules.Scheduler(string(s.Scheduler)))
		if s.PersistenceEngine != "" {
			need("persistence engine "+s.PersistenceEngine, modules.Engine(s.PersistenceEngine))
		}
		marks = marks || s.Marked()
	}
	if marks {
		client, err := nft.Open()
		if err == nil {
			client.Close()
		}
		need("nftables", err)
	}
	return findings
}

// table: without IPVS nothing is balanced.
func table(ctx context.Context) finding.Finding {
	f := finding.Finding{How: finding.Computed, What: "the kernel has IPVS"}
	client, err := ipvsctl.Open(ctx)
	var info ipvsctl.Info
	if err == nil {
		defer client.Close()
		info, err = client.Info(ctx)
	}
	if err != nil {
		f.Severity, f.Seen, f.Want = finding.Fault, err.Error(), "the module ip_vs"
		f.Remedy = "modprobe ip_vs: where there is none, the kernel's package for virtual machines may lack it"
		return f
	}
	f.Seen = fmt.Sprintf("version %d.%d.%d", info.Version[0], info.Version[1], info.Version[2])
	return f
}

// settings are the sysctls that poise run sets, and keeps as they must be.
func settings(cfg *config.Config) (findings []finding.Finding, _ error) {
	wanted, err := director.Sysctls(cfg)
	if err != nil {
		return nil, err
	}
	for _, s := range wanted {
		f := finding.Finding{How: finding.Computed, What: s.Name}
		f.Seen, err = host.Sysctls{}.Read(s.Name)
		switch {
		case err != nil:
			f.Severity, f.Seen, f.Want, f.Remedy = finding.Fault, err.Error(), s.Want, "modprobe ip_vs"
		case f.Seen != s.Want:
			f.Severity, f.Want = finding.Fault, s.Want
			f.Remedy = fmt.Sprintf("sysctl -w %s=%s: poise run does this by itself", s.Name, s.Want)
		}
		findings = append(findings, f)
	}
	return findings, nil
}

// How full, in percent, the kernel's table of tracked connections may be: from 100 on new ones are dropped.
const (
	trackingBusy = 80
	trackingFull = 98
)

// tracking: a full table drops every new connection, whoever it is for, though IPVS itself has no such limit.
func tracking(s host.Sysctls) []finding.Finding {
	number := func(name string) (n int, err error) {
		text, err := s.Read("net.netfilter." + name)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(text)
	}
	count, err := number("nf_conntrack_count")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing is tracked
	}
	most, errMost := number("nf_conntrack_max")
	f := finding.Finding{How: finding.Computed, What: "the table of tracked connections has room"}
	if err := errors.Join(err, errMost); err != nil {
		f.Severity, f.Seen, f.Want, f.Remedy = finding.Warning, err.Error(), "numbers", "sysctl net.netfilter shows them"
		return []finding.Finding{f}
	}
	f.Seen = fmt.Sprintf("%d of %d", count, most)
	if most > 0 && count*100 >= most*trackingBusy { // 0 is no limit
		f.Severity = finding.Warning
		if count*100 >= most*trackingFull {
			f.Severity = finding.Fault
		}
		f.Want = fmt.Sprintf("less than %d %%", trackingBusy)
		f.Remedy = fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d: and keep it in /etc/sysctl.d", max(4*most, 1<<16))
	}
	return []finding.Finding{f}
}

// otherFiles is what a balancer has open beside its checks: sockets to the kernel and to its parent, and those of metrics.
const otherFiles = 64

// descriptors: each check under way is an open file. Of pid, the balancer that runs, else of this process, which has the
// limit of whoever started it.
func descriptors(cfg *config.Config, pid int) []finding.Finding {
	checked := 0
	for _, s := range cfg.Services {
		if s.Check != nil {
			checked += len(s.Servers)
		}
	}
	if checked == 0 {
		return nil
	}
	whose, file := "this process", "/proc/self/limits"
	if pid != 0 {
		whose, file = fmt.Sprintf("the balancer, process %d", pid), fmt.Sprintf("/proc/%d/limits", pid)
	}
	f := finding.Finding{How: finding.Computed, What: "the checks have enough file descriptors"}
	text, err := os.ReadFile(file)
	limit, errLimit := openFiles(string(text))
	if err := errors.Join(err, errLimit); err != nil {
		f.Severity, f.Seen, f.Want, f.Remedy = finding.Warning, err.Error(), "a limit", "cat "+file
		return []finding.Finding{f}
	}
	need := min(checked, checker.MaxInFlight) + otherFiles
	f.Seen = fmt.Sprintf("%d for %s, and %d are needed at most", limit, whose, need)
	if limit < need {
		f.Severity, f.Want, f.Remedy = finding.Fault, strconv.Itoa(need), fmt.Sprintf("LimitNOFILE=%d: in the unit of poise, systemctl edit poise", 2*need)
	}
	return []finding.Finding{f}
}

// openFiles is how many files a process may have open, of /proc/PID/limits (proc_pid_limits(5)).
func openFiles(limits string) (int, error) {
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			words := strings.Fields(rest)
			if len(words) > 0 && words[0] == "unlimited" {
				return math.MaxInt, nil
			}
			if len(words) > 0 {
				return strconv.Atoi(words[0])
			}
		}
	}
	return 0, errors.New("no limit of open files is shown")
}
