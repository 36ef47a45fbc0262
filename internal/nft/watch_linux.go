package nft

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watcher tells when it is time to look at Differences again. It is not the library's Monitor, which takes apart what
// changed, of all tables, though we ask only whether something did; and which ends when there is more than its queue holds.
type Watcher struct {
	socket  *netlink.Conn
	changes chan struct{}
	done    chan struct{}
}

// Watch starts to watch the nftables of the calling thread's network namespace, all tables.
func Watch() (*Watcher, error) {
	socket, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("nftables: subscribe to changes: %w", err)
	}
	w := &Watcher{socket, make(chan struct{}, 1), make(chan struct{})}
	go w.run()
	return w, nil
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
	for {
		_, err := w.socket.Receive()
		if errors.Is(err, unix.EBADF) { // closed
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
