package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// sysctlTree makes a tree of settings in a temporary directory, by path.
func sysctlTree(t *testing.T, values map[string]string) Sysctls {
	t.Helper()
	root := t.TempDir()
	for path, value := range values {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Sysctls{Root: root}
}

func TestSysctlRoundTrip(t *testing.T) {
	s := sysctlTree(t, map[string]string{
		"net/ipv4/ip_forward":               "0\n",
		"net/ipv4/conf/eth0.100/arp_ignore": "10\n",
	})
	for _, tc := range []struct{ what, name, before, after string }{
		{"plain", "net.ipv4.ip_forward", "0", "1"},
		{"interface with a dot, shorter value", SysctlName("net", "ipv4", "conf", "eth0.100", "arp_ignore"), "10", "2"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			if got, err := s.Read(tc.name); got != tc.before || err != nil {
				t.Errorf("before: %q, %v, want %q", got, err, tc.before)
			}
			if err := s.Writable(tc.name); err != nil {
				t.Error(err)
			}
			if err := s.Write(tc.name, tc.after); err != nil {
				t.Error(err)
			}
			if got, err := s.Read(tc.name); got != tc.after || err != nil {
				t.Errorf("after: %q, %v, want %q", got, err, tc.after)
			}
		})
	}
}

func TestSysctlErrors(t *testing.T) {
	s := sysctlTree(t, nil)
	const name = "net.ipv4.conf.eth0/100.arp_ignore"
	_, readErr := s.Read(name)
	_, listErr := s.List("net.ipv4.conf")
	for _, tc := range []struct {
		what string
		err  error
		want string
	}{
		{"read", readErr, name + ": no such file or directory"},
		{"write", s.Write(name, "1"), name + " = 1: no such file or directory"},
		{"writable", s.Writable(name), name + ": cannot be set: no such file or directory"},
		{"list", listErr, "net.ipv4.conf: no such file or directory"},
	} {
		if !errors.Is(tc.err, fs.ErrNotExist) || tc.err.Error() != tc.want {
			t.Errorf("%s: %v, want %s", tc.what, tc.err, tc.want)
		}
	}
}

func TestSysctlList(t *testing.T) {
	s := sysctlTree(t, map[string]string{
		"net/ipv4/conf/lo/arp_ignore":       "0",
		"net/ipv4/conf/all/arp_ignore":      "0",
		"net/ipv4/conf/eth0.100/arp_ignore": "0",
	})
	got, err := s.List("net.ipv4.conf")
	if want := []string{"all", "eth0.100", "lo"}; !slices.Equal(got, want) || err != nil {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}
