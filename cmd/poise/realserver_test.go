package main

import (
	"strings"
	"testing"

	"poise/internal/realserver"
)

func TestRealserverMistakes(t *testing.T) {
	dir := t.TempDir() // nothing applied here
	for _, tc := range []struct {
		args string
		want string
	}{
		{"status --vip web", `--vip "web": not an IP address`},
		{"status --vip 192.0.2.10/32", `--vip "192.0.2.10/32": not an IP address: give it without a prefix length`},
		{"apply --vip 192.0.2.10,192.0.2.11", `--vip "192.0.2.10,192.0.2.11": not an IP address: give --vip once for each`},
		{"status --vip 192.0.2.10 --mode nat", `mode "nat": only dr is supported`},
		{"apply --vip 2001:db8::10", "VIP 2001:db8::10: only IPv4 is supported"},
		{"apply", "no VIP: name it: --vip ADDRESS"},
		{"apply 192.0.2.10", "usage: realserver apply --vip ADDRESS [--vip ADDRESS]... [flags]"},
		{"undo 192.0.2.10", "usage: realserver undo [--vip ADDRESS]... [flags]"},
		{"status 192.0.2.10", "usage: realserver status [--vip ADDRESS]... [flags]"},
		{"status", "nothing is applied here"},
		{"status --mode nat", `mode "nat": only dr is supported`},
		{"aply", `unknown command "aply" for "realserver"`},
	} {
		t.Run(tc.args, func(t *testing.T) {
			cmd := realserverCommand()
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			cmd.SetArgs(append(strings.Fields(tc.args), "--runtime-dir", dir))
			if err := cmd.Execute(); err == nil || err.Error() != tc.want {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

func TestPrintChanges(t *testing.T) {
	var out strings.Builder
	printChanges(&out, []realserver.Change{
		{Key: "192.0.2.10/32 on lo", Before: "present", After: "absent"},
		{Key: "net.ipv4.conf.all.arp_announce", Before: "2", After: "2"},
		{Key: "net.ipv4.conf.all.arp_ignore", Before: "7", After: "7", Left: "set by somebody else since"},
	})
	want := `
192.0.2.10/32 on lo             present → absent
net.ipv4.conf.all.arp_announce  2, already so
net.ipv4.conf.all.arp_ignore    7, left: set by somebody else since
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("%s\nwant%s", got, want)
	}
}

func TestPrintStates(t *testing.T) {
	quiet := realserver.State{
		Step: realserver.Step{Key: "net.ipv4.conf.all.arp_ignore", Want: []string{"1", "2", "8"}},
		Now:  "1", Former: "0",
	}
	missing := realserver.State{
		Step: realserver.Step{Key: "192.0.2.10/32 on lo", Want: []string{"present"}},
		Now:  "absent",
	}
	var out strings.Builder
	if err := printStates(&out, []realserver.State{quiet}); err != nil {
		t.Error(err)
	}
	out.Reset()
	err := printStates(&out, []realserver.State{quiet, missing})
	if err == nil || !strings.HasPrefix(err.Error(), "1 of 2 settings") {
		t.Errorf("error %v", err)
	}
	want := `
net.ipv4.conf.all.arp_ignore  1       ok               was 0
192.0.2.10/32 on lo           absent  must be present  not applied by poise
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("%s\nwant%s", got, want)
	}
}
