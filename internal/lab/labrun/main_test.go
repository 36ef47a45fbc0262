package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
	"poise/internal/lab/guest"
)

// bootTime is what starting and ending an emulated guest may take on a loaded machine.
const bootTime = 2 * time.Minute

// runner is bin/labrun as users build it, for this test.
var runner = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "labrun-test")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "labrun")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := runner(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// onBackends runs test on this kernel, which needs no IPVS for it, and in a microVM.
func onBackends(t *testing.T, test func(t *testing.T, labrun func(args ...string) *exec.Cmd)) {
	path, err := runner()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []guest.Backend{guest.Native, guest.TCG} {
		t.Run(string(b), func(t *testing.T) {
			if b == guest.Native {
				lab.NeedRoot(t)
			} else {
				needQEMU(t)
			}
			test(t, func(args ...string) *exec.Cmd {
				return exec.Command(path, append([]string{"-backend", string(b)}, args...)...)
			})
		})
	}
}

func needQEMU(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if guest.HasIPVS() {
		t.Skip("the running kernel has IPVS: no guest is promised")
	}
	_, err = guest.FindKernel(cache)
	if _, missing := exec.LookPath("qemu-system-x86_64"); err != nil || missing != nil {
		lab.Lacks(t, fmt.Sprint("no guest: ", errors.Join(err, missing)))
	}
}

func TestNetnsRunnerPassesThrough(t *testing.T) {
	onBackends(t, func(t *testing.T, labrun func(...string) *exec.Cmd) {
		keep := filepath.Join(t.TempDir(), "new, folder") // QEMU's options need care with commas
		// Arguments with blanks and quotes, then everything else a program can tell.
		cmd := labrun("sh", "-c", `
			printf '<%s>' "$@"; pwd; echo "$POISE_LAB_TEST $POISE_LAB_BACKEND"; cat; id -u
			echo kept > "$POISE_LAB_OUT/file"
			echo lost > lost
			ip -o link show up | grep -c ' lo:'
			echo problem >&2
			sleep 1000 &
			exit 7`, "sh", "one", "t w'o", "")
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "POISE_LAB_TEST=some value", "POISE_LAB_OUT="+keep, "POISE_LAB_BACKEND=stale")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		backend := filepath.Base(t.Name())
		if want := "<one><t w'o><>" + cmd.Dir + "\nsome value " + backend + "\n0\n1\n"; stdout.String() != want {
			t.Errorf("stdout %q, want %q", stdout.String(), want)
		}
		if want := "labrun: back end " + backend + "\nproblem\n"; stderr.String() != want {
			t.Errorf("stderr %q, want %q", stderr.String(), want)
		}
		if cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("exit status %v, want 7", err)
		}
		if data, err := os.ReadFile(filepath.Join(keep, "file")); string(data) != "kept\n" {
			t.Errorf("kept file %q, error %v", data, err)
		}
		if _, err := os.Stat(filepath.Join(cmd.Dir, "lost")); err == nil && backend != string(guest.Native) {
			t.Error("the guest wrote to the host's working directory")
		}
	})
}

func TestNetnsRunnerExitStatus(t *testing.T) {
	onBackends(t, func(t *testing.T, labrun func(...string) *exec.Cmd) {
		// Two guests side by side.
		for _, tt := range []struct {
			name   string
			args   []string
			status int
			stderr string
		}{
			{"signal", []string{"sh", "-c", "kill -TERM $$"}, 128 + int(unix.SIGTERM), ""},
			{"deadline", []string{"-timeout", deadlineFor(t).String(), "sleep", "1000"}, exitTimeout, "sleep killed after"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				out, err := labrun(tt.args...).CombinedOutput()
				exit, ok := errors.AsType[*exec.ExitError](err)
				if !ok || exit.ExitCode() != tt.status || !strings.Contains(string(out), tt.stderr) {
					t.Errorf("%v, want status %d and %q in\n%s", err, tt.status, tt.stderr, out)
				}
			})
		}
	})
}

// deadlineFor leaves an emulated guest the time to boot, so that the program itself hangs.
func deadlineFor(t *testing.T) time.Duration {
	if strings.Contains(t.Name(), string(guest.TCG)) {
		return 10 * time.Second
	}
	return time.Second
}

// However the runner ends, its children end with it.
func TestNetnsRunnerLeavesNoProcess(t *testing.T) {
	onBackends(t, func(t *testing.T, labrun func(...string) *exec.Cmd) {
		for _, sig := range []syscall.Signal{unix.SIGKILL, unix.SIGTERM} {
			cmd := labrun("sleep", "1000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var child int
			lab.Eventually(t, bootTime, func() (err error) {
				child, err = childOf(cmd.Process.Pid)
				return err
			})
			t.Cleanup(func() {
				if t.Failed() {
					unix.Kill(child, unix.SIGKILL)
				}
			})
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			if sig == unix.SIGTERM && cmd.ProcessState.ExitCode() != 128+int(sig) {
				t.Errorf("%v: %v, want exit status %d", sig, err, 128+int(sig))
			}
			lab.Eventually(t, 10*time.Second, func() error {
				if unix.Kill(child, 0) != unix.ESRCH {
					return fmt.Errorf("after %v: process %d is left", sig, child)
				}
				return nil
			})
		}
	})
}

// childOf returns the first child, started by any thread, of a process.
func childOf(pid int) (int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			return 0, err
		}
		if first, _, ok := strings.Cut(string(data), " "); ok {
			return strconv.Atoi(first)
		}
	}
	return 0, fmt.Errorf("process %d has no child", pid)
}

func TestDeadline(t *testing.T) {
	for _, tt := range []struct {
		name string
		flag time.Duration
		env  string
		args []string
		want time.Duration // 0: an error
	}{
		{"default", 0, "", []string{"x"}, defaultTimeout},
		{"flag wins", time.Second, "5s", []string{"x", "-test.timeout=3s"}, time.Second},
		{"environment", 0, "5s", []string{"x", "-test.timeout=3s"}, 5 * time.Second},
		{"after the test's own", 0, "", []string{"x", "-test.timeout=3m0s"}, 4 * time.Minute},
		{"test without limit", 0, "", []string{"x", "-test.timeout=0s"}, defaultTimeout},
		{"not a time", 0, "5", []string{"x"}, 0},
		{"negative", 0, "-5s", []string{"x"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("POISE_LAB_TIMEOUT", tt.env)
			got, err := deadline(tt.flag, tt.args)
			if got != tt.want || (err != nil) != (tt.want == 0) {
				t.Errorf("%v, error %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestMissingKernelIsNamed(t *testing.T) {
	path, err := runner()
	if err != nil {
		t.Fatal(err)
	}
	if kernels, _ := filepath.Glob("/lib/modules/*"); len(kernels) > 0 {
		t.Skip("this machine may have a kernel for guests in /boot")
	}
	cmd := exec.Command(path, "-backend", string(guest.TCG), "true")
	cmd.Env = append(os.Environ(), "POISE_CACHE="+t.TempDir())
	out, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "make deps") {
		t.Errorf("%v, want status 1 and the remedy in\n%s", err, out)
	}
}
