package nft

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher tells when it is time to look at Differences again.
type Watcher struct {
	socket  *os.File
	changes chan struct{}
	done    chan struct{}
}

// Watch starts to watch the nftables of the calling thread's network namespace, all tables.
func Watch() (*Watcher, error) {
	socket, err := subscribe()
	if err != nil {
		return nil, fmt.Errorf("nftables: subscribe to changes: %w", err)
	}
	w := &Watcher{socket, make(chan struct{}, 1), make(chan struct{})}
	go w.run()
	return w, nil
}

func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "netlink") // reads through the runtime's poller, and so Close ends a Read
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Changes receives something after every change since the last receive, once for many; our own are among them. What
// changed it does not say.
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
