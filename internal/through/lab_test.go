package through

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
	"poise/ipvsctl"
)

// TestLabThrough: what would make somebody else's answer the server's is noticed, and what a killed one left is undone.
func TestLabThrough(t *testing.T) {
	lab.NeedIPVS(t)
	l := lab.NewLVS(t)
	l.Director.AddAddr("eth0", lab.VIP+"/32")
	right, wrong := l.AddServer(lab.DR), l.AddServer(lab.DR)
	serving := make(map[*lab.RealServer]*lab.Server)
	for _, s := range []*lab.RealServer{right, wrong} {
		s.Sysctl("net/ipv4/conf/all/arp_ignore", "1")
		s.AddAddr("lo", lab.VIP+"/32")
		serving[s] = s.ServeHTTP(":80")
	}
	vip := netip.MustParseAddrPort(lab.VIP + ":80")
	w := Way{VIP: vip, Server: netip.AddrPortFrom(right.Addr, 80), Method: ipvsctl.DR}
	other := Way{VIP: vip, Server: netip.AddrPortFrom(wrong.Addr, 80), Method: ipvsctl.DR}
	refused := Way{VIP: vip, Server: netip.MustParseAddrPort("[2001:db8:2::99]:80"), Method: ipvsctl.NAT} // another family
	dir := t.TempDir()
	state := func() string {
		return l.Director.Run("sh", "-c", "ipvsadm -Sn; nft list ruleset; sysctl -a 2>/dev/null | grep accept_local; ls "+dir)
	}
	l.Director.Run("ipvsadm", "-A", "-t", vip.String(), "-s", "rr")
	l.Director.Run("ipvsadm", "-a", "-t", vip.String(), "-r", netip.AddrPortFrom(wrong.Addr, 80).String(), "-g")
	l.Director.Run("touch", dir+"/probe.lock")
	before := state()

	// on runs f with a prober, in the director.
	on := func(f func(p *Prober) error) error {
		return l.Director.Do(func() error {
			p, err := Open(t.Context(), dir, nil, []Way{w, refused, other})
			if err != nil {
				return err
			}
			return errors.Join(f(p), p.Close(t.Context()))
		})
	}
	connect := func(ctx context.Context, dial Dial) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		conn, err := dial(ctx, vip)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	probe := func(p *Prober) error { return p.Probe(t.Context(), w, connect) }

	if err := on(probe); err != nil {
		t.Errorf("a healthy server: %v", err)
	}
	if err := on(func(p *Prober) error { return p.Probe(t.Context(), refused, connect) }); !errors.Is(err, ErrCannot) {
		t.Errorf("a server that cannot be: %v", err)
	}
	serving[right].Kill()
	if err := on(probe); err == nil || errors.Is(err, ErrCannot) {
		t.Errorf("a server that refuses: %v", err)
	}
	serving[right].Restart()
	err := on(func(p *Prober) error {
		p.ports.count = 1
		returns, err := p.Returns(t.Context(), []Way{w, other}, 100*time.Millisecond)
		if len(returns) != 1 {
			t.Errorf("two ways with one port: %+v", returns)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(){
		"the table was emptied": func() { l.Director.Run("ipvsadm", "-D", "-f", "1343225857") },
		"this host is a backup that serves nothing": func() {
			l.Director.Run("sh", "-c", "sysctl -qw net.ipv4.vs.backup_only=1; ipvsadm --start-daemon backup --mcast-interface eth0")
		},
		"another rule changes the mark": func() {
			l.Director.Run("nft", "add table ip other; add chain ip other out { type filter hook output priority -200; }; add rule ip other out meta mark set 1")
		},
	} {
		err := on(func(p *Prober) error {
			spoil()
			return probe(p)
		})
		if !errors.Is(err, ErrCannot) {
			t.Errorf("%s: %v", name, err)
		}
		l.Director.Run("sh", "-c", "sysctl -qw net.ipv4.vs.backup_only=0; nft 'add table ip other; delete table ip other'")
	}

	// Two at once would undo each other's.
	err = on(func(*Prober) error {
		_, err := Open(t.Context(), dir, nil, []Way{w})
		return err
	})
	if !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a second one: %v", err)
	}

	// Killed: what is left is seen, and goes with the next one.
	err = l.Director.Do(func() error {
		p, err := Open(t.Context(), dir, nil, []Way{w})
		if err != nil {
			return err
		}
		p.client.Close()
		return p.lock.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if left := state(); left == before || !strings.Contains(left, "net.ipv4.conf.eth0.accept_local = 1") || !strings.Contains(left, "poise_probe") || !strings.Contains(left, "-f 1343225857") {
		t.Errorf("left by a killed one:\n%s", left)
	}
	if err := on(probe); err != nil {
		t.Errorf("after a killed one: %v", err)
	}
	if after := state(); after != before {
		t.Errorf("it is\n%swas\n%s", after, before)
	}
}
