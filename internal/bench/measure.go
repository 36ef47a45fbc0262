package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"poise/internal/lab"
)

// quiet is for how long a program must send nothing and do nothing to count as ready.
const quiet = time.Second

// glance is how often a program is looked at. Each look takes the processor from it.
const glance = 100 * time.Millisecond

// patience bounds one phase: far more than any of them takes.
const patience = 3 * time.Minute

// phases are what is measured of a daemon, by how many servers have another weight afterwards.
var phases = []struct {
	name string
	step int // every step-th server is changed
}{{"reload, nothing changed", 0}, {"reload, 1 % changed", 100}, {"reload, 10 % changed", 10}}

// measure has a contender fill an empty table, change it and take it out again.
func measure(c contender, s scale, dir string) map[string]sample {
	n := lab.NewNetwork()
	defer n.Close()
	h := n.Host("director")
	h.Connect(n.Switch("net"), "10.0.0.1/8")
	watch := h.WatchIPVS()
	dir, err := os.MkdirTemp(dir, "")
	if err != nil {
		fail(err)
	}
	file := filepath.Join(dir, "config")
	write := func(step int) {
		if err := os.WriteFile(file, []byte(c.config(s, step)), 0o644); err != nil {
			fail(err)
		}
	}
	write(0)
	cmd := c.command(file, dir)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	all := make(map[string]sample)
	ready := listen(cmd, dir)
	begin := time.Now()
	p := h.Start(cmd)
	load := "load"
	b, isByHand := c.(byHand)
	if isByHand {
		load = "restore"
	}
	all[load] = settle(begin, watch, p, 0, s.entries(), c.daemon(), ready)
	if isByHand {
		begin := time.Now()
		must(h.Start(b.list()).Wait())
		all["list"] = sample{wall: time.Since(begin)}
	}
	if !c.daemon() {
		return all
	}
	changed := 0
	for _, phase := range phases {
		write(phase.step)
		want := 0
		if phase.step > 0 { // every changed one, and those changed before that are not any more
			want = (s.services*s.servers + phase.step - 1) / phase.step
		}
		before := cpuOf(p.Pid())
		begin := time.Now()
		must(p.Signal(syscall.SIGHUP))
		all[phase.name] = settle(begin, watch, p, before, max(want-changed, changed-want), true, ready)
		changed = want
	}
	begin, sent := time.Now(), watch.Writes()
	must(p.Signal(syscall.SIGTERM))
	for ended := false; !ended; {
		select {
		case <-p.Done():
			ended = true
		case <-time.After(glance):
			watch.Writes() // before they are too many for its buffer
		}
		if time.Since(begin) > patience {
			fail(fmt.Errorf("%s does not stop:\n%s", c.name(), output.String()))
		}
	}
	all["stop"] = sample{wall: time.Since(begin), messages: watch.Writes() - sent}
	left := 0
	for _, service := range h.IPVS() {
		left += 1 + len(service.Destinations)
	}
	all["left behind"] = sample{messages: left}
	return all
}

func must(err error) {
	if err != nil {
		fail(err)
	}
}

// listen gives a program a socket where it may say, as to systemd, that it is ready; who does not is quiet some time. It
// returns when that was last.
func listen(cmd *exec.Cmd, dir string) func() time.Time {
	c, err := net.ListenPacket("unixgram", filepath.Join(dir, "notify"))
	must(err)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+c.LocalAddr().String())
	var said atomic.Int64
	go func() {
		buf := make([]byte, 1<<10)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if strings.HasPrefix(string(buf[:n]), "READY=1") {
				said.Store(time.Now().UnixNano())
			}
		}
	}()
	return func() time.Time { return time.Unix(0, said.Load()) }
}

// settle waits until a program has sent at least so many messages and is quiet, or has ended, and returns what that took
// since begin: up to its last message; where it sent none, until it said that it is ready, or up to its last stir.
func settle(
	begin time.Time, watch *lab.IPVSWatch, p *lab.Process, cpuBefore time.Duration, least int, daemon bool, ready func() time.Time,
) sample {
	first := watch.Writes()
	stirred, cpu := begin, cpuBefore
	for {
		select {
		case <-p.Done():
			if daemon {
				fail(fmt.Errorf("ended: %v", p.Wait()))
			}
			return sample{watch.LastWrite().Sub(begin), 0, watch.Writes()}
		case <-time.After(glance):
		}
		now := time.Now()
		if c := cpuOf(p.Pid()); c > cpu+2*time.Second/ticks { // a daemon that waits does a little, too
			cpu, stirred = c, now
		}
		sent := watch.Writes() - first
		last := watch.LastWrite()
		switch {
		case now.Sub(begin) > patience:
			fail(fmt.Errorf("%d messages after %v, want %d", sent, patience, least))
		case !daemon, sent < least, now.Sub(stirred) < quiet, sent > 0 && now.Sub(last) < quiet:
		case sent > 0:
			return sample{last.Sub(begin), cpuOf(p.Pid()) - cpuBefore, sent}
		case ready().After(begin):
			return sample{ready().Sub(begin), cpuOf(p.Pid()) - cpuBefore, sent}
		default:
			return sample{stirred.Sub(begin), cpuOf(p.Pid()) - cpuBefore, sent}
		}
	}
}

// ticks is the unit of CPU times in /proc.
const ticks = 100

// cpuOf is the CPU time of a process and its children, as far as they live.
func cpuOf(pid int) time.Duration {
	var sum time.Duration
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, field := range fields[11:13] { // utime, stime
		n, _ := strconv.Atoi(field)
		sum += time.Duration(n) * time.Second / ticks
	}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				sum += cpuOf(n)
			}
		}
	}
	return sum
}
