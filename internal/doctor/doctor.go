// Package doctor examines a director and what is around it: whether what the configuration needs is there. It changes
// nothing, and asks the neighbours.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"poise/config"
	"poise/internal/director"
	"poise/internal/finding"
	"poise/internal/host"
	"poise/ipvsctl"
)

// neighboursTime is how long neighbours have to answer who has an address.
const neighboursTime = time.Second

// Examine looks at the host of the calling thread as one that has to serve cfg.
func Examine(ctx context.Context, cfg *config.Config) ([]finding.Finding, error) {
	findings := []finding.Finding{permission()}
	if len(cfg.Services) > 0 {
		findings = append(findings, table(ctx))
		settings, err := settings(cfg)
		if err != nil {
			return findings, err
		}
		findings = append(findings, settings...)
		findings = append(findings, tracking(host.Sysctls{})...)
	}
	holders, err := holders(ctx, cfg)
	return append(findings, holders...), err
}

func permission() finding.Finding {
	f := finding.Finding{How: finding.Computed, What: "poise may change the network", Seen: "CAP_NET_ADMIN"}
	if err := host.NeedNetAdmin(); err != nil {
		f.Severity, f.Seen, f.Want, f.Remedy = finding.Fault, err.Error(), "CAP_NET_ADMIN", "run this as root"
	}
	return f
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
		f.Remedy = fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d: and keep it in /etc/sysctl.d", 4*most)
	}
	return []finding.Finding{f}
}
