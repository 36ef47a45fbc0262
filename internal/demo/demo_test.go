package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"poise/internal/lab"
)

// asDemo in the environment makes the test binary the demo itself, so that its exit status can be seen.
const asDemo = "POISE_TEST_AS_DEMO"

// builtPoise is the binary that make build leaves.
const builtPoise = "../../bin/poise"

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The demo must fail at the step whose cause is left out, and nowhere if nothing is: a step that
// comes true without its cause judges nothing.
func TestLabSabotage(t *testing.T) {
	lab.NeedIPVS(t)
	if _, err := os.Stat(builtPoise); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	play := func(t *testing.T, act int, sabotage string) (status int, output string) {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe",
			"-poise", builtPoise, "-example", "../../examples/pair.toml", "-act", strconv.Itoa(act))
		files := t.TempDir()
		cmd.Env = append(os.Environ(), asDemo+"=yes", "DEMO_SABOTAGE="+sabotage, "TMPDIR="+files)
		out, err := cmd.CombinedOutput()
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
			t.Fatal(err)
		}
		left, _ := filepath.Glob(filepath.Join(files, "*"))
		hosts, _ := filepath.Glob(fmt.Sprintf("/run/netns/poise-%d-*", cmd.Process.Pid))
		if len(left)+len(hosts) > 0 {
			t.Errorf("left behind: %v %v", left, hosts)
		}
		if strings.Contains(string(out), "\x1b") {
			t.Error("escape sequences in a pipe")
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}

	t.Run("none", func(t *testing.T) {
		if status, output := play(t, 0, ""); status != 0 {
			t.Errorf("exit status %d\n%s", status, output)
		}
	})
	for i, name := range stepNames() {
		t.Run(name, func(t *testing.T) {
			act := 1
			if i >= len(firstAct) {
				act = 2
			}
			status, output := play(t, act, name)
			verdict := fmt.Sprintf("demo: step %d (%s) failed\n", i+1, name)
			if status != 1 || !strings.HasSuffix(output, verdict) || !strings.Contains(output, "expected: ") {
				t.Errorf("exit status %d, want 1 and at the end %q\n%s", status, verdict, output)
			}
			t.Log(output) // with -v: whether it failed for the right reason
		})
	}
}

func TestUnknownSabotage(t *testing.T) {
	err := run(screen{io.Discard, false}, options{sabotage: "everything"})
	const want = "DEMO_SABOTAGE=everything: must be one of spread, failure, recovery, drain, reload, restart, " +
		"pair, hand-over, undo, power-off, return"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
