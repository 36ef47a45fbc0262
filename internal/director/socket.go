package director

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// SocketPath is where the daemon with this runtime directory listens for commands.
func SocketPath(runtimeDir string) string { return filepath.Join(runtimeDir, "poise.sock") }

// operators is the group whose members may command the daemon, beside root.
const operators = "poise"

// listenControl opens the control socket. Whoever can open it may drain servers, so it is closed to others.
func listenControl(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s: another poise answers here: stop it, or choose another --runtime-dir", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	gid := 0
	if group, err := user.LookupGroup(operators); err == nil {
		gid, _ = strconv.Atoi(group.Gid) // numeric on every Unix
	}
	if err := errors.Join(os.Chown(path, -1, gid), os.Chmod(path, 0o660)); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// listenAPI opens the address for metrics and status.
func listenAPI(addr netip.AddrPort) (net.Listener, error) {
	l, err := net.Listen("tcp", addr.String())
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("global: api = %q: the port is in use (\"ss -ltnp\" tells by whom)", addr)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("global: api = %q: this host does not have the address (\"ip address\" lists those it has)", addr)
	case err != nil:
		return nil, fmt.Errorf("global: api: %w", err)
	}
	return l, nil
}

// lockWait is how long a daemon waits for the processes of one that was just killed to notice.
const lockWait = 3 * time.Second

// takeLock makes sure that one poise at a time drives the IPVS and the virtual addresses of this network namespace. The lock is an
// abstract unix socket: it belongs to the namespace like the table does, and to the children that inherit
// it, so it stays taken until the last process of a killed daemon is gone.
func takeLock() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@poise/director"})
		if err == nil {
			return os.NewFile(uintptr(fd), "lock"), nil
		}
		if err != unix.EADDRINUSE || time.Since(begin) > lockWait {
			break
		}
	}
	unix.Close(fd)
	if err == unix.EADDRINUSE {
		return nil, errors.New("another poise runs in this network namespace: stop it first")
	}
	return nil, fmt.Errorf("lock: %w", err)
}
