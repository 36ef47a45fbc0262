package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"poise/internal/director"
)

// serveControl answers on a control socket as the daemon would, and returns the runtime directory.
func serveControl(t *testing.T, answers map[string]http.HandlerFunc) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", director.SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, answer := range answers {
		mux.HandleFunc(pattern, answer)
	}
	server := http.Server{Handler: mux}
	t.Cleanup(func() { server.Close() })
	go server.Serve(l)
	return dir
}

// command runs poise in this process.
func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out strings.Builder
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(io.Discard)
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestReload(t *testing.T) {
	dir := serveControl(t, map[string]http.HandlerFunc{"POST /v1/reload": func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "poise.toml, epoch 3")
	}})
	if out, err := command(t, "reload", "--runtime-dir", dir); out != "reloaded: poise.toml, epoch 3\n" || err != nil {
		t.Errorf("says %q, error %v", out, err)
	}

	mistakes := strings.Repeat("poise.toml:4: service \"web\": colour: unknown key\n", 1000)
	dir = serveControl(t, map[string]http.HandlerFunc{"POST /v1/reload": func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, mistakes, http.StatusUnprocessableEntity)
	}})
	if out, err := command(t, "reload", "--runtime-dir", dir); out != "" || err == nil || err.Error() != strings.TrimSpace(mistakes) {
		t.Errorf("says %q, error %.200v, want every mistake", out, err)
	}
}

func TestEventsAsJSON(t *testing.T) {
	const lines = `{"seq":1,"what":"running"}` + "\n" + `{"seq":2,"what":"server down","new_field":true}` + "\n"
	dir := serveControl(t, map[string]http.HandlerFunc{"GET /v1/events": func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, lines)
	}})
	if out, err := command(t, "events", "--json", "--runtime-dir", dir); out != lines || err != nil {
		t.Errorf("says %q, error %v", out, err)
	}
}

func TestCompletion(t *testing.T) {
	dir := serveControl(t, map[string]http.HandlerFunc{"GET /v1/status": func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"services": [
			{"name": "web", "servers": [{"addr": "10.0.0.21:80"}, {"addr": "10.0.0.22:80"}]},
			{"name": "dns", "servers": [{"addr": "10.0.0.31:53"}]}],
			"routers": [{"name": "public"}, {"name": "inside"}]}`)
	}})
	const noFiles = ":4\n"
	for _, tt := range []struct{ line, want string }{
		{"drain", "web\ndns\n"},
		{"weight web", "10.0.0.21:80\n10.0.0.22:80\n"},
		{"enable mail", ""},
		{"weight web 10.0.0.21:80", ""},
		{"drain web 10.0.0.21:80", ""},
		{"failover", "public\ninside\n"},
		{"failover public", ""},
	} {
		words := append([]string{"__complete"}, strings.Fields(tt.line)...)
		if out, err := command(t, append(words, "--runtime-dir", dir, "")...); out != tt.want+noFiles || err != nil {
			t.Errorf("%s: offers %q, error %v, want %q", tt.line, out, err, tt.want)
		}
	}
}

// The doctor does not wait for a daemon that hangs, and says so.
func TestDoctorOfHungDaemon(t *testing.T) {
	t.Parallel()
	dir := serveControl(t, map[string]http.HandlerFunc{"GET /v1/status": func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(patience):
		}
	}})
	file := filepath.Join(t.TempDir(), "poise.toml")
	if err := os.WriteFile(file, []byte(block("web", `"192.0.2.10:80"`, `forward = "nat"`, `{ address = "127.0.0.1" }`)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := command(t, "doctor", file, "--runtime-dir", dir); !strings.Contains(out, "the daemon answers") || !strings.Contains(out, "not within 2s") {
		t.Errorf("says %q, error %v", out, err)
	}
}
