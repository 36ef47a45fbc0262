package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"poise/internal/lab"
)

// limit is how long anything may take to come true: many times what it takes, even when emulated.
const limit = 15 * time.Second

// mismatch is a judgement that went against poise.
type mismatch struct{ expected, seen string }

func (m *mismatch) Error() string { return "expected " + m.expected + ", saw " + m.seen }

// weights are numbers by server: its weight in the kernel, or how many requests it has answered.
type weights map[string]int

func (w weights) String() string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(w)) {
		words = append(words, fmt.Sprintf("%s:%d", name, w[name]))
	}
	return strings.Join(words, " ")
}

// table is what the kernel balances, by service.
type table map[lab.Method]weights

func (t table) String() string {
	var words []string
	for _, m := range slices.Sorted(maps.Keys(t)) {
		words = append(words, fmt.Sprintf("%s [%v]", m, t[m]))
	}
	return strings.Join(words, ", ")
}

func (t table) equal(o table) bool { return maps.EqualFunc(t, o, maps.Equal) }

// with returns a table in which server has weight in the given services.
func (t table) with(server string, weight int, in ...lab.Method) table {
	next := table{}
	for m, servers := range t {
		next[m] = maps.Clone(servers)
		if slices.Contains(in, m) {
			next[m][server] = weight
		}
	}
	return next
}

// kernel reads the director's table. What the story does not know appears under its address.
func (w *world) kernel() table {
	have := table{}
	for _, s := range w.director.IPVS() {
		service := lab.Method(s.Addr.String())
		for m, vip := range vips {
			if s.Addr.String() == vip+":80" {
				service = m
			}
		}
		have[service] = weights{}
		for _, d := range s.Destinations {
			name := fmt.Sprintf("%v by %s", d.Addr, d.Method)
			for known, server := range w.servers {
				if d.Addr.Addr() == server.Addr && d.Addr.Port() == 80 && d.Method == service {
					name = known
				}
			}
			have[service][name] = d.Weight
		}
	}
	return have
}

// holds judges that the kernel's table is as wanted, now.
func (w *world) holds() {
	if have := w.kernel(); !have.equal(w.want) {
		must(&mismatch{"in the kernel " + w.want.String(), have.String()})
	}
}

// await polls the kernel until its table is as wanted. It returns how long after begin the last
// service was.
func (w *world) await(begin time.Time) time.Duration {
	for ; ; time.Sleep(5 * time.Millisecond) {
		have, took := w.kernel(), time.Since(begin)
		if have.equal(w.want) {
			return took
		}
		if took > limit {
			must(&mismatch{fmt.Sprintf("in the kernel within %v: %v", limit, w.want), have.String()})
		}
	}
}
