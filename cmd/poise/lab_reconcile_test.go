package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"poise/internal/lab"
)

// What others do to the packets' marks is healed at once: the kernel tells of it.
func TestLabNftDrift(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	l.Director.Run("nft", "add table inet theirs")
	d := startDaemon(t, l.Director, block("web", `"192.0.2.10:80", "192.0.2.10:81"`, "scheduler = \"rr\"\nforward = \"nat\"", `{ address = "10.0.0.21", port = 80 }, { address = "10.0.0.22", port = 80 }`))
	if got := ask(t, l, 81, 4); got["nat1"] != 2 || got["nat2"] != 2 {
		t.Errorf("answers %v, want 2 from each", got)
	}
	kept := connect(t, l, 81)

	const soon = tick / 2
	healed := func(what string) {
		t.Helper()
		begin := time.Now()
		lab.Eventually(t, patience, func() error {
			if out := l.Director.Run("nft", "list ruleset"); !strings.Contains(out, "192.0.2.10 . tcp . 81") || strings.Contains(out, "counter") {
				return fmt.Errorf("after %s:\n%s", what, out)
			}
			return nil
		})
		if took := time.Since(begin); took > soon {
			t.Errorf("%s was healed after %v", what, took)
		}
		if _, err := kept.ask(); err != nil {
			t.Errorf("after %s a connection is cut: %v", what, err)
		}
	}
	l.Director.Run("nft", "flush ruleset")
	healed("nft flush ruleset")
	d.sees("drift", "nftables changed by somebody else, put back")
	l.Director.Run("nft", "add rule inet poise prerouting counter")
	healed("a rule of somebody else in our table")
	ask(t, l, 80, 2)

	drifts := len(d.events("drift"))
	l.Director.Run("nft", "add table inet theirs")
	l.Director.Run("nft", "delete table inet theirs")
	d.reload(block("web", `"192.0.2.10:80", "192.0.2.10:82"`, "scheduler = \"rr\"\nforward = \"nat\"", `{ address = "10.0.0.21", port = 80 }, { address = "10.0.0.22", port = 80 }`))
	ask(t, l, 82, 2)
	if now := len(d.events("drift")); now != drifts {
		t.Errorf("drift is said of what is somebody else's, or our own:\n%s", strings.Join(d.events("drift"), "\n"))
	}
	if _, err := kept.ask(); err != nil {
		t.Errorf("a connection to a port that is no longer the service's is cut: %v", err)
	}
}

// tick is how often poise looks although nobody told it anything.
const tick = 5 * time.Second

// A service that is held is left alone, whoever changes it: others, checks, reloads. When it is let go it is as decided.
func TestLabHold(t *testing.T) {
	l := newLVS(t)
	servers := natServers(l, 2)
	d := startDaemon(t, l.Director, checkedWeb+weighted)
	wantTable(t, l.Director, webLine, weightedLine)
	d.allUp()

	if out := d.must("hold", "web", "--reason", "new disk"); !strings.Contains(out, "service web is held by root") || !strings.Contains(out, "undo with: poise release web") {
		t.Errorf("hold says %q", out)
	}
	const byHand = "tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 9, 10.0.0.22:80 nat 1"
	l.Director.Run("ipvsadm", "-e", "-t", "192.0.2.10:80", "-r", "10.0.0.21", "-m", "-w", "9")
	l.Director.Run("ipvsadm", "-D", "-t", "192.0.2.10:83")
	wantTable(t, l.Director, byHand, weightedLine) // the other one is healed

	servers[1].SetHealth(http.StatusServiceUnavailable)
	d.sees("server down", "10.0.0.22")
	watch := l.Director.WatchIPVS()
	d.reload(strings.Replace(checkedWeb, "rr", "wrr", 1) + weighted)
	if n := watch.Writes(); n != 0 {
		t.Errorf("%d messages while the service is held", n)
	}
	wantTable(t, l.Director, byHand, weightedLine)
	lab.Eventually(t, patience, func() error {
		if text := d.must("status"); !strings.Contains(text, "! service web is held by root") || !strings.Contains(text, "10.0.0.21:80 weight 9 → 1") {
			return errors.New(text)
		}
		return nil
	})

	// Another balancer, and another daemon, know of it.
	d.stop()
	d.start()
	wantTable(t, l.Director, byHand, weightedLine)

	d.must("release", "web")
	wantTable(t, l.Director, "tcp 192.0.2.10:80 wrr: 10.0.0.21:80 nat 1, 10.0.0.22:80 nat 0", weightedLine)
	if out, _, err := d.run("hold", "nosuch"); err == nil {
		t.Errorf("a service that is not there is held: %s", out)
	}
}

// A connection survives every edit that can keep it, and the counters go on.
func TestLabEdits(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	service := func(more, servers string) string {
		return api + block("web", `"192.0.2.10:80"`, "forward = \"nat\"\n"+more, servers) + "[ipvs.timeouts]\ntcp = \"10m\"\n"
	}
	const two = `{ address = "10.0.0.21" }, { address = "10.0.0.22" }`
	d := startDaemon(t, l.Director, service(`scheduler = "rr"`, two))
	var kept []*connection
	for range 2 {
		kept = append(kept, connect(t, l, 80))
	}
	watch := l.Director.WatchIPVS()
	for _, edit := range []struct{ what, config string }{
		{"scheduler", service(`scheduler = "sh"`, two)},
		{"flags", service("scheduler = \"sh\"\nscheduler_flags = [\"sh-port\"]", two)},
		{"persistence", service("scheduler = \"wrr\"\npersistence = \"5m\"\npersistence_granularity = \"/24\"", two)},
		{"weights", service(`scheduler = "wrr"`, `{ address = "10.0.0.21", weight = 7 }, { address = "10.0.0.22", weight = 0 }`)},
		{"thresholds", service(`scheduler = "wrr"`, `{ address = "10.0.0.21", upper_threshold = 1 }, { address = "10.0.0.22", upper_threshold = 1 }`)},
		{"method", service(`scheduler = "wrr"`, `{ address = "10.0.0.21", forward = "dr" }, { address = "10.0.0.22", forward = "tun" }`)},
		{"source NAT", service(`scheduler = "wrr"`, `{ address = "10.0.0.21", forward = "fullnat" }, { address = "10.0.0.22", forward = "fullnat" }`)},
		{"timeouts, sysctls", service(`scheduler = "rr"`, two) + "udp = \"1m\"\n[ipvs.sysctl]\nsync_threshold = [3, 20]\nrun_estimation = 1\n"},
		{"another service", service(`scheduler = "rr"`, two) + block("more", `"192.0.2.10:90-99"`, `forward = "nat"`, two)},
		{"name", strings.Replace(service(`scheduler = "rr"`, two), `"web"`, `"www"`, 1)},
	} {
		d.reload(edit.config)
		if s := d.status(); s.Config.Rejected != "" {
			t.Fatalf("%s: %s", edit.what, s.Config.Rejected)
		}
		written := watch.Writes()
		d.reload(edit.config)
		if n := watch.Writes(); n != written {
			t.Errorf("%s: %d messages for the same file again", edit.what, n-written)
		}
		for i, c := range kept {
			if _, err := c.ask(); err != nil {
				t.Fatalf("connection %d is cut by another %s: %v", i, edit.what, err)
			}
		}
	}
	if got := l.Director.ReadSysctl("net/ipv4/vs/sync_threshold"); strings.Join(strings.Fields(got), " ") != "3 20" {
		t.Errorf("sync_threshold is %q", got)
	}
	if out := l.Director.Run("ipvsadm", "-l", "--timeout"); !strings.Contains(out, "600 120 60") {
		t.Errorf("timeouts are %q", out)
	}
}

// A larger table: each changed entry is one message, what is as it should be none, and a stop leaves all or nothing.
func TestLabMessages(t *testing.T) {
	const services, servers = 100, 10
	l := newLVS(t)
	config := func(onStop string, weight func(n int) int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "[global]\non_stop = %q\n", onStop)
		for i := range services {
			var all []string
			for j := range servers {
				all = append(all, fmt.Sprintf("{ address = \"10.0.0.%d\", weight = %d }", 21+j, weight(i*servers+j)))
			}
			b.WriteString(block(fmt.Sprint("s", i), fmt.Sprintf("\"192.0.2.10:%d\"", 1000+i), `forward = "nat"`, strings.Join(all, ", ")))
		}
		return b.String()
	}
	same := func(int) int { return 5 }
	every := func(step int) func(int) int {
		return func(n int) int {
			if n%step == 0 {
				return 6
			}
			return 5
		}
	}
	watch := l.Director.WatchIPVS()
	d := startDaemon(t, l.Director, config("leave", same))
	written := 0
	expect := func(what string, want map[uint8]int) {
		t.Helper()
		total := 0
		for _, n := range want {
			total += n
		}
		if n := watch.Writes(); n-written != total {
			t.Errorf("%s: %d messages, want %d (by command: %v)", what, n-written, total, watch.Counts())
		}
		written = watch.Writes()
	}
	const newService, newDest, setDest, delService = 1, 5, 6, 3
	expect("start", map[uint8]int{newService: services, newDest: services * servers})
	d.reload(config("leave", same))
	expect("nothing changed", nil)
	d.reload(config("leave", every(100)))
	expect("1 % changed", map[uint8]int{setDest: 10})
	d.reload(config("leave", every(10)))
	expect("10 % changed", map[uint8]int{setDest: 90}) // ten have it already
	d.stop()
	d.start()
	expect("stop that leaves, and start", nil)
	d.reload(config("remove", every(10)))
	expect("on_stop", nil)
	d.stop()
	expect("stop that removes", map[uint8]int{delService: services})
	if left := l.Director.IPVS(); len(left) > 0 {
		t.Errorf("left behind: %+v", left)
	}
}

// Every setting that the kernel's IPVS has can stand in the file, with the value that it has already.
func TestLabEverySysctl(t *testing.T) {
	l := newLVS(t)
	names, err := func() (names []string, err error) {
		err = l.Director.Do(func() error {
			entries, err := os.ReadDir("/proc/sys/net/ipv4/vs")
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return err
		})
		return names, err
	}()
	if err != nil || len(names) < 20 {
		t.Fatalf("settings %q, error %v", names, err)
	}
	config := web + "[ipvs.sysctl]\n"
	for _, name := range names {
		value := strings.Join(strings.Fields(l.Director.ReadSysctl("net/ipv4/vs/"+name)), ", ")
		if strings.Contains(value, ",") {
			value = "[" + value + "]"
		}
		config += name + " = " + value + "\n"
	}
	d := startDaemon(t, l.Director, config)
	if set := d.events("sysctl set", "net.ipv4.vs."); len(set) > 0 {
		t.Errorf("set although it was so: %q", set)
	}
	for _, s := range d.status().Sysctls {
		if s.Problem != "" || s.Value != s.Want {
			t.Errorf("%+v", s)
		}
	}
}
