// Package lab builds small networks of real hosts: named network namespaces on bridges,
// with programs and servers running inside them.
//
//	client ── eth0 ┐                ┌ eth0 ── server
//	               ├ Switch ────────┤
//	router ── eth0 ┘                └ eth0 ── director
//
//	n := lab.New(t)
//	front, director := n.Switch("front"), n.Host("director")
//	director.Connect(front, "192.0.2.1/24")
//	director.Run("ipvsadm", "-A", "-t", "192.0.2.10:80")
//
// Everything here needs root. What touches IPVS also needs a kernel with IPVS, which
// bin/labrun provides: such tests are called TestLab and begin with NeedIPVS; the others are
// called TestNetns and begin with NeedRoot.
//
// A method without an error result ends the test when it cannot do its work; in a program,
// where there is no test, it panics with the error.
package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network owns hosts, switches and all that runs on them.
type Network struct {
	prefix string // of the namespaces' names: tells processes and networks apart
	fail   func(error)

	mu   sync.Mutex
	undo []func() error
	ca   *authority // made at first use
}

// networks numbers the networks of this process.
var networks atomic.Int64

// New returns an empty network which lives as long as the test.
func New(t testing.TB) *Network {
	n := NewNetwork()
	n.fail = func(err error) { t.Fatal(err) }
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// NewNetwork returns an empty network for a program, which has to Close it.
// Namespaces of processes which died before they could are removed on the way.
func NewNetwork() *Network {
	sweep()
	return &Network{
		prefix: fmt.Sprintf("poise-%d-%d-", os.Getpid(), networks.Add(1)),
		fail:   func(err error) { panic(err) },
	}
}

// Close ends the network's processes and servers and removes its hosts.
func (n *Network) Close() error {
	n.mu.Lock()
	undo := n.undo
	n.undo = nil
	n.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// atEnd has Close run f, before what was given to atEnd earlier.
func (n *Network) atEnd(f func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.undo = append(n.undo, f)
}

func (n *Network) must(err error) {
	if err != nil {
		n.fail(err)
	}
}

// namespaces is where `ip netns` keeps names.
const namespaces = "/run/netns"

var ownName = regexp.MustCompile(`^poise-(\d+)-\d+-`)

// sweep removes the namespaces whose creator is gone. What it cannot remove, another
// process is just removing.
func sweep() {
	entries, err := os.ReadDir(namespaces)
	if err != nil {
		return // nobody has made one yet
	}
	for _, e := range entries {
		m := ownName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		pid, err := strconv.Atoi(m[1])
		if err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			netns.DeleteNamed(e.Name())
		}
	}
}

// path of the named namespace, for libraries which take one.
func path(namespace string) string { return filepath.Join(namespaces, namespace) }
