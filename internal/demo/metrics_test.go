package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"poise/internal/lab"
)

const (
	prometheusAt = clientIP + ":9090"
	patience     = 30 * time.Second
)

// A Prometheus on the client scrapes the demo's director, and its linter has nothing to say about the page.
func TestLabPrometheus(t *testing.T) {
	lab.NeedIPVS(t)
	for _, name := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(name); err != nil {
			lab.Lacks(t, err.Error())
		}
	}
	w := &world{stage: stage{screen: screen{io.Discard, false}, options: options{poise: builtPoise}}}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := attempt(func() { w.build(); spread(w) }); err != nil {
		t.Fatal(err)
	}

	config := filepath.Join(w.dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(`
global: { scrape_interval: 1s, scrape_timeout: 1s }
scrape_configs:
  - job_name: poise
    static_configs: [{ targets: ["`+metricsAt+`"] }]
`), 0o644); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(w.dir, "data"),
		"--web.listen-address", prometheusAt, "--log.level", "warn")
	server.Stderr = t.Output()
	w.client.Start(server)
	for _, query := range []string{
		`up{job="poise"} == 1`,
		`poise_server_weight{service="dr", server="192.0.2.23:80"} == 3`,
		`poise_check_duration_seconds_count{service="nat"} > 0`,
		`poise_service_connections_total{service="tun"} > 0`,
	} {
		lab.Eventually(t, 2*patience, func() error { return w.holdsTrue(query) })
	}

	page, err := w.client.HTTPClient().Get("http://" + metricsAt + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = page.Body
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// holdsTrue asks the Prometheus whether an expression has a result now.
func (w *world) holdsTrue(query string) error {
	r, err := w.client.HTTPClient().Get("http://" + prometheusAt + "/api/v1/query?query=" + url.QueryEscape(query))
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
