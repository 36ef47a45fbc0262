package director

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The roles that this program plays under other names.
const (
	roleBalancer = "balancer" // a child: checks servers and programs the kernel's table
	roleElector  = "elector"  // a child: stands for election and has the virtual addresses
	roleRelease  = "release"  // hands over what a dead elector left
)

// The descriptors that startChild hands down.
const (
	fdParent = 3
	fdLock   = 4
	fdBeats  = 5
)

// ChildRole tells which role a process with these arguments has to play, if any. It is asked before the
// command line is parsed: a child is this same program under another name.
func ChildRole(args []string) (role string, ok bool) {
	for role, n := range map[string]int{roleBalancer: 3, roleElector: 1, roleRelease: 2} {
		if len(args) == n && filepath.Base(args[0]) == childName(role) {
			return role, true
		}
	}
	return "", false
}

// RunChild plays the role until the parent says stop or is gone. args are the child's own.
func RunChild(role string, args []string, log *slog.Logger) error {
	// Signals sent to the whole group are the parent's to answer: it tells its children what to do.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	if role == roleElector {
		setComm("poise-spare") // until it has routers
	} else {
		setComm(childName(role))
	}
	if role == roleRelease {
		left, err := loadLeft(args[1])
		if err != nil {
			return err
		}
		return release(left, log)
	}
	unix.CloseOnExec(fdParent)
	unix.CloseOnExec(fdLock)
	c, err := fileConn(os.NewFile(fdParent, "parent"))
	if err != nil {
		return fmt.Errorf("%s: only poise run starts this: %w", childName(role), err)
	}
	if role == roleElector {
		unix.CloseOnExec(fdBeats)
		return runElector(c, os.NewFile(fdBeats, "beats"), log)
	}
	return runBalancer(context.Background(), c, args[1], args[2], log)
}

// setComm sets what top and pgrep show; without it, "exe", as that is what was executed. A matter of looks only.
func setComm(name string) { _ = os.WriteFile("/proc/self/comm", []byte(name), 0) }
