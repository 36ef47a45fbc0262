package director

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

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

// BenchmarkConfigToDiff is what a start has to think before it tells the kernel: it stays below 2.5 times the CPU time of
// config's BenchmarkDecode, which only decodes the same file.
func BenchmarkConfigToDiff(b *testing.B) {
	text := largeConfig(1000, 10)
	for b.Loop() {
		cfg, err := config.Parse("poise.toml", text, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		if n := len(ipvsctl.Diff(nil, decideLarge(b, cfg))); n != 11000 {
			b.Fatal(n)
		}
	}
}

func decideLarge(tb testing.TB, cfg *config.Config) ipvsctl.Table {
	bal := &balancer{
		log: slog.New(slog.DiscardHandler), totals: &status.Totals{}, cfg: cfg,
		services: make(map[string]*serviceState), keep: &keeper{}, out: newOutbox(nil, slog.New(slog.DiscardHandler)),
	}
	bal.adopt(nil)
	bal.decideAll()
	return bal.want
}

func BenchmarkLoadParts(b *testing.B) {
	text := largeConfig(1000, 10)
	cfg, err := config.Parse("poise.toml", text, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	data, err := json.Marshal(message{Kind: kindPrepare, Config: cfg})
	if err != nil {
		b.Fatal(err)
	}
	want := decideLarge(b, cfg)
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			config.Parse("poise.toml", text, nil, nil)
		}
	})
	b.Run("marshal", func(b *testing.B) {
		for b.Loop() {
			json.Marshal(message{Kind: kindPrepare, Config: cfg})
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		for b.Loop() {
			var m message
			json.Unmarshal(data, &m)
		}
	})
	b.Run("decide", func(b *testing.B) {
		for b.Loop() {
			decideLarge(b, cfg)
		}
	})
	b.Run("diff", func(b *testing.B) {
		for b.Loop() {
			ipvsctl.Diff(nil, want)
		}
	})
	b.Run("own", func(b *testing.B) {
		for b.Loop() {
			o := &ownership{path: b.TempDir() + "/owned.json"}
			o.exactly(want)
		}
	})
	b.Run("record", func(b *testing.B) {
		for b.Loop() {
			r := ipvsctl.NewRecorder(io.Discard)
			r.Apply(context.Background(), ipvsctl.Diff(nil, want))
		}
	})
	b.Run("adopt", func(b *testing.B) {
		for b.Loop() {
			o := &ownership{path: b.TempDir() + "/owned.json"}
			k := &keeper{kernel: ipvsctl.NewRecorder(io.Discard), owned: o, emit: func(status.Event) {}, totals: &status.Totals{}, refused: map[opID]*refusal{}}
			k.adopt(context.Background(), begin, ipvsctl.Table{}, want)
		}
	})
	b.Run("socket", func(b *testing.B) {
		x, y := net.Pipe()
		a, c := &conn{Conn: x}, &conn{Conn: y}
		for b.Loop() {
			go a.send(message{Kind: kindPrepare, Config: cfg})
			c.receive()
		}
	})
	b.Log(len(data), strings.Count(string(text), "\n"))
}
