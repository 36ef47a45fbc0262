package director

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"poise/checker"
	"poise/config"
	"poise/internal/status"
	"poise/ipvsctl"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// A transcript begins with the service in the configuration's language, up to a line "---". Each line
// behind that is something that happens, then an arrow and what the kernel should hold from then on:
//
//	.1 up                  → .1 w1  .2 w0 (not checked yet)  [up]
//	.1 down: timed out     ...
//	.1 intent drain / weight 5 / enable
//	.1 found 3             (in the kernel when poise began)
//	start
func TestDecideTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/decide/*.txt")
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
			} else if got != string(want) {
				t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
			}
		})
	}
}

// replay plays a transcript's events and returns it with the outcomes as they are.
func replay(t *testing.T, transcript string) string {
	head, events, _ := strings.Cut(transcript, "---\n")
	cfg, err := config.Parse("transcript", []byte(head), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	service := cfg.Services[0]
	full := func(short string) netip.AddrPort {
		if strings.HasSuffix(service.SorryServer.Addr().String(), short) {
			return service.SorryServer
		}
		for _, s := range service.Servers {
			if strings.HasSuffix(s.Address.String(), short) {
				return s.Addr()
			}
		}
		t.Fatalf("no server %q", short)
		return netip.AddrPort{}
	}
	type verdict struct {
		state checker.State
		cause string
	}
	verdicts := map[netip.AddrPort]verdict{}
	wishes := map[netip.AddrPort]*status.Intent{}
	found := map[netip.AddrPort]int{}
	quorum := &checker.Quorum{Weight: service.Quorum, Hysteresis: service.QuorumHysteresis}
	know := knowledge{
		verdict: func(a netip.AddrPort) (checker.State, string) { return verdicts[a].state, verdicts[a].cause },
		intent:  func(a netip.AddrPort) *status.Intent { return wishes[a] },
		found:   func(a netip.AddrPort) (int, bool) { w, ok := found[a]; return w, ok },
	}

	var out strings.Builder
	out.WriteString(head + "---\n")
	for line := range strings.Lines(events) {
		event, _, _ := strings.Cut(line, "→")
		event = strings.TrimSpace(event)
		if event == "" || strings.HasPrefix(event, "#") {
			out.WriteString(line)
			continue
		}
		short, what, _ := strings.Cut(event, " ")
		var weight int
		switch {
		case event == "start":
		case what == "up":
			verdicts[full(short)] = verdict{checker.Up, ""}
		case strings.HasPrefix(what, "down: "):
			verdicts[full(short)] = verdict{checker.Down, strings.TrimPrefix(what, "down: ")}
		case what == "drain":
			wishes[full(short)] = &status.Intent{Drain: true, By: "root", Reason: "new disk"}
		case what == "enable":
			delete(wishes, full(short))
		case scan(what, "weight %d", &weight):
			wishes[full(short)] = &status.Intent{Weight: new(weight), By: "root"}
		case scan(what, "found %d", &weight):
			found[full(short)] = weight
			out.WriteString(line)
			continue
		default:
			t.Fatalf("event %q is unknown", event)
		}
		fmt.Fprintf(&out, "%-22s → %s\n", event, tell(decide(service, know, quorum)))
	}
	return out.String()
}

func scan(s, format string, into *int) bool {
	n, err := fmt.Sscanf(s, format, into)
	return n == 1 && err == nil
}

func tell(d decision) string {
	var words []string
	addrs := slices.SortedFunc(maps.Keys(d.reasons), netip.AddrPort.Compare)
	for addr := range d.service.Destinations {
		if _, configured := d.reasons[addr]; !configured {
			addrs = append(addrs, addr)
		}
	}
	for _, addr := range addrs {
		weight, reason := "-", d.reasons[addr]
		if destination, in := d.service.Destinations[addr]; in {
			weight = fmt.Sprint(destination.Weight)
		}
		if reason == "" {
			reason = "sorry server"
		}
		octets := strings.Split(addr.Addr().String(), ".")
		words = append(words, fmt.Sprintf(".%s %s (%s)", octets[3], weight, reason))
	}
	state := "down"
	if d.up {
		state = "up"
	}
	if d.changed {
		state = "now " + state
	}
	return strings.Join(append(words, state), ", ")
}

func TestDecideKeepsServiceSettings(t *testing.T) {
	cfg, err := config.Parse("t", []byte(`
[[service]]
name = "web"
listen = ["192.0.2.10:80"]
forward = "tun"
scheduler = "sh"
persistence = "5m"
[[service.server]]
address = "10.0.0.1"
weight = 7
`), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	know := knowledge{intent: func(netip.AddrPort) *status.Intent { return nil }}
	got := decide(cfg.Services[0], know, &checker.Quorum{Weight: 1}).service
	if want := (ipvsctl.Settings{Scheduler: "sh", Persistence: 5 * time.Minute}); got.Settings != want {
		t.Errorf("settings %+v, want %+v", got.Settings, want)
	}
	want := ipvsctl.Destination{Method: ipvsctl.TUN, Weight: 7}
	if d := got.Destinations[netip.MustParseAddrPort("10.0.0.1:80")]; d != want {
		t.Errorf("destination %+v, want %+v", d, want)
	}
}
