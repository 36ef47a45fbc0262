package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// requestTimeout bounds a client's request: far above what a loaded emulated guest needs.
const requestTimeout = 10 * time.Second

// listen lets a server start before its address exists, as a virtual one may come and go.
var listen = net.ListenConfig{
	Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		}), err)
	},
}

// Listen opens a listener on the host, for example "tcp", "10.0.0.21:80".
func (h *Host) Listen(network, addr string) (l net.Listener, err error) {
	err = h.Do(func() error {
		l, err = listen.Listen(context.Background(), network, addr)
		return err
	})
	return l, err
}

// ListenPacket opens a packet socket on the host, for example "udp", "10.0.0.21:53".
func (h *Host) ListenPacket(network, addr string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = listen.ListenPacket(context.Background(), network, addr)
		return err
	})
	return c, err
}

// Dial connects from the host to an address and port, both literal. Local, which may be
// empty, is the address and port to come from.
func (h *Host) Dial(ctx context.Context, network, local, remote string) (c net.Conn, err error) {
	var d net.Dialer
	if local != "" {
		if d.LocalAddr, err = resolve(network, local); err != nil {
			return nil, err
		}
	}
	err = h.Do(func() error {
		c, err = d.DialContext(ctx, network, remote)
		return err
	})
	return c, err
}

func resolve(network, addr string) (net.Addr, error) {
	if strings.HasPrefix(network, "udp") {
		return net.ResolveUDPAddr(network, addr)
	}
	return net.ResolveTCPAddr(network, addr)
}

// HTTPClient returns a client whose connections start on the host, a new one for each
// request, so that each is scheduled anew. It trusts the network's CA. Callers may change it.
func (h *Host) HTTPClient() *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(h.net.authority().cert)
	return &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return h.Dial(ctx, network, "", addr)
			},
		},
	}
}
