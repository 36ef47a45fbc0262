package director

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"poise/checker"
	"poise/config"
	"poise/internal/status"
	"poise/vrrp"
)

// script is a connection that delivers fixed bytes.
type script struct {
	net.Conn
	io.Reader
}

func (s script) Read(b []byte) (int, error) { return s.Reader.Read(b) }

func receiveFrom(b []byte) (message, error) {
	c := &conn{Conn: script{Reader: bytes.NewReader(b)}}
	return c.receive()
}

func TestMessageRoundTrip(t *testing.T) {
	left, right := net.Pipe()
	defer left.Close()
	defer right.Close()
	sent := message{
		Kind: kindIntents, ID: 7,
		Intents: intents{}.with(
			checker.Key{Service: "web", Server: netip.MustParseAddrPort("10.0.0.7:80")},
			status.Intent{Weight: new(0), Reason: "new disk", By: "root"},
		),
	}
	go func() {
		if err := (&conn{Conn: left}).send(sent); err != nil {
			t.Error(err)
		}
	}()
	got, err := (&conn{Conn: right}).receive()
	if err != nil {
		t.Fatal(err)
	}
	if got.Kind != sent.Kind || got.ID != sent.ID || len(got.Intents) != 1 || *got.Intents[0].Weight != 0 ||
		got.Intents[0].Key != sent.Intents[0].Key || got.Intents[0].Reason != "new disk" {
		t.Errorf("got %+v, want %+v", got, sent)
	}
}

func TestReceiveErrors(t *testing.T) {
	tests := []struct {
		name  string
		bytes string
		want  string
	}{
		{"nothing", "", "EOF"},
		{"half a length", "\x00\x00", "unexpected EOF"},
		{"half a body", "\x00\x00\x00\x09{", "unexpected EOF"},
		{"a length beyond reason", "\xff\xff\xff\xff", "at most 67108864 are accepted"},
		{"no JSON", "\x00\x00\x00\x02xx", "message: invalid character"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := receiveFrom([]byte(tt.bytes))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x0f{\"kind\":\"stop\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := receiveFrom(b); err == nil && len(b) < 4 {
			t.Error("a message without a length was accepted")
		}
	})
}

func TestRing(t *testing.T) {
	r := newRing()
	_, more := r.since(0)
	for range ringSize + 5 {
		r.add(status.Event{What: "x"})
	}
	select {
	case <-more:
	default:
		t.Error("who waits for events is not woken")
	}
	events, _ := r.since(0)
	if len(events) != ringSize || events[0].Seq != 6 {
		t.Errorf("%d events from number %d, want %d from 6", len(events), events[0].Seq, ringSize)
	}
	if events, _ := r.since(ringSize + 3); len(events) != 2 {
		t.Errorf("%d events are new, want 2", len(events))
	}
}

func TestWishesFile(t *testing.T) {
	path := t.TempDir() + "/wishes.json"
	if w, err := loadWishes(path); w.Servers != nil || w.Routers != nil || err != nil {
		t.Fatalf("without a file: %v, %v", w, err)
	}
	web := checker.Key{Service: "web", Server: netip.MustParseAddrPort("10.0.0.7:80")}
	dns := checker.Key{Service: "dns", Server: web.Server}
	w := wishes{
		Servers: intents{}.with(web, status.Intent{Drain: true, By: "root"}).with(dns, status.Intent{Weight: new(3)}),
		Routers: holds{}.with("public", status.Hold{Reason: "kernel", By: "root"}),
	}
	if err := w.save(path); err != nil {
		t.Fatal(err)
	}
	got, err := loadWishes(path)
	if err != nil || !got.Servers.of(web).Drain || *got.Servers.of(dns).Weight != 3 || got.Routers.of("public").Reason != "kernel" {
		t.Errorf("reads back as %+v, %v", got, err)
	}
	if got.Servers.without(web).of(web) != nil || got.Servers.of(web) == nil || got.Routers.without("public").of("public") != nil || got.Routers.of("public") == nil {
		t.Error("without must return another value and leave its receiver alone")
	}
}

func TestHoldsFollow(t *testing.T) {
	of := func(name string, vrid uint8) *config.Config {
		return &config.Config{Routers: []vrrp.Config{{Name: name, VRID: vrid, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}}}
	}
	h := holds{}.with("public", status.Hold{By: "root"})
	follow := func(before, after *config.Config) holds { return wishes{Routers: h}.follow(before, after).Routers }
	if got := follow(of("public", 51), of("front", 51)); got.of("front") == nil || got.of("public") != nil {
		t.Errorf("renamed: %v", got)
	}
	if got := follow(of("public", 51), of("front", 52)); got.of("front") != nil || got.of("public") == nil {
		t.Errorf("another router in its place: %v", got)
	}
}

func TestServiceHoldsFollow(t *testing.T) {
	of := func(name string, fwmark uint32) *config.Config {
		return &config.Config{Services: []config.Service{{Name: name, Fwmark: fwmark}}}
	}
	follow := func(before, after *config.Config) holds {
		return wishes{Services: holds{}.with("web", status.Hold{By: "root"})}.follow(before, after).Services
	}
	if got := follow(of("web", 1), of("www", 1)); got.of("www") == nil || got.of("web") != nil {
		t.Errorf("renamed: %v", got)
	}
	if got := follow(of("web", 1), of("www", 2)); len(got) != 0 {
		t.Errorf("another service in its place: %v", got)
	}
	if got := follow(of("web", 1), of("web", 2)); got.of("web") == nil {
		t.Errorf("the same name for something else: %v", got)
	}
}

func TestIntentsFollow(t *testing.T) {
	parse := func(text string) *config.Config {
		cfg, err := config.Parse("t", []byte(text), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	const head = "[[service]]\nforward = \"nat\"\n"
	web := parse(head + `name = "web"` + "\n" + `listen = ["192.0.2.10:80"]` + "\n" + `server = [{ address = "10.0.0.7" }, { address = "10.0.0.8" }]`)
	www := parse(head + `name = "www"` + "\n" + `listen = ["192.0.2.10:80"]` + "\n" + `server = [{ address = "10.0.0.8" }]`)
	moved := parse(head + `name = "web"` + "\n" + `listen = ["192.0.2.99:80"]` + "\n" + `server = [{ address = "10.0.0.7" }]`)
	key := func(service, server string) checker.Key {
		return checker.Key{Service: service, Server: netip.MustParseAddrPort(server)}
	}
	in := intents{}.with(key("web", "10.0.0.7:80"), status.Intent{Drain: true})

	renamed := in.follow(web, www)
	if renamed.of(key("www", "10.0.0.7:80")) == nil || len(renamed.dormant(www)) != 1 {
		t.Errorf("renamed, and the server left: %+v", renamed)
	}
	if back := renamed.follow(www, web); back.of(key("web", "10.0.0.7:80")) == nil || len(back.dormant(web)) != 0 {
		t.Errorf("and back again: %+v", back)
	}
	if same := in.follow(web, moved); same.of(key("web", "10.0.0.7:80")) == nil {
		t.Errorf("the service has another address and its old name: %+v", same)
	}
}

func TestAskSaysWhyThereIsNoAnswer(t *testing.T) {
	left, right := net.Pipe()
	c := &child{role: "balancer", conn: &conn{Conn: left}, waiting: make(map[uint64]chan message)}
	go c.listen(birth{events: func(status.Event) {}})
	go func() {
		if _, err := (&conn{Conn: right}).receive(); err != nil {
			t.Error(err)
		}
		right.Close()
	}()
	_, err := c.ask(t.Context(), commitTimeout, message{Kind: kindSnapshot})
	if err == nil || err.Error() != "the balancer has ended" {
		t.Errorf("error %v", err)
	}

	left, right = net.Pipe()
	defer right.Close()
	c = &child{role: "balancer", conn: &conn{Conn: left}, waiting: make(map[uint64]chan message)}
	go c.listen(birth{events: func(status.Event) {}})
	go func() { _, _ = (&conn{Conn: right}).receive() }() // hears the question and says nothing
	if _, err := c.ask(t.Context(), 1, message{Kind: kindSnapshot}); !errors.Is(err, errNoAnswer) {
		t.Errorf("error %v, want %v", err, errNoAnswer)
	}
	left.Close()
}
