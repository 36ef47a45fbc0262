package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"poise/internal/lab"
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
		{"status --vip 192.0.2.10 --mode nta", `mode "nta": none of dr, tun and nat`},
		{"apply --mode nat", "mode nat: through which address of the director do replies go? --gateway ADDRESS"},
		{"apply --mode nat --gateway 192.0.2.1 --port 80/http", `--port "80/http": neither a port such as 80 nor one of a protocol such as 53/udp`},
		{"apply --mode nat --gateway here", `--gateway "here": not an IP address`},
		{"plan --vip 192.0.2.10 --gateway 10.0.0.1 --port 80", "--gateway: is not used with --mode dr, but with --mode nat, -c\n--port: is not used with --mode dr, but with --mode nat"},
		{"plan -c none.toml --mode tun", "--mode: is not used with -c, but with --mode dr, --mode tun, --mode nat"},
		{"status --gateway 10.0.0.1", "--gateway: is not used with --mode dr, but with --mode nat, -c"},
		{"apply --mode nat --vip 192.0.2.10 --gateway 127.0.0.1", "--vip: is not used with --mode nat, but with --mode dr, --mode tun"},
		{"apply --mode nat --gateway 127.0.0.1", "gateway 127.0.0.1: not the address of a host"},
		{"apply --mode nat --gateway ff02::1", "gateway ff02::1: not the address of a host"},
		{"plan --mode tun --vip 192.0.2.10 --address 203.0.113.77 --mtu 1400", "address 203.0.113.77: on no interface of this host"},
		{"plan --mode tun --vip 192.0.2.10 --mtu -7", "--mtu -7: below 0"},
		{"verify --listen -5s", "--listen -5s: below 0s"},
		{"apply -c none.toml", "open none.toml: no such file or directory"},
		{"apply", "no VIP: name it: --vip ADDRESS"},
		{"apply 192.0.2.10", "usage: realserver apply --vip ADDRESS [--vip ADDRESS]... [flags]"},
		{"undo 192.0.2.10", "usage: realserver undo [--vip ADDRESS]... [flags]"},
		{"status 192.0.2.10", "usage: realserver status [what apply was given] [flags]"},
		{"status", "nothing is applied here"},
		{"status --mode nat", "mode nat: through which address of the director do replies go? --gateway ADDRESS"},
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

// Monitoring takes status 1 for warnings: a mistyped examination must not look like one.
func TestMistypedExaminations(t *testing.T) {
	for _, line := range []string{"doctor --server", "doctor a.toml b.toml", "realserver verify --listen 5", "realserver verify 192.0.2.10"} {
		cmd := rootCommand()
		cmd.SetArgs(strings.Fields(line))
		err := cmd.Execute()
		if e, ok := errors.AsType[exitError](err); !ok || e.status != unexamined {
			t.Errorf("poise %s: %v, want one with status %d", line, err, unexamined)
		}
	}
}

func TestPrintChanges(t *testing.T) {
	var out strings.Builder
	printChanges(&out, []realserver.Change{
		{Key: "192.0.2.10/32 on lo", Before: "present", After: "absent"},
		{Key: "net.ipv4.conf.all.arp_announce", Before: "2", After: "2"},
		{Key: "net.ipv4.conf.all.arp_ignore", Before: "7", After: "7", Left: "set by somebody else since"},
		{Key: "default route", Before: "ours; theirs", After: "theirs", Left: "set by somebody else since"},
	})
	want := `
192.0.2.10/32 on lo             present → absent
net.ipv4.conf.all.arp_announce  2, already so
net.ipv4.conf.all.arp_ignore    7, left: set by somebody else since
default route                   ours; theirs → theirs, left: set by somebody else since
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

// TestNetnsRealserverFromFile: what a host has to do is in the directors' file, by its own addresses.
func TestNetnsRealserverFromFile(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	h := n.Host("server")
	h.Connect(n.Switch("net"), "192.0.2.21/24", "2001:db8:2::21/64")
	file := filepath.Join(t.TempDir(), "poise.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plan := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		cmd := exec.Command("poise", append([]string{"realserver", "plan", "-c", file}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = h.Start(cmd).Wait()
		return regexp.MustCompile(` {2,}.*`).ReplaceAllString(out.String(), "")
	}
	const others = "{ address = \"192.0.2.22\" }"
	services := func(servers ...string) string {
		text := "[[router]]\nname = \"inside\"\ninterface = \"eth0\"\nvrid = 7\npriority = 100\naddresses = [\"192.0.2.1\"]\nexcluded_addresses = [\"2001:db8:2::1\"]\n"
		for i, s := range servers {
			text += fmt.Sprintf("[[service]]\nname = \"s%d\"\n%s\n", i, s)
		}
		return text
	}
	for _, c := range []struct{ name, file, want string }{
		{
			"a sorry server", services(
				`listen = ["198.51.100.10:80"]` + "\nforward = \"dr\"\nsorry_server = \"192.0.2.21:80\"\nserver = [" + others + "]",
			), `net.ipv4.conf.all.arp_ignore
net.ipv4.conf.all.arp_announce
198.51.100.10/32 on lo
`,
		},
		{
			"each method", services(
				`listen = ["198.51.100.10:80"]`+"\nforward = \"dr\"\nserver = [{ address = \"192.0.2.21\" }, "+others+"]",
				`listen = ["198.51.100.11:80"]`+"\nforward = \"tun\"\nserver = [{ address = \"192.0.2.21\" }]",
				`listen = ["198.51.100.12:80"]`+"\nforward = \"nat\"\nserver = [{ address = \"192.0.2.21\", port = 8080 }]",
				`listen = ["[2001:db8:9::12]:53"]`+"\nprotocol = \"udp\"\nforward = \"nat\"\nserver = [{ address = \"2001:db8:2::21\" }]",
				`listen = ["198.51.100.13:80"]`+"\nforward = \"fullnat\"\nserver = [{ address = \"192.0.2.21\" }]",
				`listen = ["198.51.100.14:80"]`+"\nforward = \"dr\"\nserver = ["+others+"]",
			), `net.ipv4.conf.all.arp_ignore
net.ipv4.conf.all.arp_announce
198.51.100.10/32 on lo
tunnel poise-ip4 to 192.0.2.21
net.ipv4.conf.poise-ip4.rp_filter
198.51.100.11 with MSS 1440 by nftables
198.51.100.11/32 on poise-ip4
replies through 192.0.2.1 dev eth0
replies from 192.0.2.21 tcp port 8080
replies through 2001:db8:2::1 dev eth0
replies from 2001:db8:2::21 udp port 53
`,
		},
		{
			"somebody else", services(`listen = ["198.51.100.14:80"]` + "\nforward = \"dr\"\nserver = [" + others + "]"),
			"poise: FILE: no service has an address of this host among its servers\n",
		},
		{
			"full NAT", services(`listen = ["198.51.100.13:80"]` + "\nforward = \"fullnat\"\nserver = [{ address = \"192.0.2.21\" }]"),
			"poise: FILE: this host serves by full NAT only, which needs nothing here\n",
		},
		{
			"by mark", services("fwmark = 7\nforward = \"dr\"\nserver = [{ address = \"192.0.2.21\" }]"),
			"poise: service \"s0\": it is by fwmark: its addresses are in your own rules: name them with --vip\n",
		},
	} {
		write(c.file)
		if got := strings.ReplaceAll(plan(), file, "FILE"); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, c.want)
		}
	}
}
