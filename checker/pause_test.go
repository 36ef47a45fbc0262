package checker

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pauseServer is the server to check, in the environment of the process that TestPause stops.
const pauseServer = "POISE_TEST_PAUSE_SERVER"

const pauseTimeout = 100 * time.Millisecond

// A process that is stopped while a probe is in flight does not blame the server, not even with fall = 1.
func TestPause(t *testing.T) {
	if server := os.Getenv(pauseServer); server != "" {
		printReports(t, netip.MustParseAddrPort(server))
		return
	}
	l := listen(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPause$", "-test.timeout=30s")
	cmd.Env = append(os.Environ(), pauseServer+"="+addrOf(l).String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	reports := bufio.NewScanner(out)

	for _, step := range []struct {
		serve func()
		want  string
	}{
		{func() {
			conn := acceptRequest(t, l)
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
		}, "up: <nil>"},
		{func() {
			conn := acceptRequest(t, l)
			defer conn.Close()
			pause(t, cmd.Process.Pid, pauseTimeout+grace+100*time.Millisecond)
		}, "up: " + ErrSelf.Error() + ": stopped or starved for 1."},
		{func() { l.Close() }, "down: "},
	} {
		step.serve()
		if reports.Scan(); !strings.HasPrefix(reports.Text(), step.want) {
			t.Fatalf("reported %q, want %q", reports.Text(), step.want)
		}
	}
}

// printReports checks one server until the process is killed.
func printReports(t *testing.T, server netip.AddrPort) {
	l := NewLoop()
	go l.Run(t.Context())
	set(t, l, Target{Addr: server, Config: Config{
		Type: KindHTTP, Path: "/", Status: []StatusRange{{200, 200}},
		Interval: pauseTimeout, Timeout: pauseTimeout, Rise: 1, Fall: 1,
	}})
	for r := range l.Reports() {
		fmt.Printf("%v: %v\n", r.State, r.Err)
	}
}

// acceptRequest returns once the probe waits for its answer.
func acceptRequest(t *testing.T, l *net.TCPListener) net.Conn {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return conn
}

// pause stops a child process for d.
func pause(t *testing.T, pid int, d time.Duration) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(pid, nil, syscall.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
