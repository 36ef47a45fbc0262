package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"poise/internal/lab"
)

// What keeps the daemon from starting is said in one line that names the thing. Nothing has changed then.
func TestLabCannotStart(t *testing.T) {
	l := newLVS(t)
	l.Director.Run("ipvsadm", "-A", "-t", "192.0.2.10:999", "-s", "rr")
	busy, err := l.Director.Listen("tcp", "192.0.2.1:9651")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()

	dir := openDir(t)
	write := func(name, config string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(config), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("good.toml", web, 0o644)
	secret := write("secret.toml", web, 0o600)
	mistake := write("mistake.toml", web+"colour = 1\n", 0o644)
	eth7 := write("eth7.toml", "[global]\ninterfaces = [\"eth7\"]\n"+web, 0o644)
	port := write("port.toml", "[global]\napi = \"192.0.2.1:9651\"\n"+web, 0o644)
	elsewhere := write("elsewhere.toml", "[global]\napi = \"192.0.2.77:9650\"\n"+web, 0o644)

	for _, tt := range []struct {
		name, config, dir string
		asNobody          bool
		want              string
	}{
		{"missing file", dir + "/missing.toml", dir, false, "poise: open " + dir + "/missing.toml: no such file or directory"},
		{"unreadable file", secret, dir, true, "poise: open " + secret + ": permission denied"},
		{"mistake in the file", mistake, dir, false, mistake + `:8: service "web": colour: unknown key`},
		{"not root", good, dir, true, "poise: no permission to change the network: run as root, or with CAP_NET_ADMIN"},
		{"impossible runtime directory", good, good + "/run", false, "poise: runtime directory: mkdir " + good + ": not a directory"},
		{"missing interface", eth7, dir, false, `poise: global: interfaces: this host has no interface "eth7" ("ip link" lists those it has)`},
		{"port in use", port, dir, false, `poise: global: api = "192.0.2.1:9651": the port is in use ("ss -ltnp" tells by whom)`},
		{"address of another host", elsewhere, dir, false, `poise: global: api = "192.0.2.77:9650": this host does not have the address ("ip address" lists those it has)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := runCommandOf(tt.config, tt.dir)
			if tt.asNobody {
				const nobody = 65534
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			}
			cannotStart(t, l.Director, cmd, tt.want)
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "poise.sock")); err == nil {
		t.Error("a control socket is left")
	}
}

// Two daemons would fight over a table, or over the records in a runtime directory.
func TestLabSecondDaemon(t *testing.T) {
	l := newLVS(t)
	d := startDaemon(t, l.Director, web)
	syscall.Kill(d.balancer(), syscall.SIGKILL) // that the balancer is away for a moment is no opportunity
	other := filepath.Join(t.TempDir(), "poise")
	cannotStart(t, l.Director, runCommandOf(d.file, other), "poise: another poise runs in this network namespace: stop it first")
	cannotStart(t, l.Router, runCommandOf(d.file, d.dir), "poise: "+d.dir+"/poise.sock: another poise answers here: stop it, or choose another --runtime-dir")
	d.must("status")
}

// A kernel without IPVS, which many that run tests are.
func TestNetnsNoIPVS(t *testing.T) {
	lab.NeedRoot(t)
	_, err := os.Stat("/proc/net/ip_vs")
	if err == nil || exec.Command("modprobe", "--dry-run", "ip_vs").Run() == nil {
		t.Skip("this kernel has IPVS")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "poise.toml")
	if err := os.WriteFile(config, []byte(web), 0o644); err != nil {
		t.Fatal(err)
	}
	cannotStart(t, lab.New(t).Host("director"), runCommandOf(config, dir),
		`poise: this kernel has no IPVS: run "modprobe ip_vs" as root, or install a kernel that has the module`)
}

// openDir is a temporary directory that every user may use.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runCommandOf is "poise run", startable by every user.
func runCommandOf(config, dir string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "run", "-c", config, "--runtime-dir", dir)
	cmd.Args[0] = "poise"
	return cmd
}

// cannotStart runs the daemon, which must end with these words and have changed nothing.
func cannotStart(t *testing.T, h *lab.Host, cmd *exec.Cmd, want string) {
	t.Helper()
	before := state(t, h)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // to find its children by
	p := h.Start(cmd)
	stop := time.AfterFunc(patience, p.Kill)
	defer stop.Stop()
	err := p.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("%v, want exit status 1", err)
	}
	if got := stderr.String(); got != want+"\n" {
		t.Errorf("says:\n%swant:\n%s", got, want)
	}
	if after := state(t, h); after != before {
		t.Errorf("kernel:\n%sbefore:\n%s", after, before)
	}
	if syscall.Kill(-p.Pid(), 0) == nil {
		t.Error("a process is left")
	}
}

// state is all that poise could have changed in the kernel.
func state(t *testing.T, h *lab.Host) string {
	t.Helper()
	var b strings.Builder
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		b.WriteString(table(h))
	}
	values := sysctls(t, h)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s = %s\n", name, values[name])
	}
	return b.String()
}
