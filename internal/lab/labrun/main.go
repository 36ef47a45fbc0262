// Labrun runs a program as root on a kernel with IPVS and exits with its status:
//
//	labrun [-timeout D] [-backend B] PROGRAM [ARGUMENT...]
//	go test -exec bin/labrun ./pkg -run '^TestLab'
//
// The program sees this host's files, environment and working directory; stdin is empty.
// Environment: POISE_LAB_TIMEOUT as -timeout; POISE_LAB_OUT names a folder in which the program
// may leave files for the host; POISE_CACHE, XDG_CACHE_HOME say where 'make deps' put the kernel.
// Exit status 124 means that the deadline passed, 1 also that no guest could be had.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"poise/internal/lab/guest"
)

const (
	defaultTimeout = 10 * time.Minute
	exitTimeout    = 124 // as timeout(1)
)

var errDeadline = errors.New("deadline passed")

func main() {
	if filepath.Base(os.Args[0]) == guest.InitName {
		guest.Init()
	}
	status, err := labrun()
	if err != nil {
		fmt.Fprintln(os.Stderr, "labrun:", err)
	}
	os.Exit(status)
}

// labrun returns the exit status and, unless it is the program's own, what went wrong.
func labrun() (int, error) {
	timeout := flag.Duration("timeout", 0, "kill the guest after this `time` (default: POISE_LAB_TIMEOUT, else 1m more than -test.timeout, else 10m)")
	backend := flag.String("backend", "", "use this back `end`: native, qemu-kvm or qemu-tcg (default: the first that works)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: labrun [-timeout D] [-backend B] PROGRAM [ARGUMENT...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		return 2, nil
	}
	limit, err := deadline(*timeout, flag.Args())
	if err != nil {
		return 1, err
	}
	cache, err := cacheDir()
	if err != nil {
		return 1, err
	}
	p, err := guest.NewProgram(flag.Args())
	if err != nil {
		return 1, err
	}
	if keep := os.Getenv("POISE_LAB_OUT"); keep != "" {
		if p.Keep, err = filepath.Abs(keep); err != nil {
			return 1, err
		}
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	ctx, cancel := context.WithCancelCause(context.Background())
	ctx, stop := context.WithTimeoutCause(ctx, limit, errDeadline)
	defer stop()
	go func() { cancel(caught{(<-signals).(syscall.Signal)}) }()

	b := guest.Backend(*backend)
	if b == "" {
		if b, err = guest.Choose(ctx, cache); err != nil {
			return 1, err
		}
	}
	fmt.Fprintln(os.Stderr, "labrun: back end", b)
	status, err := guest.Run(ctx, b, cache, p)
	if sig, ok := errors.AsType[caught](err); ok {
		return 128 + int(sig.Signal), err
	}
	if errors.Is(err, errDeadline) {
		return exitTimeout, fmt.Errorf("%s killed after %v: %w", filepath.Base(p.Args[0]), limit, err)
	}
	if err != nil {
		return 1, err
	}
	return status, nil
}

// caught is the signal which ended the runner, as the cause of the guest's end.
type caught struct{ syscall.Signal }

func (c caught) Error() string { return "signal: " + c.Signal.String() }

// deadline is how long the guest may live. A minute more than the test binary's own limit
// lets a hung test print its stacks first.
func deadline(fromFlag time.Duration, args []string) (time.Duration, error) {
	if fromFlag > 0 {
		return fromFlag, nil
	}
	if env := os.Getenv("POISE_LAB_TIMEOUT"); env != "" {
		d, err := time.ParseDuration(env)
		if err == nil && d <= 0 {
			err = errors.New("not above 0")
		}
		if err != nil {
			return 0, fmt.Errorf("POISE_LAB_TIMEOUT %q: %w", env, err)
		}
		return d, nil
	}
	for _, arg := range args[1:] {
		if limit, ok := strings.CutPrefix(arg, "-test.timeout="); ok {
			if d, err := time.ParseDuration(limit); err == nil && d > 0 {
				return d + time.Minute, nil
			}
		}
	}
	return defaultTimeout, nil
}

// cacheDir is the lab's part of the cache which 'make deps' fills.
func cacheDir() (string, error) {
	cache := os.Getenv("POISE_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(user, "poise")
	}
	return filepath.Join(cache, "lab"), nil
}
