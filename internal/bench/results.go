package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// results are the samples of several runs by phase and contender.
type results struct {
	names   []string // of contenders, in order
	samples map[string]map[string][]sample
}

func (r *results) add(name string, phases map[string]sample) {
	if !slices.Contains(r.names, name) {
		r.names = append(r.names, name)
	}
	if r.samples == nil {
		r.samples = make(map[string]map[string][]sample)
	}
	for phase, s := range phases {
		if r.samples[phase] == nil {
			r.samples[phase] = make(map[string][]sample)
		}
		r.samples[phase][name] = append(r.samples[phase][name], s)
	}
}

// print writes the medians with minimum and maximum, and how the median of poise compares, or of poise ipvs.
func (r *results) print(s scale) {
	fmt.Printf("\n%d services x %d servers: wall ms min/median/max, CPU ms, messages; ratio of poise's median wall (restore, list: of poise ipvs)\n", s.services, s.servers)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	order := []string{"restore", "list", "load"}
	for _, p := range phases {
		order = append(order, p.name)
	}
	for _, phase := range append(order, "stop", "left behind") {
		of := r.samples[phase]
		ours := median(append(of["poise"], of["poise ipvs"]...), wall)
		for _, name := range r.names {
			samples, ok := of[name]
			if !ok {
				continue
			}
			least, mid, most := spread(samples, wall)
			fmt.Fprintf(w, "%s\t%s\t%d/%d/%d\t%d\t%d", phase, name, least, mid, most,
				median(samples, func(s sample) int64 { return s.cpu.Milliseconds() }),
				median(samples, func(s sample) int64 { return int64(s.messages) }))
			if !strings.HasPrefix(name, "poise") && mid > 0 {
				fmt.Fprintf(w, "\t%.2f", float64(ours)/float64(mid))
			}
			fmt.Fprintln(w)
		}
	}
	w.Flush()
}

func wall(s sample) int64 { return int64(s.wall / time.Millisecond) }

func spread(samples []sample, of func(sample) int64) (least, mid, most int64) {
	var values []int64
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[0], values[len(values)/2], values[len(values)-1]
}

func median(samples []sample, of func(sample) int64) int64 {
	if len(samples) == 0 {
		return 0
	}
	_, mid, _ := spread(samples, of)
	return mid
}
