package checker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// probe asks addr once, and sees that nothing was left open.
func probe(t *testing.T, addr netip.AddrPort, c Config) error {
	t.Helper()
	c.Timeout = max(c.Timeout, 10*time.Millisecond)
	p, err := NewProbe(addr, c)
	if err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	err = p(t.Context())
	// The server is in this process: its end closes soon after the probe's, or never.
	for deadline := time.Now().Add(5 * time.Second); openFiles(t) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d files open after the probe, %d before", openFiles(t), before)
		}
	}
	return err
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func addrOf(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	l := listen(t)
	l.Close()
	return addrOf(l)
}

// fullListener is an address that answers no SYN: its backlog is taken by a connection nobody accepts.
func fullListener(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*syscall.SockaddrInet4).Port))
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return addr
}

func TestTCP(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		addr       netip.AddrPort
	}{
		{"listening", "", addrOf(listen(t))},
		{"refused", "connect: connection refused", closedPort(t)},
		{"silent", "no answer within 10ms", fullListener(t)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := probe(t, tt.addr, Config{Type: KindTCP}); errorText(err) != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestProbeClosesWithReset(t *testing.T) {
	l := listen(t)
	if err := probe(t, addrOf(l), Config{Type: KindTCP}); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("server reads %v, want a reset", err)
	}
}

func TestProbeWithoutDescriptors(t *testing.T) {
	p, err := NewProbe(addrOf(listen(t)), Config{Type: KindTCP, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	err = p(t.Context())
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	const want = "not counted, the fault is on this host: socket: too many open files"
	if !errors.Is(err, ErrSelf) || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestUnknownKind(t *testing.T) {
	if _, err := NewProbe(netip.AddrPort{}, Config{Type: "smoke"}); errorText(err) != `check type "smoke" is unknown` {
		t.Errorf("error %v", err)
	}
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "fine") })
	mux.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/healthz", http.StatusFound) })
	mux.HandleFunc("GET /hints", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusEarlyHints) })
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("GET /vanish", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("GET /asked", func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "shop.example" || r.UserAgent() != "poise" || !r.Close {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	ok := StatusRange{200, 299}
	for _, tt := range []struct {
		name string
		addr netip.AddrPort
		c    Config
		want string
	}{
		{"fine", addrOf(server.Listener), Config{Path: "/healthz", Status: []StatusRange{ok}}, ""},
		{"a redirect is not followed", addrOf(server.Listener), Config{Path: "/moved", Status: []StatusRange{ok}}, "GET /moved: status 302"},
		{"a redirect is wanted", addrOf(server.Listener), Config{Path: "/moved", Status: []StatusRange{{200, 200}, {302, 302}}}, ""},
		{"a hint comes first", addrOf(server.Listener), Config{Path: "/hints", Status: []StatusRange{ok}}, ""},
		{"not found", addrOf(server.Listener), Config{Path: "/nowhere", Status: []StatusRange{ok}}, "GET /nowhere: status 404"},
		{"host and agent", addrOf(server.Listener), Config{Path: "/asked", Host: "shop.example", Status: []StatusRange{ok}}, ""},
		{"slow", addrOf(server.Listener), Config{Path: "/slow", Status: []StatusRange{ok}}, "no answer within 10ms"},
		{"no answer", addrOf(server.Listener), Config{Path: "/vanish", Status: []StatusRange{ok}}, "GET /vanish: connection closed before an answer"},
		{"refused", closedPort(t), Config{Path: "/"}, "connect: connection refused"},
		{"silent", fullListener(t), Config{Path: "/"}, "no answer within 10ms"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Type = KindHTTP
			if tt.want != "no answer within 10ms" {
				tt.c.Timeout = 10 * time.Second
			}
			if err := probe(t, tt.addr, tt.c); errorText(err) != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestProbeEndsWithContext(t *testing.T) {
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel(stopped)
		<-r.Context().Done() // the probe hangs up
	}))
	t.Cleanup(server.Close)
	p, err := NewProbe(addrOf(server.Listener), Config{Type: KindHTTP, Path: "/", Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := p(ctx); !errors.Is(err, stopped) {
		t.Errorf("error %v, want %v", err, stopped)
	}
}

func TestHTTPWithoutHost(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:80":        "127.0.0.1:80",
		"[2001:db8::1]:8080":  "[2001:db8::1]:8080",
		"[fe80::1%eth0]:8080": "[fe80::1]:8080",
	} {
		if got := hostHeader(netip.MustParseAddrPort(addr), Config{}); got != want {
			t.Errorf("Host of %s is %s, want %s", addr, got, want)
		}
	}
}

func TestHTTPS(t *testing.T) {
	now := time.Now()
	ours, theirs := newAuthority(t), newAuthority(t)
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	secured := func(signer authority, expires time.Time) netip.AddrPort {
		return serveTLS(t, signer.issue(t, expires, "shop.example", "127.0.0.1"), handler)
	}
	for _, tt := range []struct {
		name string
		addr netip.AddrPort
		host string
		want string // how the error begins
	}{
		{"name", secured(ours, now.Add(time.Hour)), "shop.example", ""},
		{"name with port", secured(ours, now.Add(time.Hour)), "shop.example:8443", ""},
		{"address", secured(ours, now.Add(time.Hour)), "", ""},
		{"wrong name", secured(ours, now.Add(time.Hour)), "bank.example", "certificate: x509: certificate is valid for shop.example, not bank.example"},
		{"expired", secured(ours, now.Add(-time.Hour)), "shop.example", "certificate: x509: certificate has expired or is not yet valid"},
		{"unknown authority", secured(theirs, now.Add(time.Hour)), "shop.example", "certificate: x509: certificate signed by unknown authority"},
		{"no TLS", addrOf(plain.Listener), "shop.example", "tls: first record does not look like a TLS handshake"},
		{"silent", fullListener(t), "shop.example", "no answer within 1s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := probe(t, tt.addr, Config{
				Type: KindHTTPS, Path: "/", Host: tt.host, CA: ours.pem, Timeout: time.Second, Status: []StatusRange{{200, 200}},
			})
			if got := errorText(err); tt.want == "" && err != nil || !strings.HasPrefix(got, tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}

	t.Run("the system's authorities", func(t *testing.T) {
		err := probe(t, secured(ours, now.Add(time.Hour)), Config{Type: KindHTTPS, Path: "/", Timeout: 10 * time.Second})
		if want := "certificate: x509: certificate signed by unknown authority"; errorText(err) != want {
			t.Errorf("error %v, want %s", err, want)
		}
	})
	t.Run("a CA that is none", func(t *testing.T) {
		_, err := NewProbe(netip.AddrPort{}, Config{Type: KindHTTPS, CA: []byte("hello")})
		if want := "ca_file: no certificate in PEM form"; errorText(err) != want {
			t.Errorf("error %v, want %s", err, want)
		}
	})
}
