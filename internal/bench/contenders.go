package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"poise/ipvsctl"
)

// contender is a program that fills the kernel's table.
type contender interface {
	name() string
	// files writes what the program reads: the table, with every step-th server's weight another one. 0 changes none.
	config(s scale, step int) string
	// command starts it with that file; it ends by itself, or runs on as a daemon that reads its file again at SIGHUP.
	command(file, dir string) *exec.Cmd
	daemon() bool
}

// service and server are addresses that are each there once. Weights are 5, and 6 where they are changed.
func service(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(1 + i%250)}), 80)
}

func server(i, j int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(i / 250), byte(1 + j)}), uint16(1+i))
}

func weight(i, j, step int, s scale) int {
	if step > 0 && (i*s.servers+j)%step == 0 {
		return 6
	}
	return 5
}

// each writes a table with a text for each service before and after those of its servers.
func (s scale) each(step int, before func(netip.AddrPort) string, each func(service, server netip.AddrPort, weight int) string, after string) string {
	var b strings.Builder
	for i := range s.services {
		b.WriteString(before(service(i)))
		for j := range s.servers {
			b.WriteString(each(service(i), server(i, j), weight(i, j, step, s)))
		}
		b.WriteString(after)
	}
	return b.String()
}

// byHand is a program that reads the table as commands, and lists it.
type byHand struct{ words string } // of which the first is found by PATH

func (b byHand) name() string { return filepath.Base(b.words) }
func (byHand) daemon() bool   { return false }

func (byHand) config(s scale, step int) string {
	return s.each(step,
		func(a netip.AddrPort) string { return fmt.Sprintf("-A -t %v -s wlc\n", a) },
		func(a, r netip.AddrPort, w int) string { return fmt.Sprintf("-a -t %v -r %v -m -w %d\n", a, r, w) }, "")
}

func (b byHand) command(file, _ string) *exec.Cmd {
	return exec.Command("sh", "-c", "exec "+b.words+` -R <"$0"`, file)
}

func (b byHand) list() *exec.Cmd { return exec.Command("sh", "-c", "exec "+b.words+" -Ln >/dev/null") }

type keepalived struct{}

func (keepalived) name() string { return "keepalived" }
func (keepalived) daemon() bool { return true }

func (keepalived) config(s scale, step int) string {
	return s.each(step,
		func(a netip.AddrPort) string {
			return fmt.Sprintf("virtual_server %v %d {\nlb_algo wlc\nlb_kind NAT\nprotocol TCP\n", a.Addr(), a.Port())
		},
		func(_, r netip.AddrPort, w int) string {
			return fmt.Sprintf("real_server %v %d {\nweight %d\n}\n", r.Addr(), r.Port(), w)
		}, "}\n")
}

func (keepalived) command(file, dir string) *exec.Cmd {
	// It looks up its host's name first, which takes ten seconds where nobody answers: this name needs no answer.
	return exec.Command("unshare", "--uts", "sh", "-c", `hostname localhost && exec "$@"`, "sh",
		"keepalived", "--dont-fork", "--log-console", "--check", "--use-file", file,
		"--pid", filepath.Join(dir, "keepalived.pid"), "--checkers_pid", filepath.Join(dir, "checkers.pid"))
}

// batches is ipvsctl alone, as this program with -apply: what poise's part of the kernel's work takes.
type batches struct{}

func (batches) name() string { return "ipvsctl" }
func (batches) daemon() bool { return false }

func (batches) config(s scale, _ int) string { return fmt.Sprintf("%dx%d", s.services, s.servers) }

func (batches) command(file, _ string) *exec.Cmd {
	return exec.Command("sh", "-c", `exec "$0" -apply "$(cat "$1")"`, "/proc/"+strconv.Itoa(os.Getpid())+"/exe", file)
}

// apply puts a whole table into the kernel.
func apply(s scale) error {
	table := make(ipvsctl.Table)
	for i := range s.services {
		destinations := make(map[netip.AddrPort]ipvsctl.Destination)
		for j := range s.servers {
			destinations[server(i, j)] = ipvsctl.Destination{Weight: weight(i, j, 0, s)}
		}
		key := ipvsctl.ServiceKey{Protocol: ipvsctl.TCP, Addr: service(i)}
		table[key] = ipvsctl.Service{Settings: ipvsctl.Settings{Scheduler: "wlc"}, Destinations: destinations}
	}
	client, err := ipvsctl.Open(context.Background())
	if err != nil {
		return err
	}
	defer client.Close()
	return errors.Join(client.Apply(context.Background(), ipvsctl.Diff(nil, table))...)
}

// daemon is poise run.
type daemon struct{ binary string }

func (*daemon) name() string { return "poise" }
func (*daemon) daemon() bool { return true }

func (*daemon) config(s scale, step int) string {
	n := 0
	return "[global]\non_stop = \"remove\"\n" + s.each(step,
		func(a netip.AddrPort) string {
			n++
			return fmt.Sprintf("[[service]]\nname = \"s%d\"\nlisten = [%q]\nforward = \"nat\"\n", n, a)
		},
		func(_, r netip.AddrPort, w int) string {
			return fmt.Sprintf("[[service.server]]\naddress = %q\nport = %d\nweight = %d\n", r.Addr(), r.Port(), w)
		}, "")
}

func (d *daemon) command(file, dir string) *exec.Cmd {
	return exec.Command(d.binary, "run", "-c", file, "--runtime-dir", dir)
}
