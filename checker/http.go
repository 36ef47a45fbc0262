package checker

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"
)

// newHTTP sends a GET request, over TLS with KindHTTPS, and judges the answer's status. A redirect is
// an answer like any other: following it would judge another server.
func newHTTP(dial Dial, addr netip.AddrPort, c Config) (Probe, error) {
	host := hostHeader(addr, c)
	request := "GET " + c.Path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: poise\r\nConnection: close\r\n\r\n"

	open := func(conn net.Conn) (net.Conn, error) { return conn, nil }
	if c.Type == KindHTTPS {
		config, err := tlsConfig(host, c.CA)
		if err != nil {
			return nil, err
		}
		open = func(conn net.Conn) (net.Conn, error) { return handshake(conn, config) }
	}
	return func(ctx context.Context) error {
		raw, err := dial.connect(ctx, addr)
		if err != nil {
			return err
		}
		defer raw.Close()
		stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
		defer stop()

		conn, err := open(raw)
		if err != nil {
			return err
		}
		if err := get(conn, request, c.Status); err != nil {
			return fmt.Errorf("GET %s: %w", c.Path, err)
		}
		return nil
	}, nil
}

// hostHeader is the name the server is asked for. A zone in its address means something on this host only.
func hostHeader(addr netip.AddrPort, c Config) string {
	return cmp.Or(c.Host, netip.AddrPortFrom(addr.Addr().WithZone(""), addr.Port()).String())
}

// get sends the request and says what is wrong with the answer.
func get(conn io.ReadWriter, request string, want []StatusRange) error {
	if _, err := io.WriteString(conn, request); err != nil {
		return cause(err)
	}
	status, err := readStatus(conn)
	if err != nil {
		return cause(err)
	}
	if !slices.ContainsFunc(want, func(r StatusRange) bool { return r.First <= status && status <= r.Last }) {
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// tlsConfig wants a certificate for the host of a Host header, signed by an authority in ca, or one of
// the system's where ca is empty.
func tlsConfig(host string, ca []byte) (*tls.Config, error) {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	config := &tls.Config{ServerName: host}
	if len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("ca_file: no certificate in PEM form")
		}
	}
	return config, nil
}

// handshake secures conn. The caller closes conn, which is all there is to close.
func handshake(conn net.Conn, config *tls.Config) (net.Conn, error) {
	secured := tls.Client(conn, config)
	err := secured.Handshake()
	if refused, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return nil, fmt.Errorf("certificate: %w", refused.Err)
	}
	if err != nil {
		return nil, cause(err)
	}
	return secured, nil
}
