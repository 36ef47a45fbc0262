package main

import (
	"strings"
	"testing"
)

// A file with a mistake changes nothing. A good one adds, removes and reweights services without a
// failed request to another.
func TestLabReload(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	d := startDaemon(t, l.Director, web+leaving+weighted)
	wantTable(t, l.Director, webLine, leavingLine, weightedLine)
	watch := l.Director.WatchIPVS()
	open := connect(t, l, 80)

	d.reload(web + coming + "colour = \"blue\"\n")
	mistake := d.file + `:15: service "coming": colour: unknown key`
	if rejected := d.status().Config.Rejected; !strings.Contains(rejected, mistake) {
		t.Errorf("status says %q, want %q", rejected, mistake)
	}
	d.sees("reload rejected", mistake)
	wantTable(t, l.Director, webLine, leavingLine, weightedLine)
	if n := watch.Writes(); n != 0 {
		t.Errorf("%d writes to the kernel's table after a rejected reload, want 0", n)
	}

	reweighted := strings.Replace(weighted, `"10.0.0.22"`, `"10.0.0.22", weight = 5`, 1)
	requests, failures := hammer(l, 80, func() {
		for range 3 {
			d.reload(web + coming + reweighted)
			d.reload(web + leaving + weighted)
		}
		d.reload(web + coming + reweighted)
	})
	t.Logf("%d requests during 7 reloads", requests)
	for _, err := range failures {
		t.Errorf("to the untouched service: %v", err)
	}
	if _, err := open.ask(); err != nil {
		t.Errorf("established connection: %v", err)
	}
	wantTable(t, l.Director, webLine, comingLine, "tcp 192.0.2.10:83 wrr: 10.0.0.21:83 nat 1, 10.0.0.22:83 nat 5")
	if c := d.status().Config; c.Epoch != 8 || c.Rejected != "" {
		t.Errorf("status says %+v, want epoch 8, not rejected", c)
	}
}

// A check that comes with a reload has not said anything yet: nobody is taken out for that.
func TestLabReloadAddsACheck(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	d := startDaemon(t, l.Director, web)
	wantTable(t, l.Director, webLine)
	watch := l.Director.WatchIPVS()
	d.reload(checkedWeb)
	d.allUp()
	if n := watch.Writes(); n != 0 {
		t.Errorf("%d writes to the kernel's table, want 0", n)
	}
	if out := d.must("reload"); out != "reloaded: "+d.file+", epoch 3\n" {
		t.Errorf("reload prints %q", out)
	}
	d.write(checkedWeb + "colour = 1\n")
	if _, stderr, err := d.run("reload"); err == nil || !strings.Contains(stderr, "colour: unknown key") {
		t.Errorf("reload of a bad file: %v, %q", err, stderr)
	}
}
