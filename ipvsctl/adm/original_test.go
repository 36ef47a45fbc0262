package adm

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"poise/internal/lab"
)

var (
	besides = flag.Int("beside", 150, "random command lines to compare with ipvsadm's own")
	seed    = flag.Uint64("seed", 1, "of the random command lines")
)

// TestLabBesideOriginal gives the same random command lines to Debian's ipvsadm and to ours, each in a namespace of its
// own, and wants the same status and the same output from both. --nosort is not among them: the order in which a kernel
// lists services depends on the namespace.
func TestLabBesideOriginal(t *testing.T) {
	lab.NeedIPVS(t)
	if _, err := exec.LookPath("ipvsadm"); err != nil {
		lab.Lacks(t, "ipvsadm is not installed")
	}
	n := lab.New(t)
	theirs, ours := n.Host("theirs"), n.Host("ours")
	random := rand.New(rand.NewPCG(*seed, 0))
	var before []string
	differences := 0
	for i := range *besides {
		if i%30 == 0 {
			before = nil
			for _, h := range []*lab.Host{theirs, ours} {
				h.Run("ipvsadm", "-C")
			}
		}
		words, input := randomCommand(random)
		shown := fmt.Sprintf("%q", words)
		if input != "" {
			shown += fmt.Sprintf(" < %q", input)
		}
		want := result{}
		check(t, theirs.Do(func() error {
			cmd := exec.CommandContext(t.Context(), "ipvsadm", words...)
			var out, errs bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
			err := cmd.Run()
			if _, ran := errors.AsType[*exec.ExitError](err); err != nil && !ran {
				return err
			}
			want = result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
			return nil
		}))
		got := result{}
		check(t, ours.Do(func() error {
			var out, errs bytes.Buffer
			status := run(append([]string{"ipvsadm"}, words...), strings.NewReader(input), &out, &errs, "/etc")
			got = result{status, out.String(), errs.String()}
			return nil
		}))
		if got != want {
			t.Errorf("%s\ngot  %v\nwant %v\nafter\n%s", shown, got, want, strings.Join(before, "\n"))
			if differences++; differences == 20 {
				t.Fatal("that is enough")
			}
		}
		before = append(before, shown)
	}
}

type result struct {
	status int
	out    string
	errs   string
}

func (r result) String() string {
	return fmt.Sprintf("%d\n%s%s", r.status, r.out, strings.ReplaceAll("\n"+r.errs, "\n", "\n! "))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// randomCommand makes up a command line of which much is right, and for -R an input.
func randomCommand(r *rand.Rand) (words []string, input string) {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	services := []string{
		"-t 10.0.0.1:80", "-t 10.0.0.1:443", "-u 10.0.0.1:53", "--sctp-service 10.0.0.1:80", "-t [2001:db8::1]:80", "-f 7", "-f 7 -6",
		"-f 4000000000", "-t=192.168.9.9:80", "-u200.1.1.1:53", "--tcp-service=172.16.1.1:8080", "-t 10.0.0.9", "-u 10.0.0.9:0",
		"--udp-service 10.1:77", "-t 0x0a000001:80",
	}
	badServices := []string{"-t 80", "-t 1.2.3.4:x", "-t [::1]", "-f 0", "-6", "-t", "-t 10.0.0.1:80:80", "-u :53", "-f", "-t [10.0.0.9]:80"}
	servers := []string{
		"-r 10.0.1.1", "-r 10.0.1.1:80", "-r 10.0.1.2:8080", "-r=10.0.1.3", "-r 192.168.7.7:81", "-r [2001:db8::7]:80", "-r 2001:db8::8",
		"--real-server 172.30.1.1", "--real-server=200.7.7.7:7", "-r 10.0.1.4:0",
	}
	badServers := []string{"-r 8080", "-r", "-r 224.0.0.1:80", "-r 10.0.0.1:99999", "-r [::1]", "-r 0.0.0.0:80"}
	serviceOptions := []string{
		"-s rr", "-swrr", "-s=lc", "--scheduler sh", "--scheduler=mh", "-s nosuch", "-s none", "-p", "-p 300", "-p=77", "--persistent", "--persistent=5",
		"-p 0", "-p x", "-M 255.255.255.0", "-M 24", "-M 0.0.0.0", "-M 64", "-M 64bits", "-M x", "-o", "--ops", "-b sh-port", "-b flag-1,flag-3", "-b mh-fallback,mh-port", "-b sh-fallback", "-b nosuch", "-b flag-2",
		"-b flag-1,,flag-2,", "-b ''", "--pe sip", "--pe=sip", "--pe nosuch", "-po", "-op", "-s", "-p -o",
	}
	serverOptions := []string{
		"-m", "-g", "-i", "-mw5", "-w 0", "-w 7", "-w=3", "-w70000", "-w -1", "-w x", "-x 10", "-x 10 -y 5", "-y 3", "-x=9", "-y x", "--weight=12",
		"-i --tun-type gue --tun-port 6080", "-i --tun-type gre --tun-csum", "--tun-csum", "-i --tun-type gue", "-i --tun-type ipip --tun-nocsum",
		"-i --tun-type=gue --tun-port=6080 --tun-remcsum", "--tun-type x", "--tun-port 0", "-i --tun-type gre --tun-remcsum", "--masquerading", "--gatewaying", "--ipip", "-mi", "-i --tun-csum --tun-nocsum --tun-port 7",
	}
	listOptions := []string{
		"--stats", "--rate", "--thresholds", "--persistent-conn", "--tun-info", "-X", "--exact", "--sort", "-c", "--timeout", "--daemon", "-n=", "-X=1", "--stats=1", "-Xq",
	}
	junk := []string{"extra", "--", "-q", "--nosuch", "-n", "--stats", "-L", "-A", "-h", "--set", "", "-", "--atomicx", "--syncid 5", "--mcast-port 0", "--mcast-group 10.0.0.1", "--exact", "-c", "-=", "--=x", "-L=", "--tun-info", "-R", "-Sn"}

	var parts []string
	add := func(from []string, most int) {
		for range r.IntN(most + 1) {
			parts = append(parts, pick(from...))
		}
	}
	command := ""
	orderly := r.IntN(2) == 0 // nothing that is refused for its form
	if orderly {
		services, servers = services[:5], servers[:6]
		serviceOptions, serverOptions, listOptions = serviceOptions[:3], serverOptions[:4], listOptions[:5]
	}
	switch r.IntN(12) {
	case 0, 1:
		command = pick("-A", "-A", "-E", "--add-service", "--edit-service")
		add(services, 1)
		if len(parts) == 0 {
			parts = append(parts, pick(services...))
		}
		if orderly {
			add(serviceOptions, 1)
			add([]string{"-p 300", "-p", "-p 70 -M 255.255.0.0"}, 1)
		} else {
			add(serviceOptions, 4)
		}
	case 2, 3, 4:
		command = pick("-a", "-a", "-a", "-e", "--add-server", "--edit-server")
		parts = append(parts, pick(services[:5]...), pick(servers...))
		if orderly {
			add(serverOptions, 1)
			add([]string{"-w 3", "-w 0", "-x 10 -y 5", "-x 7"}, 1)
		} else {
			add(serverOptions, 3)
		}
	case 5:
		command = pick("-D", "--delete-service", "-Z")
		parts = append(parts, pick(services...))
	case 6:
		command = pick("-d", "--delete-server")
		parts = append(parts, pick(services[:7]...), pick(servers...))
	case 7, 8:
		command = pick("-Ln", "-L -n", "-ln", "--list --numeric", "-lnX")
		if r.IntN(3) == 0 {
			parts = append(parts, pick(services...))
		}
		add(listOptions, 2)
	case 9:
		command = pick("-Sn", "-S -n", "--save --numeric", "-Sn")
	case 10:
		command = pick("-Z", "--set 900 120 300", "--set 1 2", "--set 0 30 0", "--set", "-L --timeout", "-L --daemon", "-nL", "-C", "-v=", "--stop-daemon master",
			"--start-daemon x", "--start-daemon master --mcast-interface nosuch", "--start-daemon", "-At", "-Dt", "-L -c -n", "--start-daemon backup --mcast-interface lo --syncid 256")
	case 11:
		for range 1 + r.IntN(6) {
			w, _ := randomCommand(r)
			input += pick("", "", "ipvsadm ", "  ", "\t") + strings.Join(w, pick(" ", " ", "  ", "\t")) + pick("\n", "\n", "\n", "\r\n", " \n", "\n\n")
		}
		if r.IntN(2) == 0 {
			input = strings.TrimRight(input, "\n")
		}
		return []string{pick("-R", "--restore")}, input
	}
	if !orderly && r.IntN(2) == 0 {
		add(badServices, 1)
		add(badServers, 1)
		add(junk, 2)
	}
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	for _, w := range strings.Split(strings.Join(append([]string{command}, parts...), " "), " ") {
		words = append(words, strings.ReplaceAll(w, "''", ""))
	}
	return words, ""
}
