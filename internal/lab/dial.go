package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
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

// Dial connects from the host to an address and port, both literal. Local is the address and port to come from;
// if it is empty, the connection comes from a port that none has come from, so that it is scheduled anew: IPVS
// keeps a connection for minutes after its end, and sends whoever comes from the same port to the same server.
func (h *Host) Dial(ctx context.Context, network, local, remote string) (net.Conn, error) {
	if local != "" {
		return h.dial(ctx, network, local, remote)
	}
	for {
		c, err := h.dial(ctx, network, fmt.Sprintf(":%d", h.nextPort()), remote)
		if !errors.Is(err, unix.EADDRINUSE) { // a listener may have the port
			return c, err
		}
	}
}

func (h *Host) dial(ctx context.Context, network, local, remote string) (c net.Conn, err error) {
	var d net.Dialer
	if d.LocalAddr, err = resolve(network, local); err != nil {
		return nil, err
	}
	err = h.Do(func() error {
		c, err = d.DialContext(ctx, network, remote)
		return err
	})
	return c, err
}

// nextPort returns a port below those that the kernel chooses from (ip_local_port_range). The kernel's own choice
// begins at another place every 10 s (EPHEMERAL_PORT_SHUFFLE_PERIOD in net/core/secure_seq.c), and so comes upon
// ports of the last minutes now and then.
func (h *Host) nextPort() uint32 {
	const first, end = 10000, 32768
	return first + (h.dialed.Add(1)-1)%(end-first)
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
