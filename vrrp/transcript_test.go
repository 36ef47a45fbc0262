package vrrp

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// A transcript begins with what it shows. A line "config" tells what differs from priority 100, version 3, an advert a
// second, the address .10, source .1, and an interface that is up. Every other line is a time, what happens then, and
// behind an arrow what the machine does about it and how long it then waits:
//
//	0s        start                            → become backup (started); deadline 3.609375s
//	deadline  timer                            → become master (…); send 100; add .10 #1; deadline 4.609375s
//	+1ms      done 1                           → announce .10 round 0; deadline 3.710375s
//	5s        advert .2 prio=150 every=100ms
//	          look                             → backup since 5s, heard .2 with 150; .10 either
//
// The other events: resume, release, stop, overflow, link up, link down, source .5, source none, failed 1 for a reason, missing .10,
// foreign .10, checked, reload and what differs now, hold on, hold off. .7 is 192.0.2.7.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
			for i := range gotLines {
				if gotLines[i] != wantLines[i] {
					t.Errorf("%s:%d:\n got %s\nwant %s", file, i+1, gotLines[i], wantLines[i])
				}
			}
		})
	}
}

// replay plays a transcript's events and returns it with the outcomes as they are.
func replay(t *testing.T, transcript string) string {
	if !strings.HasPrefix(transcript, "# ") {
		t.Fatal("the first line does not tell what the transcript shows")
	}
	cfg := Config{
		Name: "public", Interface: "eth0", VRID: 51, Version: 3, Priority: 100, Interval: time.Second, Preempt: true,
		Addresses: []netip.Addr{short(".10")},
	}
	source, up := short(".1"), true
	var (
		w   *witness
		out strings.Builder
	)
	for line := range strings.Lines(transcript) {
		text, _, _ := strings.Cut(line, "→")
		words := strings.Fields(text)
		switch {
		case len(words) == 0 || words[0] == "#":
			out.WriteString(line)
			continue
		case words[0] == "config":
			words = slices.DeleteFunc(words[1:], func(word string) bool {
				switch key, value, _ := strings.Cut(word, "="); key {
				case "source":
					source = short(value)
				case "link":
					up = value == "up"
				default:
					return false
				}
				return true
			})
			cfg = configure(t, cfg, words)
			out.WriteString(line)
			continue
		}
		if w == nil {
			w = newWitness(t, cfg)
			w.step(0, Link{up})
			w.step(0, Source{source})
		}
		var outcome, when string
		if words[0] == "look" {
			outcome = look(w.m)
		} else {
			when, words = words[0], words[1:]
			actions := w.step(moment(t, when, w), event(t, w.cfg, words))
			outcome = tell(actions, w.now) + "deadline " + tellTime(w.m.Deadline())
		}
		fmt.Fprintf(&out, "%-12s %-26s → %s\n", when, strings.Join(words, " "), outcome)
	}
	return out.String()
}

// moment reads "3.6s", "+5ms", "-5ms", "deadline" and "deadline+5ms".
func moment(t *testing.T, s string, w *witness) time.Duration {
	base, rest := time.Duration(0), s
	switch {
	case strings.HasPrefix(s, "deadline"):
		base, rest = w.m.Deadline(), strings.TrimPrefix(s, "deadline")
		if base == Never {
			t.Fatal("no deadline to wait for")
		}
	case strings.HasPrefix(s, "+"), strings.HasPrefix(s, "-"):
		base = w.now
	}
	if rest == "" {
		return base
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		t.Fatal(err)
	}
	if d += base; d < w.now && base != w.now {
		t.Fatalf("%s is before %v", s, w.now)
	}
	return d
}

func event(t *testing.T, cfg Config, words []string) Event {
	arg := func(i int) string {
		if i >= len(words) {
			t.Fatalf("event %q lacks something", words)
		}
		return words[i]
	}
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	switch words[0] {
	case "start":
		return Start{}
	case "resume":
		return Start{Resume: true}
	case "release":
		return Release{}
	case "stop":
		return Stop{}
	case "timer":
		return Timer{}
	case "advert":
		r := Received{From: short(arg(1)), Advert: cfg.Advert(0)}
		for _, word := range words[2:] {
			switch key, value, _ := strings.Cut(word, "="); key {
			case "prio":
				r.Advert.Priority = uint8(number(value))
			case "every":
				r.Advert.Interval, _ = time.ParseDuration(value)
			}
		}
		return r
	case "overflow":
		return Overflow{}
	case "link":
		return Link{Up: arg(1) == "up"}
	case "source":
		return Source{short(arg(1))}
	case "done":
		return Done{Op: number(arg(1))}
	case "failed":
		return Done{Op: number(arg(1)), Err: errors.New(strings.Join(words[2:], " "))}
	case "missing":
		return Missing{short(arg(1))}
	case "foreign":
		return Foreign{short(arg(1))}
	case "checked":
		return Checked{}
	case "reload":
		return Reload{configure(t, cfg, words[1:])}
	case "hold":
		return Hold{On: arg(1) == "on"}
	}
	t.Fatalf("event %q is unknown", words)
	return nil
}

// configure changes what words such as "priority=150" tell.
func configure(t *testing.T, c Config, words []string) Config {
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "version":
			c.Version, err = strconv.Atoi(value)
		case "priority":
			_, err = fmt.Sscan(value, &c.Priority)
		case "interval":
			c.Interval, err = time.ParseDuration(value)
		case "preempt":
			c.Preempt = value == "yes"
		case "delay":
			c.PreemptDelay, err = time.ParseDuration(value)
		case "addresses":
			c.Addresses = shorts(value)
		case "excluded":
			c.Excluded = shorts(value)
		default:
			err = errors.New("is unknown")
		}
		if err != nil {
			t.Fatalf("config %q: %v", word, err)
		}
	}
	return c
}

// short reads ".7" as 192.0.2.7, and anything else that is no address as none.
func short(s string) netip.Addr {
	if strings.HasPrefix(s, ".") {
		s = "192.0.2" + s
	}
	addr, _ := netip.ParseAddr(s)
	return addr
}

func shorts(s string) []netip.Addr {
	var addrs []netip.Addr
	for word := range strings.SplitSeq(s, ",") {
		addrs = append(addrs, short(word))
	}
	return addrs
}

func tellAddrs(addrs ...netip.Addr) string {
	var words []string
	for _, a := range addrs {
		words = append(words, strings.TrimPrefix(a.String(), "192.0.2"))
	}
	return strings.Join(words, " ")
}

func tellTime(d time.Duration) string {
	if d == Never {
		return "never"
	}
	return d.String()
}

// tell writes actions as they are read in a transcript.
func tell(actions []Action, now time.Duration) string {
	var out strings.Builder
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			fmt.Fprintf(&out, "send %d", a.Priority)
			if a.Due != now {
				fmt.Fprintf(&out, " (due %v)", a.Due)
			}
		case Add:
			fmt.Fprintf(&out, "add %s #%d", tellAddrs(a.Addrs...), a.Op)
		case Delete:
			verb := "delete"
			if a.Evict {
				verb = "evict"
			}
			fmt.Fprintf(&out, "%s %s #%d", verb, tellAddrs(a.Addrs...), a.Op)
		case Announce:
			fmt.Fprintf(&out, "announce %s round %d", tellAddrs(a.Addrs...), a.Round)
		case CancelAnnounce:
			out.WriteString("cancel announcements")
		case Recheck:
			out.WriteString("recheck")
		case Became:
			fmt.Fprintf(&out, "become %v (%s)", a.To, a.Why)
		case Note:
			fmt.Fprintf(&out, "%v %q (%s)", a.Level, a.What, a.Cause)
		case Stopped:
			out.WriteString("stopped")
		}
		out.WriteString("; ")
	}
	return out.String()
}

// look writes what a machine says to those who look.
func look(m *Machine) string {
	s := m.Status()
	var out strings.Builder
	fmt.Fprintf(&out, "%v since %v (%s)", s.State, s.Since, s.Why)
	for _, is := range []struct {
		so   bool
		what string
	}{{!s.Started, "not started"}, {s.Held, "held"}, {s.Leaving, "leaving"}, {s.Serving, "serving"}} {
		if is.so {
			out.WriteString(", " + is.what)
		}
	}
	if s.Faults != 0 {
		fmt.Fprintf(&out, ", faults: %v", s.Faults)
	}
	if s.Source.IsValid() {
		fmt.Fprintf(&out, ", source %s", tellAddrs(s.Source))
	}
	if s.Master.IsValid() {
		fmt.Fprintf(&out, ", heard %s with %d", tellAddrs(s.Master), s.MasterPriority)
	}
	for _, a := range m.cfg.All() {
		fmt.Fprintf(&out, ", %s %s", tellAddrs(a), []string{"either", "yes", "no"}[m.Expects(a)])
	}
	return out.String()
}
