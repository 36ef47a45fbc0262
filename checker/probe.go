package checker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
)

// Probe asks one server once. Nil means that it answered as it should; an error is the short cause that
// operators see, such as "connect: connection refused" or "no answer within 1s".
// It returns within Config.Timeout, or at once when ctx ends, and leaves nothing open behind it.
type Probe func(ctx context.Context) error

// ErrSelf marks the error of a probe that says nothing about the server, because the fault is on this host.
var ErrSelf = errors.New("not counted, the fault is on this host")

// kinds lists every way to ask. What they return need not watch the timeout: ctx ends when it is over.
var kinds = map[Kind]func(Dial, netip.AddrPort, Config) (Probe, error){
	KindTCP:   newTCP,
	KindHTTP:  newHTTP,
	KindHTTPS: newHTTP,
}

// NewProbe returns the probe that c describes, sent to addr; c.Port is already part of addr.
// c is complete and valid, as the configuration's reader leaves it. A CA without certificates is an error.
func NewProbe(addr netip.AddrPort, c Config) (Probe, error) {
	return NewProbeBy(Direct, addr, c)
}

// NewProbeBy is NewProbe over connections that dial opens.
func NewProbeBy(dial Dial, addr netip.AddrPort, c Config) (Probe, error) {
	newKind, ok := kinds[c.Type]
	if !ok {
		return nil, fmt.Errorf("check type %q is unknown", c.Type)
	}
	ask, err := newKind(dial, addr, c)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		limited, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		err := ask(limited)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("no answer within %v", c.Timeout)
		case isLocal(err):
			return fmt.Errorf("%w: %w", ErrSelf, err)
		}
		if c.Port != 0 { // not where the server serves: whoever reads this would look in the wrong place
			return fmt.Errorf("%v: %w", addr, err)
		}
		return err
	}, nil
}

// isLocal says whether err means that this host ran out of something: descriptors, memory, or free ports.
func isLocal(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL,
	}, func(local error) bool { return errors.Is(err, local) })
}

// Dial opens the connection of a probe, without keep-alives: none lives long enough for them.
type Dial func(context.Context, netip.AddrPort) (*net.TCPConn, error)

// Direct is how a probe goes that nothing else is said of.
func Direct(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	dialer := net.Dialer{KeepAlive: -1}
	return dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, addr)
}

// connect opens a connection that closes with a reset. A director may make thousands of checks a second,
// and each orderly close would cost it a socket in TIME_WAIT for a minute. The price is that some servers log
// the reset; nothing is lost by it, as all that is wanted has been read by then.
func (dial Dial) connect(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	conn, err := dial(ctx, addr)
	if err != nil {
		return nil, cause(err)
	}
	if err := conn.SetLinger(0); err != nil {
		return nil, errors.Join(cause(err), conn.Close())
	}
	return conn, nil
}

// cause strips the addresses from a network error: whoever shows it names the server anyway.
func cause(err error) error {
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		return call
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
