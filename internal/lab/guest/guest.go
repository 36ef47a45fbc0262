// Package guest runs one program as root on a kernel with IPVS and returns its exit status.
//
//	            ┌ native: a child in fresh network, mount and PID namespaces   ┐
//	Run ─ init ─┤                                                              ├─ program
//	            └ QEMU: a microVM with Debian's kernel, the host's files as /  ┘
//
// On both ways the first process is this program again, under the name InitName: it
// prepares the surroundings, runs the program, collects orphans, and everything ends with it.
// In the microVM the host's file system is the lower, read-only half of an overlay:
// whatever the program writes vanishes with the guest, except below Program.Keep.
package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Backend is a kernel to run on.
type Backend string

// The back ends, in order of preference.
const (
	Native Backend = "native"   // the running kernel, in fresh namespaces
	KVM    Backend = "qemu-kvm" // Debian's kernel, at hardware speed
	TCG    Backend = "qemu-tcg" // Debian's kernel, emulated: user code is several times slower
)

// BackendVar is the environment variable which tells the program its Backend.
const BackendVar = "POISE_LAB_BACKEND"

// Program is what to run.
type Program struct {
	Args   []string  // program and arguments; the program by absolute path
	Env    []string  // "KEY=value"
	Dir    string    // working directory, absolute
	Keep   string    // absolute folder, made if needed, whose contents outlive the guest; empty: none
	Stdout io.Writer `json:"-"`
	Stderr io.Writer `json:"-"`
}

// NewProgram describes args as this process would run them: its environment, its working
// directory, PROGRAM looked up in its PATH.
func NewProgram(args []string) (Program, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return Program{}, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return Program{}, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return Program{}, err
	}
	return Program{
		Args:   append([]string{path}, args[1:]...),
		Env:    os.Environ(),
		Dir:    dir,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	}, nil
}

// Run runs p on backend b and returns its exit status: 128+n if signal n ended it.
// An error means that the program did not run to its end; if ctx ended first, it wraps
// context.Cause. No process of the guest outlives Run, nor this process however it dies.
func Run(ctx context.Context, b Backend, cache string, p Program) (int, error) {
	// The kernel ends a child with its parent *thread* (Pdeathsig), so the thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.Env = slices.DeleteFunc(slices.Clone(p.Env), func(v string) bool { return strings.HasPrefix(v, BackendVar+"=") })
	p.Env = append(p.Env, BackendVar+"="+string(b))
	if p.Keep != "" {
		if err := os.MkdirAll(p.Keep, 0o755); err != nil {
			return 0, err
		}
	}
	switch b {
	case Native:
		return runNative(ctx, p)
	case KVM, TCG:
		k, err := FindKernel(cache)
		if err != nil {
			return 0, err
		}
		k.Image = k.unpacked(cache)
		return runQEMU(ctx, b, k, p)
	}
	return 0, fmt.Errorf("lab back end %q: want %s, %s or %s", b, Native, KVM, TCG)
}

// ended says why a guest is gone although its program did not report an exit status.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("guest ended before its program: %w", err)
}
