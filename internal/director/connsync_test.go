package director

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"poise/config"
	"poise/internal/status"
	"poise/ipvsctl"
)

func TestDaemonsFor(t *testing.T) {
	sync := func(s config.Sync) *config.Config {
		s.Interface, s.ID = "eth1", new(uint8(51))
		return &config.Config{IPVS: config.IPVS{Sync: &s}}
	}
	for _, tt := range []struct {
		name    string
		cfg     *config.Config
		masters []string
		want    string
	}{
		{"none is configured", &config.Config{}, []string{"public"}, ""},
		{"the router's master sends", sync(config.Sync{Router: "public"}), []string{"inside", "public"}, "master"},
		{"its backup takes in", sync(config.Sync{Router: "public"}), []string{"inside"}, "backup"},
		{"alone as told", sync(config.Sync{Role: config.SyncMaster}), nil, "master"},
		{"alone as told, whatever routers do", sync(config.Sync{Role: config.SyncBackup}), []string{"public"}, "backup"},
		{"both", sync(config.Sync{Role: config.SyncBoth}), nil, "master backup"},
	} {
		var got []string
		for _, d := range daemonsFor(tt.cfg, tt.masters) {
			got = append(got, d.Role.String())
			if d.Interface != "eth1" || d.ID != 51 || d.Port != 8848 {
				t.Errorf("%s: %+v", tt.name, d)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// What runs is what is wanted, after each change of it and of the kernel; and what is said of it.
func TestConnSync(t *testing.T) {
	kernel := ipvsctl.NewRecorder(io.Discard)
	path := filepath.Join(t.TempDir(), "owned.json")
	owned, err := loadOwnership(path, "this boot")
	if err != nil {
		t.Fatal(err)
	}
	var events told
	s := &connSync{kernel: kernel, owned: owned, emit: events.emit, totals: &status.Totals{}}
	master := ipvsctl.Daemon{Role: ipvsctl.SyncMaster, Interface: "eth1", ID: 51}.Normal()
	backup := master
	backup.Role = ipvsctl.SyncBackup
	running := func() (words []string) {
		daemons, err := kernel.Daemons(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range daemons {
			words = append(words, fmt.Sprintf("%v/%d", d.Role, d.ID))
		}
		return words
	}
	expect := func(what string, want, said []string) {
		t.Helper()
		if got := running(); !slices.Equal(got, want) {
			t.Errorf("%s: %q run, want %q", what, got, want)
		}
		if !slices.Equal(events, told(said)) {
			t.Errorf("%s: said %q, want %q", what, events, said)
		}
		events = nil
	}

	foreign := ipvsctl.Daemon{Role: ipvsctl.SyncBackup, Interface: "eth9", ID: 9}
	if err := kernel.StartDaemon(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	s.keep(t.Context(), nil)
	expect("nothing is configured", []string{"backup/9"}, nil)

	s.change()
	s.keep(t.Context(), []ipvsctl.Daemon{backup})
	expect("backup", []string{"backup/51"}, []string{
		"connection synchronisation stopped: sync backup on eth9, id 9", "connection synchronisation started: sync backup on eth1, id 51",
	})
	s.keep(t.Context(), []ipvsctl.Daemon{backup})
	expect("nothing to do", []string{"backup/51"}, nil)

	s.change()
	s.stopOthers(t.Context(), []ipvsctl.Daemon{master})
	expect("on the way to master", nil, []string{"connection synchronisation stopped: sync backup on eth1, id 51"})
	s.keep(t.Context(), []ipvsctl.Daemon{master})
	expect("master", []string{"master/51"}, []string{"connection synchronisation started: sync master on eth1, id 51"})

	if err := errors.Join(kernel.StopDaemon(t.Context(), ipvsctl.SyncMaster), kernel.StartDaemon(t.Context(), foreign)); err != nil {
		t.Fatal(err)
	}
	s.keep(t.Context(), []ipvsctl.Daemon{master})
	expect("somebody else's doing", []string{"master/51"}, []string{
		"drift: changed by somebody else, put back: sync backup on eth9, id 9 stopped",
		"drift: changed by somebody else, put back: sync master on eth1, id 51 started",
	})
	if s.totals.Drift != 2 {
		t.Errorf("drift %d, want 2", s.totals.Drift)
	}

	// Another process finds in the file that what runs is ours, and ends it.
	if s.owned, err = loadOwnership(path, "this boot"); err != nil {
		t.Fatal(err)
	}
	s.change()
	s.keep(t.Context(), nil)
	expect("none is configured any more", nil, []string{"connection synchronisation stopped: sync master on eth1, id 51"})
	if s.owned.sync {
		t.Error("what is gone still counts as ours")
	}
}

func TestTimeoutSettings(t *testing.T) {
	cfg := &config.Config{IPVS: config.IPVS{Timeouts: ipvsctl.Timeouts{TCP: 3600e9, UDP: 1e9}}}
	var got []string
	for _, s := range timeoutSettings(cfg) {
		got = append(got, s.Name+"="+s.Want)
	}
	if want := []string{"ipvs.timeouts.tcp=1h0m0s", "ipvs.timeouts.udp=1s"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
