package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"poise/internal/lab"
)

// stage is what every scene has: a network, a client, and hosts that run poise.
type stage struct {
	screen
	options

	dir       string // of all files
	net       *lab.Network
	client    *lab.Host
	directors []*director
}

// director is a host that runs poise, with files of its own.
type director struct {
	*lab.Host
	poise  string // the binary
	dir    string // of the files
	log    *os.File
	daemon *lab.Process
}

// begin makes an empty network.
func (s *stage) begin() {
	var err error
	s.dir, err = os.MkdirTemp("", "poise-demo-")
	must(err)
	s.net = lab.NewNetwork()
}

// newDirector makes a host with files, and nothing else.
func (s *stage) newDirector(name string) *director {
	d := &director{Host: s.net.Host(name), poise: s.poise, dir: filepath.Join(s.dir, name)}
	must(os.Mkdir(d.dir, 0o755))
	var err error
	d.log, err = os.Create(filepath.Join(d.dir, "log"))
	must(err)
	s.directors = append(s.directors, d)
	return d
}

// cause lets happen what a step is about, unless that is sabotaged.
func (s *stage) cause(step string, happen func()) {
	if s.sabotage != step {
		happen()
	}
}

// spoil lets happen what must make a step fail, if that is sabotaged.
func (s *stage) spoil(step string, happen func()) {
	if s.sabotage == step {
		happen()
	}
}

// lastWords is the end of each daemon's log.
func (s *stage) lastWords() string {
	const lines = 12
	var words strings.Builder
	for _, d := range s.directors {
		fmt.Fprintf(&words, "\nThe end of poise's log on %s:\n", d.Name)
		text, err := os.ReadFile(d.log.Name())
		if err != nil {
			fmt.Fprintln(&words, err)
		}
		all := slices.Collect(strings.Lines(string(text)))
		words.WriteString(strings.Join(all[max(0, len(all)-lines):], ""))
	}
	return words.String()
}

func (s *stage) close() error {
	var errs []error
	if s.net != nil {
		errs = append(errs, s.net.Close())
	}
	for _, d := range s.directors {
		errs = append(errs, d.log.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

func (d *director) configFile() string { return filepath.Join(d.dir, "poise.toml") }
func (d *director) runtimeDir() string { return filepath.Join(d.dir, "run") }

// configure writes the configuration file.
func (d *director) configure(text string) { must(os.WriteFile(d.configFile(), []byte(text), 0o644)) }

// start starts the daemon, as a user would.
func (d *director) start() {
	cmd := exec.Command(d.poise, "run", "-c", d.configFile(), "--runtime-dir", d.runtimeDir())
	cmd.Stdout, cmd.Stderr = d.log, d.log
	d.daemon = d.Start(cmd)
}

// stop ends the daemon, as systemctl stop would.
func (d *director) stop() {
	must(d.daemon.Signal(syscall.SIGTERM))
	select {
	case <-d.daemon.Done():
		must(d.daemon.Wait())
	case <-time.After(limit):
		must(&mismatch{fmt.Sprintf("poise to end within %v of SIGTERM", limit), "it still runs"})
	}
}

// tell gives poise a command, which must succeed, and soon.
func (d *director) tell(args ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, d.poise, append(args, "--runtime-dir", d.runtimeDir())...)
	cmd.Stdout, cmd.Stderr = &output, &output
	err := d.Start(cmd).Wait()
	if ctx.Err() != nil {
		must(&mismatch{fmt.Sprintf("poise %s to end within %v", strings.Join(args, " "), limit), "it still runs"})
	}
	if err != nil {
		must(fmt.Errorf("poise %s: %w\n%s", strings.Join(args, " "), err, output.String()))
	}
}
