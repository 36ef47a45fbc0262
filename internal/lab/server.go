package lab

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Answer is what a lab server replies to every request, as one line of JSON.
type Answer struct {
	Server string         // name of the answering host
	Client netip.AddrPort // where the server saw the request come from
	Host   string         // HTTP only: the Host header
	Path   string         // HTTP only
}

// Server is a real server on a host. It starts and ends with its network.
type Server struct {
	open func() (io.Closer, error) // starts to serve
	fail func(error)

	health  atomic.Int32
	mu      sync.Mutex
	serving io.Closer // nil while killed
}

// ServeHTTP starts an HTTP server on the host at addr, for example ":80". It replies with
// an Answer, and at /healthz with the status last given to SetHealth, 200 at first.
func (h *Host) ServeHTTP(addr string) *Server { return h.serveHTTP(addr, nil) }

// ServeHTTPS is ServeHTTP over TLS, with a certificate from the network's CA for names,
// which may be host names and addresses.
func (h *Host) ServeHTTPS(addr string, names ...string) *Server {
	cert, err := h.net.authority().issue(names)
	h.net.must(h.wrap("certificate", err))
	return h.serveHTTP(addr, &tls.Config{Certificates: []tls.Certificate{cert}})
}

func (h *Host) serveHTTP(addr string, secure *tls.Config) *Server {
	s := &Server{}
	s.SetHealth(http.StatusOK)
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(s.health.Load()))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		client, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		json.NewEncoder(w).Encode(Answer{h.Name, client, r.Host, r.URL.Path})
	})
	return h.serve(s, func() (io.Closer, error) {
		l, err := h.Listen("tcp", addr)
		if err != nil {
			return nil, err
		}
		if secure != nil {
			l = tls.NewListener(l, secure)
		}
		// Checks hang up in the middle on purpose: no log of that.
		server := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
		go server.Serve(l) // until Close
		return server, nil
	})
}

// ServeUDP starts a UDP server on the host which replies to each datagram with an Answer.
// With several addresses on the host, addr has to name the one that clients use.
func (h *Host) ServeUDP(addr string) *Server {
	return h.serve(&Server{}, func() (io.Closer, error) {
		c, err := h.ListenPacket("udp", addr)
		if err != nil {
			return nil, err
		}
		go h.answerDatagrams(c)
		return c, nil
	})
}

func (h *Host) answerDatagrams(c net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		client := from.(*net.UDPAddr).AddrPort()
		reply, err := json.Marshal(Answer{Server: h.Name, Client: netip.AddrPortFrom(client.Addr().Unmap(), client.Port())})
		if err != nil {
			return
		}
		c.WriteTo(reply, from) // lost like any datagram
	}
}

func (h *Host) serve(s *Server, open func() (io.Closer, error)) *Server {
	s.open = func() (io.Closer, error) {
		c, err := open()
		return c, h.wrap("serve", err)
	}
	s.fail = h.net.fail
	s.Restart()
	h.net.atEnd(func() error {
		s.Kill()
		return nil
	})
	return s
}

// SetHealth sets the status of /healthz.
func (s *Server) SetHealth(status int) { s.health.Store(int32(status)) }

// Kill closes the server and its connections, as the end of its process would. New
// connections are refused.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving != nil {
		s.serving.Close()
		s.serving = nil
	}
}

// Restart brings a killed server back at the same address.
func (s *Server) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving != nil {
		return
	}
	c, err := s.open()
	if err != nil {
		s.fail(err)
		return
	}
	s.serving = c
}

// Get requests a URL from the host by a connection of its own and returns the server's answer.
// Any status but 200 is an error.
func (h *Host) Get(url string) (Answer, error) {
	r, err := h.HTTPClient().Get(url)
	if err != nil {
		return Answer{}, h.wrap("request", err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return Answer{}, h.wrap("request", fmt.Errorf("%s: status %d", url, r.StatusCode))
	}
	var a Answer
	return a, h.wrap("answer", json.NewDecoder(r.Body).Decode(&a))
}
