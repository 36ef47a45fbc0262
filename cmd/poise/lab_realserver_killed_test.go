package main

import (
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"poise/internal/lab"
)

// TestLabRealserverKilled kills apply at a random moment, again and again: undo restores what was before, another apply completes.
func TestLabRealserverKilled(t *testing.T) {
	lab.NeedIPVS(t)
	n := lab.New(t)
	h := n.Host("server")
	h.Sysctl("net/ipv6/conf/default/accept_dad", "0") // else addresses change by themselves
	h.Connect(n.Switch("net"), "192.0.2.21/24", "2001:db8:2::21/64")
	h.Run("ip", "route", "add", "default", "via", "192.0.2.254", "proto", "dhcp", "metric", "100") // no single change of the kernel's puts ours in its place
	h.Run("modprobe", "-a", "sit", "fou")
	dir := t.TempDir()
	for _, args := range []string{
		"--mode tun --vip 192.0.2.10 --vip 2001:db8:2::10 --address 192.0.2.21 --tunnel gue --tunnel-port 6080",
		"--vip 192.0.2.10 --arp-filter",
		"--mode nat --gateway 192.0.2.1",
	} {
		realserver := func(command string, args ...string) *exec.Cmd {
			return exec.Command("poise", append([]string{"realserver", command, "--runtime-dir", dir}, args...)...)
		}
		before := network(t, h)
		begin := time.Now()
		h.Run("poise", realserver("apply", strings.Fields(args)...).Args[1:]...)
		whole := time.Since(begin)
		done := network(t, h)
		h.Run("poise", realserver("undo", "--unit-dir", dir).Args[1:]...)
		for range 3 {
			p := h.Start(realserver("apply", strings.Fields(args)...))
			time.Sleep(rand.N(whole)) // the moment is what is tried
			p.Kill()
			if rand.N(2) == 0 {
				h.Run("poise", realserver("apply", strings.Fields(args)...).Args[1:]...)
				if now := network(t, h); now != done {
					t.Errorf("%s: killed, then applied:\n%s", args, difference(done, now))
				}
			}
			h.Run("poise", realserver("undo", "--unit-dir", dir).Args[1:]...)
			if now := network(t, h); now != before {
				t.Errorf("%s: killed, then undone:\n%s", args, difference(before, now))
			}
		}
	}
}
