// Package adm is ipvsadm: its grammar and its output, to the byte, over the codec of ipvsctl.
//
//	words ─ scan.go ─▶ options ─ parse.go, rules.go ─▶ request ─┬─▶ Op ───▶ ipvsctl.Client.Apply ─▶ wording.go
//	  ▲                                                         ├─▶ list.go, save.go ◀── Services, Servers
//	restore.go: a line at a time, changes in batches            └─▶ connections.go ◀── /proc/net/ip_vs_conn
//
// It follows ipvsadm 1.31 as Debian builds it. Beyond that it has --atomic with -R, and takes --exact with -S, which then
// keeps what it otherwise loses: thresholds, and marks from 2^31 on.
package adm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"poise/ipvsctl"
)

// Main is the program that args[0] names: ipvsadm-save, ipvsadm-restore, or else ipvsadm. It works in the calling thread's
// network namespace and returns the exit status.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return run(args, stdin, stdout, stderr, "/etc")
}

// run is Main with the directory of the files hosts and services.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, etc string) int {
	p := &program{name: args[0], in: stdin, out: bufio.NewWriter(stdout), err: stderr, names: names{etc: etc, ask: askNameServer}}
	defer p.out.Flush()
	switch filepath.Base(p.name) {
	case "ipvsadm-save":
		return p.saveScript(args[1:])
	case "ipvsadm-restore":
		return p.restoreScript(args[1:])
	}
	return p.adm(args[1:])
}

// program is one run of ipvsadm.
type program struct {
	name  string
	in    io.Reader
	out   *bufio.Writer
	err   io.Writer
	names names

	kernel *ipvsctl.Client

	read, scratch []server // of a listing, used again and again
}

// saveScript is what Debian's ipvsadm-save does.
func (p *program) saveScript(args []string) int {
	command := []string{"-S"}
	for _, arg := range args {
		switch {
		case arg == "-n", arg == "--exact":
			command = append(command, arg)
		case strings.HasPrefix(arg, "-"):
			fmt.Fprintf(p.err, "%s: Script to save the IPVS table to stdout.\n   With the -n option, prints out the table in numeric format.\n", filepath.Base(p.name))
			return 1
		}
	}
	return p.adm(command)
}

// restoreScript is what Debian's ipvsadm-restore does: all of the input is read before the table is cleared.
func (p *program) restoreScript(args []string) int {
	rules, err := io.ReadAll(p.in)
	if err != nil {
		return p.fail(err)
	}
	var kept strings.Builder
	for line := range strings.Lines(string(rules)) {
		if strings.HasPrefix(line, "#") {
			line = "\n" // counts, as lines are named by number
		}
		kept.WriteString(line)
	}
	p.in = strings.NewReader(kept.String())
	if len(args) == 1 && args[0] == "--atomic" {
		return p.adm([]string{"-R", "--atomic"})
	}
	if status := p.adm([]string{"-C"}); p.kernel == nil {
		return status
	}
	return p.adm([]string{"-R"})
}

// adm is ipvsadm with the words behind its name. It wants IPVS before it looks at them.
func (p *program) adm(words []string) int {
	ctx := context.Background()
	if err := p.open(ctx); err != nil {
		return p.fail(err)
	}
	defer p.kernel.Close()
	if len(words) == 0 {
		words = []string{"-L"}
	}
	r, err := p.parse(words)
	switch {
	case err != nil:
		return p.fail(err)
	case r.command != optRestore:
		return p.fail(p.do(ctx, &r))
	case r.given&givenAtomic != 0:
		return p.restoreAtomic(ctx)
	}
	return p.restore(ctx)
}

func (p *program) open(ctx context.Context) error {
	var err error
	if p.kernel, err = ipvsctl.Open(ctx); err != nil {
		return refuse("Can't initialize ipvs: %s\nAre you sure that IP Virtual Server is built in the kernel or as module?", wording(optNone, err))
	}
	return nil
}

// fail says what err is, if it is one, and returns the exit status.
func (p *program) fail(err error) int {
	if err == nil {
		return 0
	}
	p.out.Flush() // so that what was printed before comes first
	if err == errNoCommand {
		err = &failure{fmt.Sprintf("Try `%s -h' or '%[1]s --help' for more information.", p.name), 255, true}
	}
	fmt.Fprintln(p.err, err)
	if f, ok := errors.AsType[*failure](err); ok {
		return f.status
	}
	return 1
}

// do carries out a request other than -R.
func (p *program) do(ctx context.Context, r *request) error {
	if op, ok := r.op(); ok {
		return refused(r.command, p.kernel.Apply(ctx, []ipvsctl.Op{op})[0])
	}
	switch r.command {
	case optHelp, optVersion:
		return p.introduce(ctx, r.command)
	case optClear:
		return refused(r.command, ipvsctl.Flush())
	case optZero:
		if r.given&givenService == 0 {
			return refused(r.command, p.kernel.Zero(ctx))
		}
		return refused(r.command, p.kernel.Zero(ctx, r.service))
	case optSet:
		return refused(r.command, ipvsctl.SetTimeouts(r.timeouts))
	case optStartDaemon:
		return refused(r.command, p.kernel.StartDaemon(ctx, r.daemon))
	case optStopDaemon:
		return refused(r.command, p.kernel.StopDaemon(ctx, r.daemon.Role))
	case optSave:
		return p.save(ctx, r.given)
	case optList:
		return p.list(ctx, r)
	}
	return nil
}

// list prints what -L asks for.
func (p *program) list(ctx context.Context, r *request) error {
	switch {
	case r.given&givenConnections != 0:
		return p.listConnections(r.given)
	case r.given&givenTimeout != 0:
		return p.listTimeouts()
	case r.given&givenDaemon != 0:
		return p.listDaemons(ctx)
	case r.given&givenService != 0:
		return p.listService(ctx, r.service, r.given)
	}
	return p.listAll(ctx, r.given)
}
