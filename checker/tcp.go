package checker

import (
	"context"
	"net/netip"
)

// newTCP asks whether the server's kernel completes a connection. Nothing is sent.
func newTCP(dial Dial, addr netip.AddrPort, _ Config) (Probe, error) {
	return func(ctx context.Context) error {
		conn, err := dial.connect(ctx, addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}, nil
}
