package director

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"poise/config"
	"poise/internal/status"
	"poise/ipvsctl"
)

// largeConfig is a file of n services with m servers each.
func largeConfig(n, m int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "[[service]]\nname = \"s%d\"\nlisten = [\"10.1.%d.%d:80\"]\nforward = \"nat\"\n", i, i/250, 1+i%250)
		for j := range m {
			fmt.Fprintf(&b, "[[service.server]]\naddress = \"10.2.%d.%d\"\nport = %d\nweight = 5\n", i/250, 1+j, 1+i)
		}
	}
	return b.Bytes()
}

// decideLarge is what a balancer with this configuration wants of an empty table.
func decideLarge(cfg *config.Config) ipvsctl.Table {
	b := &balancer{
		cfg: cfg, services: make(map[string]*serviceState), keep: &keeper{}, totals: &status.Totals{},
		out: newOutbox(nil, slog.New(slog.DiscardHandler)),
	}
	b.adopt(nil)
	b.decideAll()
	return b.want
}

// BenchmarkConfigToDiff is what a start has to think before it tells the kernel, for 10,000 servers. The metric x-decode is
// its CPU time as a multiple of what toml.Decode alone takes for the same file, the median over pairs.
func BenchmarkConfigToDiff(b *testing.B) {
	text := largeConfig(1000, 10)
	var ratios []float64
	for b.Loop() {
		decoded := cpuTime(func() {
			var tables any
			if _, err := toml.Decode(string(text), &tables); err != nil {
				b.Fatal(err)
			}
		})
		all := cpuTime(func() {
			cfg, err := config.Parse("poise.toml", text, nil, nil)
			if err != nil {
				b.Fatal(err)
			}
			if n := len(ipvsctl.Diff(nil, decideLarge(cfg))); n != 11000 {
				b.Fatal(n)
			}
		})
		ratios = append(ratios, float64(all)/float64(decoded))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "x-decode")
}

// cpuTime is what f takes, on all processors.
func cpuTime(f func()) time.Duration {
	used := func() time.Duration {
		var r syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // its arguments are good
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	before := used()
	f()
	return used() - before
}
