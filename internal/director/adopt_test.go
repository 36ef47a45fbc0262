package director

import (
	"net/netip"
	"testing"

	"poise/checker"
	"poise/config"
	"poise/internal/status"
	"poise/ipvsctl"
)

// A service that gets a second port keeps what is known of its servers, though they have another identity then.
func TestAdoptKeepsVerdicts(t *testing.T) {
	parse := func(text string) *config.Config {
		cfg, err := config.Parse("t", []byte(text), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	const rest = "forward = \"nat\"\ncheck = { type = \"tcp\", port = 80 }\nserver = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }]\n"
	one := parse("[[service]]\nname = \"web\"\nlisten = [\"192.0.2.10:80\"]\n" + rest)
	two := parse("[[service]]\nname = \"web\"\nlisten = [\"192.0.2.10:80\", \"192.0.2.10:443\"]\n" + rest)

	b := &balancer{
		cfg: one, services: make(map[string]*serviceState), servers: make(map[checker.Key]*serverState),
		keep: &keeper{}, totals: &status.Totals{}, out: newOutbox(nil, nil),
	}
	b.adopt(nil)
	state := func(addr string) *serverState {
		return b.servers[checker.Key{Service: "web", Server: netip.MustParseAddrPort(addr)}]
	}
	state("10.0.0.1:80").state = checker.Up
	state("10.0.0.2:80").state = checker.Down
	b.cfg = two
	b.adopt(nil)
	b.decideAll()
	for addr, want := range map[string]checker.State{"10.0.0.1:0": checker.Up, "10.0.0.2:0": checker.Down} {
		if got := state(addr).state; got != want {
			t.Errorf("%s is %v, want %v", addr, got, want)
		}
	}
	got := b.want[two.Services[0].Key()].Destinations[netip.MustParseAddrPort("10.0.0.1:0")]
	if want := (ipvsctl.Destination{Weight: 1}); got != want {
		t.Errorf("the server that is up is %v, want %v", got, want)
	}
}

// What is held cannot become something else, and one that leaves the file is held no more.
func TestHeldElsewhere(t *testing.T) {
	at := func(name string, port uint16) *config.Config {
		return &config.Config{Services: []config.Service{{
			Name: name, Listen: []config.Listen{{Addr: netip.MustParseAddr("192.0.2.10"), First: port, Last: port}},
		}}}
	}
	w := wishes{Services: holds{}.with("web", status.Hold{By: "root"})}
	if err := w.heldElsewhere(at("web", 80), at("web", 81)); err == nil {
		t.Error("a held service may move")
	}
	for _, after := range []*config.Config{at("web", 80), at("www", 80), at("other", 81), {}} {
		if err := w.heldElsewhere(at("web", 80), after); err != nil {
			t.Errorf("%+v: %v", after.Services, err)
		}
	}
	if got := w.follow(at("web", 80), at("other", 81)).Services; len(got) != 0 {
		t.Errorf("still held: %v", got)
	}
}
