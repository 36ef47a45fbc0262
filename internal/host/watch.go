package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Interface is a network interface as it is now.
type Interface struct {
	Name  string
	Index int // stays when it is renamed; an interface made anew has another
	MAC   net.HardwareAddr
	MTU   int
	Up    bool // switched on, and can send and receive: IFF_UP and IFF_RUNNING
	NoARP bool // its neighbours need no telling who has an address
	Addrs []Address
}

// Address is one on an interface, as the kernel orders them.
type Address struct {
	netip.Prefix
	Usable    bool // may be sent from: no search for a duplicate is going on or has found one
	Secondary bool // goes with the first IPv4 address of its network, unless promote_secondaries
}

// Look returns what an interface is now, or false where there is none of this name. It takes some 50 µs, but waits for
// a lock of the kernel's: tens of milliseconds are possible while many addresses change, in this process or another. So
// is an error then; a look after the next change may succeed.
func Look(name string) (Interface, bool, error) {
	link, err := linkByName(name)
	if errors.Is(err, errNoInterface) {
		return Interface{}, false, nil
	}
	if err != nil {
		return Interface{}, false, fmt.Errorf("interface %s: %w", name, err)
	}
	attrs := link.Attrs()
	addrs, err := addrsOf(attrs.Index)
	if err != nil {
		return Interface{}, false, fmt.Errorf("addresses of %s: %w", name, err)
	}
	const up = unix.IFF_UP | unix.IFF_RUNNING
	i := Interface{
		Name:  attrs.Name,
		Index: attrs.Index,
		MAC:   attrs.HardwareAddr,
		MTU:   attrs.MTU,
		Up:    attrs.RawFlags&up == up,
		NoARP: attrs.RawFlags&unix.IFF_NOARP != 0,
	}
	for _, a := range addrs {
		// One that turned out to be a duplicate stays tentative.
		i.Addrs = append(i.Addrs, Address{a.Prefix, a.flags&unix.IFA_F_TENTATIVE == 0, a.Addr().Is4() && a.flags&unix.IFA_F_SECONDARY != 0})
	}
	return i, true, nil
}

// Watcher tells when it is time to Look again.
type Watcher struct {
	socket  *os.File
	changes chan struct{}
	done    chan struct{}
}

// Watch starts to watch the interfaces and addresses of the calling thread's network namespace.
func Watch() (*Watcher, error) {
	socket, err := subscribe()
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of interfaces: %w", err)
	}
	return newWatcher(socket), nil
}

func subscribe() (*os.File, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(socket), "netlink") // reads through the runtime's poller, and so Close ends a Read
	err = unix.Bind(socket, &unix.SockaddrNetlink{
		Family: unix.AF_NETLINK,
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func newWatcher(socket *os.File) *Watcher {
	w := &Watcher{socket, make(chan struct{}, 1), make(chan struct{})}
	go w.run()
	return w
}

// Changes receives something after every change since the last receive, once for many. What changed it does not say.
func (w *Watcher) Changes() <-chan struct{} { return w.changes }

// Close stops watching.
func (w *Watcher) Close() {
	w.socket.Close()
	<-w.done
}

func (w *Watcher) run() {
	defer close(w.done)
	var first [1]byte // the kernel cuts the rest off: who is told of a change looks for himself
	for {
		_, err := w.socket.Read(first[:])
		if errors.Is(err, os.ErrClosed) {
			return
		}
		select {
		case w.changes <- struct{}{}:
		default: // is told already
		}
		if err != nil {
			// ENOBUFS: more changes than the queue holds, which is one more reason to look. The error is gone once
			// read; the pause is for one that is not.
			time.Sleep(10 * time.Millisecond)
		}
	}
}
