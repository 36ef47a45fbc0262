package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"poise/internal/host"
)

// system is the host as steps see it: keys and their values.
type system interface {
	get(key string) (string, error)
	set(key, value string) error
	settable(key string) error            // nil when set may be tried; changes nothing
	interfaces() ([]string, error)        // those with ARP settings, and "all" and "default"
	holders(netip.Addr) ([]string, error) // the interfaces that have the address
}

// kernel is the real system.
type kernel struct {
	host.Sysctls
}

func (k kernel) get(key string) (string, error) {
	t, err := thingOf(key)
	if err != nil {
		return "", err
	}
	return t.get()
}

func (k kernel) set(key, value string) error {
	t, err := thingOf(key)
	if err != nil {
		return err
	}
	return t.set(value)
}

func (k kernel) settable(key string) error {
	if !strings.HasPrefix(key, "net.") {
		return nil // withRecord has asked for the privilege
	}
	err := k.Writable(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it comes with its interface
	}
	return err
}

func (k kernel) interfaces() ([]string, error) {
	return k.List("net.ipv4.conf")
}

func (k kernel) holders(addr netip.Addr) ([]string, error) {
	return host.Holders(addr)
}

func recordPath(dir string) string {
	return filepath.Join(dir, "realserver.json")
}

// withRecord calls change with the record in dir, which no other process changes meanwhile.
func withRecord(dir string, change func(*host.Record) ([]Change, error)) ([]Change, error) {
	if err := host.NeedNetAdmin(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	// The directory is what is locked: each change replaces the file in it.
	lock, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("runtime directory %s: lock: %w", dir, err)
	}
	rec, err := host.OpenRecord(recordPath(dir))
	if err != nil {
		return nil, err
	}
	return change(rec)
}
