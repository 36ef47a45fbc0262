package main

import (
	"strings"
	"syscall"
	"testing"
)

// What an operator wants of a server is in the kernel when the command returns, survives everything but
// "enable", and is shown with who and why.
func TestLabIntents(t *testing.T) {
	const (
		drained  = "tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 0, 10.0.0.22:80 nat 1"
		weighted = "tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 0, 10.0.0.22:80 nat 5"
	)
	l := newLVS(t)
	natServers(l, 2)
	d := startDaemon(t, l.Director, checkedWeb)
	d.allUp()
	expect := func(line string) {
		t.Helper()
		if got := table(l.Director); got != line+"\n" {
			t.Errorf("kernel's table:\n%swant:\n%s", got, line)
		}
	}

	out := d.must("drain", "web", "10.0.0.21:80", "--reason", "new disk")
	expect(drained)
	if !strings.HasPrefix(out, "web 10.0.0.21:80: weight 0 (drained by root at ") || !strings.HasSuffix(out, ": new disk)\n") {
		t.Errorf("drain prints %q", out)
	}
	d.must("weight", "web", "10.0.0.22:80", "5")
	expect(weighted)

	watch := l.Director.WatchIPVS()
	d.reload(checkedWeb)
	d.stop()
	d.start()
	d.allUp()
	syscall.Kill(d.balancer(), syscall.SIGKILL)
	d.revived()
	d.allUp()
	expect(weighted)
	if n := watch.Writes(); n != 0 {
		t.Errorf("%d writes to the kernel's table during reload, restart and kill, want 0", n)
	}
	text := d.must("status")
	for _, want := range []string{"! web 10.0.0.21:80: drained by root at ", ": new disk", "weight 5 set by root at "} {
		if !strings.Contains(text, want) {
			t.Errorf("status lacks %q:\n%s", want, text)
		}
	}

	for _, mistake := range []struct{ service, server, want string }{
		{"web", "10.0.0.99:80", "poise: service \"web\" has no server 10.0.0.99:80; it has 10.0.0.21:80, 10.0.0.22:80\n"},
		{"wed", "10.0.0.21:80", "poise: there is no service \"wed\"; there are web\n"},
		{"web", "10.0.0.21", "poise: service \"web\" has no server 10.0.0.21:0; it has 10.0.0.21:80, 10.0.0.22:80\n"},
		{"web", "nat1", "poise: server \"nat1\": not an address and port such as 10.0.0.7:80\n"},
	} {
		if _, stderr, err := d.run("drain", mistake.service, mistake.server); err == nil || stderr != mistake.want {
			t.Errorf("drain %s %s: %v, %q, want exit status 1 and %q", mistake.service, mistake.server, err, stderr, mistake.want)
		}
	}
	expect(weighted)

	// A new name is no reason to send traffic to a broken disk, and neither is a file without the server.
	d.reload(strings.Replace(checkedWeb, `"web"`, `"www"`, 1))
	expect(weighted)
	d.reload(strings.Replace(checkedWeb, `{ address = "10.0.0.21" }, `, "", 1))
	d.sees("server left the configuration", "10.0.0.21:80", "new disk")
	d.reload(checkedWeb)
	d.allUp()
	expect(weighted)

	d.must("enable", "web", "10.0.0.21:80")
	d.must("enable", "web", "10.0.0.22:80")
	expect(webLine)
}
