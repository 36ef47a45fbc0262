package ipvsctl

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// answerTimeout bounds the wait for one answer of the kernel, which normally takes microseconds.
// A lost answer must become an error: the table is read again then.
const answerTimeout = 5 * time.Second

// socket sends requests and receives their answers. The one of nl carries a single request at a time and copies each
// answer; here a batch is one system call, and what is received is looked at where it lies.
type socket struct {
	*nl.NetlinkSocket
	seq  uint32 // of the last message sent
	sent []byte // both are used again and again
	got  []byte
}

func openSocket() (*socket, error) {
	s, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("generic netlink socket: %w", err)
	}
	return &socket{NetlinkSocket: s, got: make([]byte, 64<<10)}, nil
}

func (s *socket) close() { s.Close() }

// batch sends n messages at once; message appends the attributes of one of them and names its command. It returns
// the errors by number, and an error of its own when answers were lost, so that nobody knows about the others.
func (s *socket) batch(family uint16, n int, message func(b []byte, i int) (command uint8, _ []byte)) (map[int]error, error) {
	first := s.seq + 1
	s.sent = s.sent[:0]
	for i := range n {
		flags := uint16(0)
		if i == n-1 {
			flags = unix.NLM_F_ACK // errors are reported in any case
		}
		start := len(s.sent)
		s.seq++
		command, b := message(beginMessage(s.sent, family, flags, s.seq, 0), i)
		b[start+unix.NLMSG_HDRLEN] = command
		s.sent = endMessage(b, start)
	}
	if err := s.send(); err != nil {
		return nil, err
	}
	var failed map[int]error
	for done := false; !done; {
		err := s.receive(func(h unix.NlMsghdr, b []byte) error {
			i := int(h.Seq - first)
			if h.Seq-first >= uint32(n) || h.Type != unix.NLMSG_ERROR {
				return nil // of an earlier request, whose answer was late
			}
			if err := errnoOf(b); err != nil {
				if failed == nil {
					failed = make(map[int]error)
				}
				failed[i] = err
			}
			done = done || i == n-1
			return nil
		})
		if err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// ask sends one request and hands the attributes of each message of its answer to take.
func (s *socket) ask(family, flags uint16, command uint8, attributes []byte, take func([]byte) error) error {
	s.seq++
	s.sent = endMessage(append(beginMessage(s.sent[:0], family, flags, s.seq, command), attributes...), 0)
	if err := s.send(); err != nil {
		return err
	}
	multi := flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP
	acked := flags&unix.NLM_F_ACK != 0
	var taking error
	for done := false; !done; {
		err := s.receive(func(h unix.NlMsghdr, b []byte) error {
			switch {
			case h.Seq != s.seq: // of an earlier request, whose answer was late
			case h.Type == unix.NLMSG_DONE, h.Type == unix.NLMSG_ERROR:
				done = true
				return errnoOf(b)
			case h.Type == family && len(b) >= genlHeaderLen && take != nil:
				done = !multi && !acked
				if taking == nil {
					taking = take(b[genlHeaderLen:])
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return taking
}

// genlHeaderLen is the size of struct genlmsghdr.
const genlHeaderLen = 4

// send sends what is in s.sent.
func (s *socket) send() error {
	return retryInterrupted(func() error {
		return unix.Sendto(s.GetFd(), s.sent, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
}

// drain throws away what has come and was not waited for: it fills the room that the next answers need.
func (s *socket) drain() {
	for {
		_, _, err := unix.Recvfrom(s.GetFd(), s.got, unix.MSG_DONTWAIT)
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

// receive waits for one datagram and hands its messages to each, which is called for all of them. The kernel has
// answered nearly always before send returned.
func (s *socket) receive(each func(h unix.NlMsghdr, body []byte) error) error {
	var n int
	read := func() (err error) {
		n, _, err = unix.Recvfrom(s.GetFd(), s.got, unix.MSG_DONTWAIT)
		return err
	}
	err := retryInterrupted(read)
	if errors.Is(err, unix.EAGAIN) {
		poll := []unix.PollFd{{Fd: int32(s.GetFd()), Events: unix.POLLIN}}
		if err := retryInterrupted(func() error {
			_, err := unix.Poll(poll, int(answerTimeout.Milliseconds()))
			return err
		}); err != nil {
			return err
		}
		err = retryInterrupted(read)
	}
	if err != nil {
		return err
	}
	for b := s.got[:n]; len(b) >= unix.NLMSG_HDRLEN; {
		h := unix.NlMsghdr{Len: native.Uint32(b), Type: native.Uint16(b[4:]), Flags: native.Uint16(b[6:]), Seq: native.Uint32(b[8:])}
		if h.Len < unix.NLMSG_HDRLEN || int64(h.Len) > int64(len(b)) {
			return errMalformed
		}
		if err := each(h, b[unix.NLMSG_HDRLEN:h.Len]); err != nil {
			return err
		}
		b = b[min(int(h.Len+3)&^3, len(b)):]
	}
	return nil
}

// errnoOf reads the outcome at the start of an error message's or an end message's body.
func errnoOf(b []byte) error {
	if errno := -int32(u32(b)); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// retryInterrupted repeats a system call that a signal interrupted.
func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
