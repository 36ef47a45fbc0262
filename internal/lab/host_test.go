package lab

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// pair is a client and a server on one switch.
func pair(t *testing.T) (client, server *Host) {
	NeedRoot(t)
	n := New(t)
	s := n.Switch("switch")
	client, server = n.Host("client"), n.Host("server")
	client.Connect(s, "192.0.2.1/24")
	server.Connect(s, "192.0.2.2/24")
	return client, server
}

func TestNetnsHTTPServer(t *testing.T) {
	client, host := pair(t)
	server := host.ServeHTTP("192.0.2.2:80")
	get := func() Answer {
		t.Helper()
		a, err := client.Get("http://192.0.2.2/some/path")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := get()
	if a.Server != "server" || a.Client.Addr().String() != "192.0.2.1" || a.Host != "192.0.2.2" || a.Path != "/some/path" {
		t.Errorf("answer %+v", a)
	}

	server.SetHealth(http.StatusServiceUnavailable)
	if _, err := client.Get("http://192.0.2.2/healthz"); err == nil || !strings.Contains(err.Error(), "status 503") {
		t.Errorf("sick server: %v, want status 503", err)
	}

	server.Kill()
	if _, err := client.Get("http://192.0.2.2/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("killed server: %v, want connection refused", err)
	}
	server.Restart()
	get()
}

// A port that a listener has is passed over.
func TestNetnsDialFromNewPorts(t *testing.T) {
	client, host := pair(t)
	host.ServeHTTP("192.0.2.2:80")
	taken, err := client.Listen("tcp", ":10002")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var got []uint16
	for range 4 {
		a, err := client.Get("http://192.0.2.2/")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.Client.Port())
	}
	if want := []uint16{10000, 10001, 10003, 10004}; !slices.Equal(got, want) {
		t.Errorf("requests came from ports %v, want %v", got, want)
	}
}

func TestNetnsHTTPSServer(t *testing.T) {
	client, host := pair(t)
	host.ServeHTTPS("192.0.2.2:443", "192.0.2.2", "web.example")
	for _, tt := range []struct {
		name    string
		roots   []byte
		wantErr bool
	}{
		{"192.0.2.2", host.net.CA(), false},
		{"web.example", host.net.CA(), false},
		{"other.example", host.net.CA(), true},
		{"192.0.2.2", nil, true},
	} {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(tt.roots)
		c := client.HTTPClient()
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: tt.name}
		r, err := c.Get("https://192.0.2.2/")
		if err == nil {
			r.Body.Close()
		}
		if (err != nil) != tt.wantErr {
			t.Errorf("%s with CA %v: error %v, want one: %v", tt.name, tt.roots != nil, err, tt.wantErr)
		}
	}
}

func TestNetnsUDPServer(t *testing.T) {
	client, host := pair(t)
	host.ServeUDP("192.0.2.2:53")
	c, err := client.Dial(t.Context(), "udp", "192.0.2.1:4000", "192.0.2.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(requestTimeout))
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	var a Answer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if a.Server != "server" || a.Client.String() != "192.0.2.1:4000" {
		t.Errorf("answer %+v", a)
	}
}

func TestNetnsLinkDown(t *testing.T) {
	client, host := pair(t)
	host.ServeHTTP("192.0.2.2:80")
	host.SetLink("eth0", false)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if c, err := client.Dial(ctx, "tcp", "", "192.0.2.2:80"); err == nil {
		c.Close()
		t.Error("a host with its link down answers")
	}
	host.SetLink("eth0", true)
	if _, err := client.Get("http://192.0.2.2/"); err != nil {
		t.Error(err)
	}
}

func TestNetnsSysctlIsTheHosts(t *testing.T) {
	client, server := pair(t)
	server.Sysctl("net/ipv4/ip_forward", "1")
	client.Sysctl("net/ipv4/ip_forward", "0")
	if got := server.ReadSysctl("net/ipv4/ip_forward"); got != "1" {
		t.Errorf("server's ip_forward %s, want 1", got)
	}
}

func TestNetnsRun(t *testing.T) {
	_, server := pair(t)
	if got := server.Run("ip", "-o", "-4", "addr", "show", "eth0"); !strings.Contains(got, "192.0.2.2/24") {
		t.Errorf("server's addresses:\n%s", got)
	}
	// By hand, as a person would look at it.
	out, err := exec.Command("ip", "netns", "exec", server.Namespace, "ip", "-o", "link").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "eth0") {
		t.Errorf("ip netns exec: %v\n%s", err, out)
	}
}

func TestNetnsCloseLeavesNothing(t *testing.T) {
	NeedRoot(t)
	n := NewNetwork()
	h := n.Host("host")
	p := h.Start(exec.Command("sleep", "1000"))
	h.ServeHTTP(":80")
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if alive(p.Pid()) {
		t.Error("process survived its network")
	}
	if _, err := os.Stat(path(h.Namespace)); err == nil {
		t.Errorf("namespace %s is left", h.Namespace)
	}
}

// A killed test cannot clean up: the kernel ends its processes, the next network removes
// its namespaces.
func TestNetnsKilledTestLeavesNothing(t *testing.T) {
	NeedRoot(t)
	const inner = "LAB_TEST_INNER"
	if os.Getenv(inner) != "" {
		h := NewNetwork().Host("host")
		fmt.Println(h.Namespace, h.Start(exec.Command("sleep", "1000")).Pid())
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inner+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(line)
	namespace, sleep := fields[0], fields[1]
	if _, err := os.Stat(path(namespace)); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(sleep)
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("process %d survived its test", pid)
		}
	}
	New(t)
	if _, err := os.Stat(path(namespace)); err == nil {
		netns.DeleteNamed(namespace)
		t.Errorf("namespace %s is left", namespace)
	}
}

// alive reports whether a process runs; one that waits to be collected does not.
func alive(pid int) bool {
	if unix.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
