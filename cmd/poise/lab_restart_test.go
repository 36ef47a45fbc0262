package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"poise/internal/lab"
)

// With on_stop = "leave" nobody notices a restart: no write to the kernel's table from the stop until
// the new daemon's checks have their verdicts, connections and counters go on.
func TestLabRestart(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	d := startDaemon(t, l.Director, checkedWeb)
	d.allUp()
	wantTable(t, l.Director, webLine)
	open := connect(t, l, 80)
	ask(t, l, 80, 3)
	counted := func() lab.Counters { return l.Director.IPVS()[0].Counters }
	lab.Eventually(t, patience, func() error {
		if c := counted(); c.Connections != 4 {
			return fmt.Errorf("%d connections counted, want 4", c.Connections)
		}
		return nil
	})
	before := counted()
	watch := l.Director.WatchIPVS()

	d.stop()
	wantTable(t, l.Director, webLine)
	d.start()
	d.allUp()

	if n := watch.Writes(); n != 0 {
		t.Errorf("%d writes to the kernel's table, want 0: %v", n, watch.Counts())
	}
	if _, err := open.ask(); err != nil {
		t.Errorf("established connection: %v", err)
	}
	if after := counted(); after.Connections != before.Connections || after.PacketsIn < before.PacketsIn {
		t.Errorf("counters %+v, before the restart %+v", after, before)
	}
	wantTable(t, l.Director, webLine)
}

// Whatever is killed, and whenever: the table becomes what the configuration says, and what others made
// in it stays.
func TestLabKilled(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	configs := [2]string{checkedWeb + leaving, checkedWeb + coming + weighted}
	withForeign := "tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 1, 10.0.0.22:80 nat 1, 10.0.0.99:80 nat 7"
	foreign := "tcp 192.0.2.10:999 wlc: 10.0.0.99:999 nat 1"
	tables := [2][]string{{withForeign, leavingLine, foreign}, {withForeign, comingLine, weightedLine, foreign}}

	d := startDaemon(t, l.Director, configs[0])
	d.allUp()
	l.Director.Run("ipvsadm", "-a", "-t", "192.0.2.10:80", "-r", "10.0.0.99", "-m", "-w", "7")
	l.Director.Run("ipvsadm", "-A", "-t", "192.0.2.10:999")
	l.Director.Run("ipvsadm", "-a", "-t", "192.0.2.10:999", "-r", "10.0.0.99", "-m")

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 10 {
		pids := []int{d.balancer()}
		everything := round%2 == 1
		if everything {
			pids = append(pids, d.Pid())
		}
		random.Shuffle(len(pids), func(i, j int) { pids[i], pids[j] = pids[j], pids[i] })

		now, next := round%2, (round+1)%2
		d.write(configs[next])
		d.Signal(syscall.SIGHUP)
		time.Sleep(time.Duration(random.Int64N(int64(200 * time.Millisecond)))) // most reloads take less
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if everything {
			<-d.Done()
			d.start()
		} else {
			inForce := next
			if d.revived().Config.Rejected != "" {
				inForce = now
			}
			wantTable(t, l.Director, tables[inForce]...)
			d.reload(configs[next])
		}
		wantTable(t, l.Director, tables[next]...)
	}
	if foreign := d.status().ForeignServices; len(foreign) != 1 || foreign[0].String() != "192.0.2.10:999" {
		t.Errorf("status shows foreign services %v, want 192.0.2.10:999", foreign)
	}
}

// With on_stop = "remove" all is as before the first start, even when a killed run was in between.
func TestLabRemove(t *testing.T) {
	l := newLVS(t)
	l.Director.Sysctl("net/ipv4/conf/eth0/forwarding", "1")
	l.Director.Sysctl("net/ipv4/conf/all/accept_redirects", "0")
	l.Director.Run("ipvsadm", "-A", "-t", "192.0.2.10:999", "-s", "rr")
	before := sysctls(t, l.Director)

	d := startDaemon(t, l.Director, "[global]\non_stop = \"remove\"\n"+web)
	wantTable(t, l.Director, webLine, "tcp 192.0.2.10:999 rr:")
	during := sysctls(t, l.Director)
	for name, want := range map[string]string{
		"ip_forward": "1", "conf/all/send_redirects": "0", "conf/default/send_redirects": "0", "conf/eth1/send_redirects": "0",
		"vs/expire_nodest_conn": "1", "vs/expire_quiescent_template": "1",
	} {
		if during[name] != want {
			t.Errorf("while running net/ipv4/%s is %s, want %s", name, during[name], want)
		}
	}
	d.Kill()
	// Takes forwarding off every interface. The next run must not take that for how it was.
	l.Director.Sysctl("net/ipv4/ip_forward", "0")
	d.start()
	d.stop()

	wantTable(t, l.Director, "tcp 192.0.2.10:999 rr:")
	for name, value := range sysctls(t, l.Director) {
		if value != before[name] {
			t.Errorf("net/ipv4/%s is %s, before the start %s", name, value, before[name])
		}
	}
	if _, err := os.Stat(filepath.Join(d.dir, "sysctls.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("record of former values: %v, want none", err)
	}
}

// sysctls are the settings below net/ipv4 that poise may change, directly or because the kernel changes them along.
func sysctls(t *testing.T, h *lab.Host) map[string]string {
	t.Helper()
	const root = "/proc/sys/net/ipv4/"
	values := make(map[string]string)
	err := h.Do(func() error {
		for _, pattern := range []string{"ip_forward", "conf/*/forwarding", "conf/*/*_redirects", "vs/*"} {
			paths, err := filepath.Glob(root + pattern)
			if err != nil {
				return err
			}
			for _, path := range paths {
				value, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				values[strings.TrimPrefix(path, root)] = strings.TrimSpace(string(value))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// A stop in the middle of a reload waits until that is whole, and then leaves nothing of ours behind.
func TestLabStopDuringReload(t *testing.T) {
	l := newLVS(t)
	services := func(n int) string {
		config := "[global]\non_stop = \"remove\"\n"
		for i := range n {
			config += strings.NewReplacer(`"web"`, fmt.Sprintf(`"web%d"`, i), ":80", fmt.Sprintf(":%d", 1000+i)).Replace(web)
		}
		return config
	}
	for range 3 {
		d := startDaemon(t, l.Director, services(2))
		d.write(services(100))
		d.Signal(syscall.SIGHUP)
		d.await("RELOADING=1")
		d.stop()
		if left := table(l.Director); left != "" {
			t.Fatalf("left in the kernel:\n%s", left)
		}
	}
}

// A balancer that hangs takes nothing down: the kernel forwards, status answers with the last numbers.
// Without its parent a balancer ends at once, and the table stays.
func TestLabHang(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	d := startDaemon(t, l.Director, checkedWeb)
	d.allUp()
	ask(t, l, 80, 2)
	balancer := d.balancer()
	watch := l.Director.WatchIPVS()

	syscall.Kill(balancer, syscall.SIGSTOP)
	// What was asked a second ago may be told again; then it is seen to be old.
	lab.Eventually(t, patience, func() error {
		if !d.status().Balancer.Stale {
			return errors.New("status is not stale")
		}
		return nil
	})
	asked := time.Now()
	text := d.must("status")
	limit := 6 * time.Second
	if lab.Emulated() {
		limit *= 2
	}
	if took := time.Since(asked); took > limit {
		t.Errorf("status took %v, want at most %v", took, limit)
	}
	for _, want := range []string{"! the balancer does not answer", "10.0.0.21:80", "10.0.0.22:80"} {
		if !strings.Contains(text, want) {
			t.Errorf("status lacks %q:\n%s", want, text)
		}
	}
	if got := ask(t, l, 80, 4); !maps.Equal(got, map[string]int{"nat1": 2, "nat2": 2}) {
		t.Errorf("answers %v, want 2 from each", got)
	}
	syscall.Kill(balancer, syscall.SIGCONT)
	lab.Eventually(t, patience, func() error {
		if d.status().Balancer.Stale {
			return errors.New("status is still stale")
		}
		return nil
	})

	d.Kill()
	lab.Eventually(t, 5*time.Second, func() error {
		if syscall.Kill(balancer, 0) == nil {
			return errors.New("the balancer lives on without its parent")
		}
		return nil
	})
	wantTable(t, l.Director, webLine)
	if n := watch.Writes(); n != 0 {
		t.Errorf("%d writes to the kernel's table, want 0", n)
	}
}
