package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"poise/internal/status"
	"poise/vrrp"
)

func TestFailover(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	peer := status.Speaker{Addr: netip.MustParseAddr("192.0.2.2"), Priority: 100, Interval: time.Second, LastHeard: time.Now().Add(time.Hour)}
	gone := peer
	gone.LastHeard = at
	hold := &status.Hold{Reason: "kernel update", By: "root", At: at}
	const (
		held  = "router a/b: BACKUP since 2026-01-02 03:04:05, held by root: kernel update  192.0.2.10 on eth0, priority 150"
		alone = "; no other node was heard"
		undo  = "; undo with: poise failover a/b --undo\n"
	)
	for _, tt := range []struct {
		name   string
		args   []string
		posted string
		router status.Router // what the daemon answers
		want   string
	}{
		{
			"taken over",
			[]string{"--reason", "kernel update"},
			`/v1/routers/a%2Fb/hold {"reason":"kernel update"}`,
			status.Router{State: vrrp.Backup, Hold: hold, Master: peer.Addr, Speakers: []status.Speaker{peer}},
			held + "; last heard 192.0.2.2, priority 100, " + peer.LastHeard.Format(time.DateTime) + "\n192.0.2.2 serves" + undo,
		},
		{
			"not yet", nil, `/v1/routers/a%2Fb/hold {}`,
			status.Router{State: vrrp.Backup, Hold: hold, Serving: true},
			held + alone + "; the addresses are still here\nthis node serves until another has taken over" + undo,
		},
		{
			"by nobody", nil, `/v1/routers/a%2Fb/hold {}`,
			status.Router{State: vrrp.Backup, Hold: hold, Master: gone.Addr, Speakers: []status.Speaker{gone}},
			held + "; last heard 192.0.2.2, priority 100, 2026-01-02 03:04:05\nno other node is heard to serve" + undo,
		},
		{
			"undone",
			[]string{"--undo"},
			`/v1/routers/a%2Fb/release {}`,
			status.Router{State: vrrp.Backup, Why: "no longer held"},
			"router a/b: BACKUP since 2026-01-02 03:04:05 (no longer held)  192.0.2.10 on eth0, priority 150\nit takes part in the election again\n",
		},
		{
			"not configured",
			[]string{"--undo"},
			`/v1/routers/a%2Fb/release {}`,
			status.Router{},
			"router a/b: not in the configuration\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var posted string
			dir := serveControl(t, map[string]http.HandlerFunc{"POST /": func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				posted = r.URL.EscapedPath() + " " + string(body)
				router := tt.router
				router.Name = "a/b"
				if router.State == vrrp.Backup {
					router.Interface, router.Priority, router.Since, router.Version = "eth0", 150, at, 3
					router.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.10")}
				}
				json.NewEncoder(w).Encode(router)
			}})
			out, err := command(t, append([]string{"failover", "a/b", "--runtime-dir", dir}, tt.args...)...)
			if out != tt.want || err != nil {
				t.Errorf("error %v, says\n%s\nwant\n%s", err, out, tt.want)
			}
			if posted != tt.posted {
				t.Errorf("posts %s, want %s", posted, tt.posted)
			}
		})
	}
}
