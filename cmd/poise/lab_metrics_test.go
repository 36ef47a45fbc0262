package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"poise/internal/lab"
)

// needPrometheus skips where Debian's package prometheus is not installed, and fails where it is promised.
func needPrometheus(t *testing.T) {
	t.Helper()
	for _, name := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("POISE_LAB") == "require" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// A Prometheus scrapes the director, and its linter has nothing to say about the page.
func TestLabPrometheus(t *testing.T) {
	needPrometheus(t)
	l := newLVS(t)
	natServers(l, 2)
	d := startDaemon(t, l.Director, api+checkedWeb)
	d.allUp()

	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(`
global: { scrape_interval: 1s, scrape_timeout: 1s }
scrape_configs:
  - job_name: poise
    static_configs: [{ targets: ["192.0.2.1:9650"] }]
`), 0o644); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", lab.RouterAddr+":9090", "--log.level", "warn")
	server.Stderr = t.Output()
	l.Router.Start(server)

	for _, query := range []string{
		`up{job="poise"} == 1`,
		`poise_server_weight{service="web", server="10.0.0.22:80"} == 1`,
		`poise_check_duration_seconds_count{service="web"} > 0`,
	} {
		lab.Eventually(t, 2*patience, func() error { return holds(l.Router, query) })
	}

	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(metrics(t, l))
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// holds asks the Prometheus on h whether an expression has a result now.
func holds(h *lab.Host, query string) error {
	r, err := h.HTTPClient().Get("http://" + lab.RouterAddr + ":9090/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	var answer struct {
		Error string
		Data  struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		return err
	}
	if len(answer.Data.Result) == 0 {
		return fmt.Errorf("%s: no result %s", query, answer.Error)
	}
	return nil
}
