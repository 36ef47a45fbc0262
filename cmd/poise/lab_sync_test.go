package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"poise/internal/lab"
)

// syncPair is the pair whose directors tell each other of their connections over the inside network.
func syncPair(t *testing.T) *pair {
	t.Helper()
	p := newLabPair(t)
	for _, n := range []*node{p.a, p.b} {
		n.more += "[ipvs.sync]\nrouter = \"public\"\ninterface = \"eth1\"\n"
	}
	return p
}

// wantDaemon waits until the node's kernel synchronises in this role and no other.
func (n *node) wantDaemon(role string) {
	n.t.Helper()
	want := fmt.Sprintf("%s sync daemon (mcast=eth1, syncid=51,", role)
	lab.Eventually(n.t, patience, func() error {
		if out := strings.TrimSpace(n.Run("ipvsadm", "-l", "--daemon")); !strings.HasPrefix(out, want) || strings.Contains(out, "\n") {
			return fmt.Errorf("%s has %q, want %q", n.Name, out, want)
		}
		return nil
	})
}

// wantSynced waits until the node's kernel has learned of a connection from the other one's.
func (n *node) wantSynced(c *connection) {
	n.t.Helper()
	client := c.LocalAddr().(*net.TCPAddr)
	want := fmt.Sprintf("TCP C0000203 %04X C000020A 0050", client.Port)
	lab.Eventually(n.t, patience, func() error {
		var table []byte
		if err := n.Do(func() (err error) {
			table, err = os.ReadFile("/proc/thread-self/net/ip_vs_conn_sync")
			return err
		}); err != nil {
			return err
		}
		for line := range strings.Lines(string(table)) {
			if strings.HasPrefix(line, want) && strings.Contains(line, " SYNC ") {
				return nil
			}
		}
		// Every message is about every 50th packet, or one in the beginning.
		if _, err := c.ask(); err != nil {
			return err
		}
		return fmt.Errorf("%s knows nothing of %s among\n%s", n.Name, want, table)
	})
}

// connectNAT opens a connection from the client to the service by NAT.
func connectNAT(p *pair) *connection {
	p.t.Helper()
	conn, err := p.c.Dial(p.t.Context(), "tcp", "", vip+":80")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	c := &connection{conn, bufio.NewReader(conn)}
	if _, err := c.ask(); err != nil {
		p.t.Fatal(err)
	}
	return c
}

// A connection goes on when another director has the address: after a hand-over, back again, and after a power failure.
func TestLabSync(t *testing.T) {
	p := syncPair(t)
	startPair(p)
	p.a.wantDaemon("master")
	p.b.wantDaemon("backup")
	kept := connectNAT(p)
	p.b.wantSynced(kept)

	p.a.must("failover", "public")
	p.wantMaster(p.b)
	p.b.wantDaemon("master")
	p.a.wantDaemon("backup")
	if _, err := kept.ask(); err != nil {
		t.Fatalf("after the hand-over: %v", err)
	}
	p.a.must("failover", "public", "--undo")
	p.wantMaster(p.a)
	if _, err := kept.ask(); err != nil {
		t.Fatalf("after the way back: %v", err)
	}
	another := connectNAT(p)
	p.b.wantSynced(another)
	p.a.powerOff()
	p.a.SetLink("eth1", false)
	p.wantMaster(p.b)
	for i, c := range []*connection{kept, another} {
		if _, err := c.ask(); err != nil {
			t.Errorf("connection %d after the power failure: %v", i, err)
		}
	}
	p.b.sees("connection synchronisation started", "sync master on eth1, id 51")
}

// What somebody does to the daemon is healed; without [ipvs.sync] it is stopped; alone it does as told.
func TestLabSyncAlone(t *testing.T) {
	l := newLVS(t)
	d := startDaemon(t, l.Director, web+"[ipvs.sync]\nrole = \"both\"\ninterface = \"eth1\"\nid = 7\nmax_length = 1400\n")
	want := func(lines ...string) {
		t.Helper()
		lab.Eventually(t, patience, func() error {
			out := l.Director.Run("ipvsadm", "-l", "--daemon")
			for _, line := range lines {
				if !strings.Contains(out, line) {
					return fmt.Errorf("daemons:\n%swant %q", out, lines)
				}
			}
			if n := strings.Count(out, "sync daemon"); n != len(lines) {
				return fmt.Errorf("%d daemons, want %d:\n%s", n, len(lines), out)
			}
			return nil
		})
	}
	both := []string{"master sync daemon (mcast=eth1, syncid=7, maxlen=1400", "backup sync daemon (mcast=eth1, syncid=7, maxlen=1400"}
	want(both...)
	l.Director.Run("ipvsadm", "--stop-daemon", "master")
	want(both...)
	d.sees("drift", "sync master on eth1, id 7 started")
	d.stop()
	want(both...) // on_stop = leave
	d.start()
	want(both...)
	d.reload(web)
	want()
	d.reload(web + "[ipvs.sync]\nrole = \"backup\"\ninterface = \"eth9\"\n")
	d.sees("reload rejected", `ipvs.sync: interface: this host has no interface "eth9"`)
}

// keepalived's daemon and ours understand each other, with the identity that is the VRID for both.
func TestLabSyncKeepalived(t *testing.T) {
	p := syncPair(t)
	p.a.start()
	p.wantMaster(p.a)
	wantTable(t, p.a.Host, pairTable...)

	conf := filepath.Join(p.b.dir, "keepalived.conf")
	if err := os.WriteFile(conf, []byte(`
global_defs {
	lvs_sync_daemon eth1 public
}
vrrp_instance public {
	state BACKUP
	interface eth0
	version 3
	virtual_router_id 51
	priority 100
	advert_int 1
	virtual_ipaddress {
		192.0.2.10
	}
	virtual_ipaddress_excluded {
		10.0.0.254 dev eth1
	}
}
virtual_server 192.0.2.10 80 {
	lb_algo rr
	lb_kind NAT
	protocol TCP
	real_server 10.0.0.21 80 {
	}
	real_server 10.0.0.22 80 {
	}
}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	pid := func(name string) string { return filepath.Join(p.b.dir, name) }
	cmd := exec.Command("keepalived", "--dont-fork", "--log-console", "--use-file", conf,
		"--pid", pid("keepalived.pid"), "--vrrp_pid", pid("vrrp.pid"), "--checkers_pid", pid("checkers.pid"))
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	p.b.Sysctl("net/ipv4/ip_forward", "1")
	p.b.Process = p.b.Host.Start(cmd)
	wantTable(t, p.b.Host, pairTable[0])
	p.b.wantDaemon("backup")

	kept := connectNAT(p)
	p.b.wantSynced(kept)
	p.a.powerOff()
	p.a.SetLink("eth1", false)
	p.wantMaster(p.b)
	if _, err := kept.ask(); err != nil {
		t.Errorf("after keepalived took over: %v", err)
	}
}
