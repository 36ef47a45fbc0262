package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Tap sees packets on all interfaces of the calling thread's network namespace, before any packet filter, whether this host
// receives or sends them.
type Tap struct{ fd int }

// ofInterface begins a filter: packets of a trunk's VLANs pass twice, and the first time with the trunk, which they are not for. The
// kernel has taken the tag out of the frame by then and keeps it beside. VLAN 0 is no VLAN, but a priority (IEEE 802.1Q section 9.6).
var ofInterface = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: besideTagged},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 3},
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: besideTag},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x0fff, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// Where a filter finds what the kernel knows of a packet beside its bytes (SKF_AD_* in include/uapi/linux/filter.h).
const (
	besideTag    = 1<<32 - 0x1000 + 44
	besideTagged = 1<<32 - 0x1000 + 48
)

// OpenTap returns a tap for what a filter lets through: whole frames with unix.SOCK_RAW, with unix.SOCK_DGRAM what is in them. It
// needs CAP_NET_RAW.
func OpenTap(kind int, filter []unix.SockFilter) (Tap, error) {
	filter = slices.Concat(ofInterface, filter)
	// With protocol 0 nothing comes before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Tap{}, fmt.Errorf("packet socket: %w", err)
	}
	// What this host sends is only there for those who want every protocol.
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}),
	)
	// Many may answer at once. Without CAP_NET_ADMIN it stays at what the kernel gives.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	if err != nil {
		return Tap{}, errors.Join(fmt.Errorf("packet socket: %w", err), unix.Close(fd))
	}
	return Tap{fd}, nil
}

// Close closes the socket.
func (t Tap) Close() error { return unix.Close(t.fd) }

// Hear hands packets to take until the context ends, which is no error. They are valid during the call, and cut off after 256
// bytes.
func (t Tap) Hear(ctx context.Context, take func(packet []byte, from *unix.SockaddrLinklayer)) error {
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}, int(glance(ctx).Milliseconds()))
		if ready == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		if err := t.Take(take); err != nil {
			return err
		}
	}
	return nil
}

// Take hands the packets that wait to take.
func (t Tap) Take(take func(packet []byte, from *unix.SockaddrLinklayer)) error {
	packet := make([]byte, 256)
	for {
		n, from, err := unix.Recvfrom(t.fd, packet, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN): // an interface, not all
			continue
		case err != nil:
			return fmt.Errorf("packet socket: %w", err)
		}
		if sender, ok := from.(*unix.SockaddrLinklayer); ok {
			take(packet[:n], sender)
		}
	}
}

// glance is how long to wait at most before looking whether the context has ended.
func glance(ctx context.Context) time.Duration {
	wait := 100 * time.Millisecond
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, max(time.Until(deadline), time.Millisecond))
	}
	return wait
}
