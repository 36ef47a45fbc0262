package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// socket sends requests to nftables. The kernel carries out what is sent before the call returns, and its answer, or the
// beginning of it, is there then: so nothing here ever waits for it.
type socket struct {
	fd  int
	seq uint32 // of the last message
	got []byte
}

// maxTransaction bounds what is sent at once: some 100 bytes an element. No memory is set aside for it.
const maxTransaction = 64 << 20

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1), // errors need not repeat the message
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, maxTransaction),
	)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &socket{fd: fd, got: make([]byte, 64<<10)}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// transact has all messages carried out, or none.
func (s *socket) transact(messages []message) error {
	b := s.appendBatch(nil, unix.NFNL_MSG_BATCH_BEGIN)
	first := s.seq + 1
	for i, m := range messages {
		flags := m.flags
		if i == len(messages)-1 {
			flags |= unix.NLM_F_ACK // errors are reported in any case
		}
		b = s.appendMessage(b, unix.NFNL_SUBSYS_NFTABLES<<8|m.kind, flags, unix.NFPROTO_INET, m.body)
	}
	b = s.appendBatch(b, unix.NFNL_MSG_BATCH_END)
	if err := s.send(b); err != nil {
		return err
	}
	done := false
	var refused error // the first refusal is the cause of others
	err := s.receive(func(h unix.NlMsghdr, b []byte) error {
		i := int(int32(h.Seq - first)) // -1 is the batch's begin, which stands for all
		if h.Type != unix.NLMSG_ERROR || i < -1 || i > len(messages) {
			return nil
		}
		err := errnoOf(b)
		done = done || err != nil || i == len(messages)-1
		if err != nil && refused == nil {
			refused = err
			if 0 <= i && i < len(messages) {
				refused = fmt.Errorf("%s: %w", messages[i].what, err)
			}
		}
		return nil
	})
	if err == nil && !done {
		err = errNoAnswer
	}
	return errors.Join(refused, err)
}

// settle waits for the end of a transaction that is under way: an empty one has to wait for its turn, and changes nothing.
func (s *socket) settle() error {
	return s.send(s.appendBatch(s.appendBatch(nil, unix.NFNL_MSG_BATCH_BEGIN), unix.NFNL_MSG_BATCH_END))
}

// ask hands what answers a question to take: one body, or many with NLM_F_DUMP.
func (s *socket) ask(kind, flags uint16, family byte, body []byte, take func([]byte) error) error {
	if flags&unix.NLM_F_DUMP == 0 {
		flags |= unix.NLM_F_ACK
	}
	if err := s.send(s.appendMessage(nil, unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, family, body)); err != nil {
		return err
	}
	done := false
	err := s.receive(func(h unix.NlMsghdr, b []byte) error {
		switch {
		case h.Seq != s.seq: // of an earlier question, whose answer was not read to its end
			return nil
		case h.Type == unix.NLMSG_ERROR, h.Type == unix.NLMSG_DONE:
			done = true
			return errnoOf(b)
		case len(b) < headerLen:
			return errMalformed
		}
		return take(b[headerLen:])
	})
	if err == nil && !done {
		err = errNoAnswer
	}
	return err
}

// headerLen is the size of struct nfgenmsg.
const headerLen = 4

var errNoAnswer = errors.New("no answer from the kernel")

func (s *socket) appendBatch(b []byte, kind uint16) []byte {
	b = s.appendMessage(b, kind, 0, unix.AF_UNSPEC, nil)
	binary.BigEndian.PutUint16(b[len(b)-2:], unix.NFNL_SUBSYS_NFTABLES)
	return b
}

// appendMessage appends a message with its two headers, nlmsghdr and nfgenmsg.
func (s *socket) appendMessage(b []byte, kind, flags uint16, family byte, body []byte) []byte {
	s.seq++
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+headerLen+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = append(b, 0, 0, 0, 0) // port: the kernel knows
	b = append(b, family, unix.NFNETLINK_V0, 0, 0)
	return append(b, body...) // whole attributes, and so aligned
}

func (s *socket) send(b []byte) error {
	return retryInterrupted(func() error {
		return unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
}

// receive hands every message that is there to take. The first error is returned, after all were read.
func (s *socket) receive(take func(unix.NlMsghdr, []byte) error) error {
	var first error
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	for {
		var n int
		err := retryInterrupted(func() (err error) {
			n, _, err = unix.Recvfrom(s.fd, s.got, unix.MSG_DONTWAIT)
			return err
		})
		if err == unix.EAGAIN {
			return first
		}
		if err != nil {
			return err
		}
		note(eachMessage(s.got[:n], func(h unix.NlMsghdr, b []byte) { note(take(h, b)) }))
	}
}

// eachMessage takes what was received apart.
func eachMessage(b []byte, take func(unix.NlMsghdr, []byte)) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return errMalformed
		}
		h := unix.NlMsghdr{
			Len:  binary.NativeEndian.Uint32(b),
			Type: binary.NativeEndian.Uint16(b[4:]),
			Seq:  binary.NativeEndian.Uint32(b[8:]),
		}
		if h.Len < unix.SizeofNlMsghdr || int(h.Len) > len(b) {
			return errMalformed
		}
		take(h, b[unix.SizeofNlMsghdr:h.Len])
		b = b[min(int(h.Len+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return nil
}

// errnoOf is what NLMSG_ERROR and NLMSG_DONE begin with.
func errnoOf(b []byte) error {
	if len(b) < 4 {
		return errMalformed
	}
	if errno := int32(binary.NativeEndian.Uint32(b)); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}

func retryInterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
