package host

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Sysctls reads and writes kernel settings. The zero value is the running kernel's.
//
// Names are dotted, and a dot inside an element stands as a slash, as sysctl(8) has it:
// net.ipv4.conf.eth0/100.arp_ignore belongs to the interface eth0.100. [SysctlName] builds them.
//
// A name this kernel does not have is an error that wraps [fs.ErrNotExist].
type Sysctls struct {
	Root string // the tree's root; empty means /proc/sys
}

// SysctlName joins the elements of a sysctl's path, which may contain dots.
func SysctlName(elements ...string) string {
	return swapSeparators(strings.Join(elements, "/"))
}

// swapSeparators turns a name into a path below the root, and back.
var swapSeparators = strings.NewReplacer(".", "/", "/", ".").Replace

// Read returns the value of a sysctl. Where it is of several words, there is one blank between them.
func (s Sysctls) Read(name string) (string, error) {
	value, err := os.ReadFile(s.path(name))
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, withoutPath(err))
	}
	return strings.Join(strings.Fields(string(value)), " "), nil
}

// InForce returns the value that counts of an interface's IPv4 setting, such as "rp_filter": the larger one of its own and all's
// (IN_DEV_MAXCONF and IN_DEV_ORCONF in include/linux/inetdevice.h; not every setting is of this kind).
func (s Sysctls) InForce(ifname, setting string) (most int, _ error) {
	for _, of := range []string{"all", ifname} {
		name := SysctlName("net", "ipv4", "conf", of, setting)
		text, err := s.Read(name)
		if err != nil {
			return 0, err
		}
		value, err := strconv.Atoi(text)
		if err != nil {
			return 0, fmt.Errorf("%s: %q is no number", name, text)
		}
		most = max(most, value)
	}
	return most, nil
}

// Write sets a sysctl.
func (s Sysctls) Write(name, value string) error {
	if err := s.write(name, value); err != nil {
		return fmt.Errorf("%s = %s: %w", name, value, withoutPath(err))
	}
	return nil
}

func (s Sysctls) write(name, value string) error {
	f, err := os.OpenFile(s.path(name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Writable is nil when a sysctl could be set now. It changes nothing.
func (s Sysctls) Writable(name string) error {
	f, err := os.OpenFile(s.path(name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("%s: cannot be set: %w", name, withoutPath(err))
	}
	return f.Close()
}

// List returns the elements below a name, sorted: "net.ipv4.conf" has all, default, eth0 and so on.
func (s Sysctls) List(name string) ([]string, error) {
	entries, err := os.ReadDir(s.path(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, withoutPath(err))
	}
	var elements []string
	for _, e := range entries {
		elements = append(elements, e.Name())
	}
	return elements, nil
}

func (s Sysctls) path(name string) string {
	return filepath.Join(cmp.Or(s.Root, "/proc/sys"), swapSeparators(name))
}

// withoutPath drops operation and path from a file error: our errors name the sysctl instead.
func withoutPath(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
