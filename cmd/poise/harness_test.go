package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"poise/checker"
	"poise/internal/director"
	"poise/internal/lab"
	"poise/internal/status"
)

// TestMain lets the test binary be poise: as the command "poise", which is in PATH then, as the daemon's
// children, and by the names of ipvsadm.
func TestMain(m *testing.M) {
	if _, child := director.ChildRole(os.Args); child || strings.HasPrefix(filepath.Base(os.Args[0]), "ipvsadm") {
		main()
	}
	testscript.Main(m, map[string]func(){"poise": main})
}

// TestScripts is what a person types.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true})
}

// patience bounds the wait for anything that must happen: far above what a loaded emulated guest needs.
const patience = 30 * time.Second

// daemon is "poise run" on a host, with a runtime directory of its own.
type daemon struct {
	*lab.Process
	t      *testing.T
	host   *lab.Host
	dir    string         // runtime directory
	file   string         // configuration
	args   []string       // more of its command line
	notify net.PacketConn // where systemd would listen
}

// startDaemon starts a daemon with this configuration and waits until it is ready.
func startDaemon(t *testing.T, h *lab.Host, config string) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{t: t, host: h, dir: dir, file: filepath.Join(dir, "poise.toml")}
	d.write(config)
	d.start()
	return d
}

// write changes the configuration file; the daemon does not know yet.
func (d *daemon) write(config string) {
	d.t.Helper()
	if err := os.WriteFile(d.file, []byte(config), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// start starts the daemon, again after a stop, and waits until it is ready.
func (d *daemon) start() {
	d.t.Helper()
	path := filepath.Join(d.dir, "notify")
	os.Remove(path) // of an earlier start
	var err error
	if d.notify, err = net.ListenPacket("unixgram", path); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { d.notify.Close() })
	cmd := exec.Command("poise", append([]string{"run", "-c", d.file, "--runtime-dir", d.dir}, d.args...)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	cmd.Stderr = d.t.Output()
	d.Process = d.host.Start(cmd)
	d.await("READY=1")
}

// await waits for a message to systemd, in vain when the daemon ends.
func (d *daemon) await(message string) {
	d.t.Helper()
	d.notify.SetReadDeadline(time.Now().Add(patience))
	heard := make(chan struct{})
	defer close(heard)
	ended, socket := d.Done(), d.notify // of this start, which another may follow
	go func() {
		select {
		case <-ended:
			socket.SetReadDeadline(time.Now())
		case <-heard:
		}
	}()
	buf := make([]byte, 1<<10)
	for {
		n, _, err := d.notify.ReadFrom(buf)
		if err != nil {
			d.t.Fatalf("waiting for %s: %v", message, err)
		}
		if strings.HasPrefix(string(buf[:n]), message) {
			return
		}
	}
}

// reload gives the daemon another configuration and waits until it has taken or rejected it.
func (d *daemon) reload(config string) {
	d.t.Helper()
	d.write(config)
	d.Signal(syscall.SIGHUP)
	d.await("RELOADING=1")
	d.await("READY=1")
}

// stop ends the daemon as systemd does.
func (d *daemon) stop() {
	d.t.Helper()
	d.Signal(syscall.SIGTERM)
	hangs := time.AfterFunc(patience, d.Kill)
	defer hangs.Stop()
	if err := d.Wait(); err != nil {
		d.t.Errorf("stop: %v", err)
	}
}

// balancer is the pid of the daemon's child.
func (d *daemon) balancer() (pid int) {
	d.t.Helper()
	lab.Eventually(d.t, patience, func() error {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.Pid())) // the pattern is good
		for _, list := range lists {
			data, _ := os.ReadFile(list) // the thread may have ended
			if _, err := fmt.Sscan(string(data), &pid); err == nil {
				return nil
			}
		}
		return errors.New("the daemon has no child")
	})
	return pid
}

// run runs a poise command for this daemon's runtime directory.
func (d *daemon) run(args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(d.t.Context(), "poise", append(args, "--runtime-dir", d.dir)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err = cmd.Run()
	return out.String(), complaint.String(), err
}

// must is run for a command that must succeed.
func (d *daemon) must(args ...string) string {
	d.t.Helper()
	stdout, stderr, err := d.run(args...)
	if err != nil {
		d.t.Fatalf("poise %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return stdout
}

// allUp waits until every server of the first service is up by its checks.
func (d *daemon) allUp() {
	d.t.Helper()
	lab.Eventually(d.t, patience, func() error {
		for _, s := range d.status().Services[0].Servers {
			if s.State != checker.Up {
				return fmt.Errorf("server %v is %v", s.Addr, s.State)
			}
		}
		return nil
	})
}

// revived waits until the balancer that was killed runs again, and returns the status then.
func (d *daemon) revived() (s status.Snapshot) {
	d.t.Helper()
	lab.Eventually(d.t, patience, func() error {
		if s = d.status(); s.Balancer.Stale || s.Balancer.Restarts != 1 {
			return fmt.Errorf("balancer %+v, want it restarted once", s.Balancer)
		}
		return nil
	})
	return s
}

// status is what the daemon says of itself.
func (d *daemon) status() status.Snapshot {
	d.t.Helper()
	var s status.Snapshot
	body, err := request(d.t.Context(), d.dir, http.MethodGet, "/v1/status", nil)
	if err == nil {
		defer body.Close()
		err = json.NewDecoder(body).Decode(&s)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// events are the lines of "poise events" that contain each of parts.
func (d *daemon) events(parts ...string) []string {
	d.t.Helper()
	return slices.DeleteFunc(strings.Split(d.must("events"), "\n"), func(line string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
	})
}

// sees waits for an event that contains each of parts.
func (d *daemon) sees(parts ...string) {
	d.t.Helper()
	lab.Eventually(d.t, patience, func() error {
		d.t.Helper()
		if len(d.events(parts...)) == 0 {
			return fmt.Errorf("no event with %q among:\n%s", parts, strings.Join(d.events(), "\n"))
		}
		return nil
	})
}

// table is the kernel's table, a line a service: "tcp 192.0.2.10:80 wrr: 10.0.0.21:80 nat 1, 10.0.0.22:80 nat 3".
func table(h *lab.Host) string {
	var b strings.Builder
	for _, s := range h.IPVS() {
		fmt.Fprintf(&b, "%s %v %s:", map[uint16]string{6: "tcp", 17: "udp"}[s.Protocol], s.Addr, s.Scheduler)
		for i, d := range s.Destinations {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, " %v %s %d", d.Addr, d.Method, d.Weight)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// wantTable waits until the kernel's table is these lines.
func wantTable(t *testing.T, h *lab.Host, lines ...string) {
	t.Helper()
	want := strings.Join(lines, "\n") + "\n"
	lab.Eventually(t, patience, func() error {
		if got := table(h); got != want {
			return fmt.Errorf("kernel's table:\n%swant:\n%s", got, want)
		}
		return nil
	})
}

// newLVS is the network with the VIP on its director.
func newLVS(t *testing.T) *lab.LVS {
	t.Helper()
	lab.NeedIPVS(t)
	l := lab.NewLVS(t)
	l.Director.AddAddr("eth0", lab.VIP+"/32")
	return l
}

// natServers adds n NAT servers, 10.0.0.21 and following, that serve HTTP on port 80.
func natServers(l *lab.LVS, n int) []*lab.Server {
	var servers []*lab.Server
	for range n {
		servers = append(servers, l.AddServer(lab.NAT).ServeHTTP(":80"))
	}
	return servers
}

// ask makes n requests to a port of the VIP and counts the answers by server.
func ask(t *testing.T, l *lab.LVS, port, n int) map[string]int {
	t.Helper()
	answers := make(map[string]int)
	for range n {
		a, err := l.Client.Get(fmt.Sprintf("http://%s:%d/", lab.VIP, port))
		if err != nil {
			t.Fatal(err)
		}
		if a.Client.Addr().String() != lab.ClientAddr {
			t.Errorf("%s saw the client as %v, want %s", a.Server, a.Client, lab.ClientAddr)
		}
		answers[a.Server]++
	}
	return answers
}

// connection is one TCP connection from the client through the director that stays open.
type connection struct {
	net.Conn
	answers *bufio.Reader
}

// connect opens a connection to a port of the VIP; the first answer shows that it is established.
func connect(t *testing.T, l *lab.LVS, port int) *connection {
	t.Helper()
	conn, err := l.Client.Dial(t.Context(), "tcp", "", fmt.Sprintf("%s:%d", lab.VIP, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &connection{conn, bufio.NewReader(conn)}
	if _, err := c.ask(); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask makes a request over the connection and returns the name of who answers.
func (c *connection) ask() (string, error) {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", lab.VIP); err != nil {
		return "", err
	}
	r, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	var a lab.Answer
	return a.Server, json.NewDecoder(r.Body).Decode(&a)
}

// hammer lets 4 clients make requests to a port of the VIP, each after the other's answer, while f runs
// and at least once each, at most 500 in all. It returns how many there were and the errors.
func hammer(l *lab.LVS, port int, f func()) (requests int, failures []error) {
	var (
		clients sync.WaitGroup
		mu      sync.Mutex
		done    = make(chan struct{})
	)
	for range 4 {
		clients.Go(func() {
			for range 125 {
				_, err := l.Client.Get(fmt.Sprintf("http://%s:%d/", lab.VIP, port))
				mu.Lock()
				requests++
				if err != nil {
					failures = append(failures, err)
				}
				mu.Unlock()
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	f()
	close(done)
	clients.Wait()
	return requests, failures
}
