package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"poise/internal/lab"
)

// TestLabIPVSUnit does what systemd does with poise-ipvs.service: restores at boot and at a reload, saves at a stop.
func TestLabIPVSUnit(t *testing.T) {
	for _, name := range []string{"ipvsadm.rules", "sysconfig/ipvsadm"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			l := newLVS(t)
			etc := t.TempDir()
			file := filepath.Join(etc, name)
			write := func(rules string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("# of Debian\n-A -t 192.0.2.10:80 -s rr\n-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 1 -x 20 -y 10\n")
			unit(t, l.Director, etc, "ExecStart")
			watch := l.Director.WatchIPVS()
			write("-A -t 192.0.2.10:80 -s rr\n-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 3 -x 20 -y 10\n")
			unit(t, l.Director, etc, "ExecReload")
			if n := watch.Writes(); n != 1 {
				t.Errorf("the reload of one changed weight wrote %d times", n)
			}
			unit(t, l.Director, etc, "ExecStop")
			saved, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := "-A -t 192.0.2.10:80 -s rr\n-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 3 -x 20 -y 10\n"
			if string(saved) != want {
				t.Errorf("saved\n%swant\n%s", saved, want)
			}
			if left, _ := filepath.Glob(file + ".*"); left != nil {
				t.Errorf("left behind: %v", left)
			}
			unit(t, l.Director, etc, "ExecStart") // as at the next boot
			if n := watch.Writes(); n != 1 {
				t.Errorf("a start with all there wrote %d times", n-1)
			}
		})
	}
}

// unit runs a command of the unit as systemd does, with another directory in place of /etc.
func unit(t *testing.T, h *lab.Host, etc, key string) {
	t.Helper()
	text, err := os.ReadFile("../../contrib/poise-ipvs.service")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^` + key + `=/bin/sh -c '(.*)'$`).FindSubmatch(text)
	if line == nil {
		t.Fatalf("no %s", key)
	}
	h.Run("/bin/sh", "-c", strings.NewReplacer("@bin@/", "", "/etc/", etc+"/", "$$", "$").Replace(string(line[1])))
}
