package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Process is a program which runs on a host. It dies with the network, and with the
// test however that ends.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; valid once done is closed
}

// Start starts cmd on the host.
func (h *Host) Start(cmd *exec.Cmd) *Process {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	// A child inherits the namespace of the thread that forks it and dies with that thread
	// (Pdeathsig), so the thread waits for the child.
	go h.Do(func() error {
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
		return nil
	})
	h.net.must(h.wrap("start "+cmd.Path, <-started))
	h.net.atEnd(func() error {
		p.Kill()
		return nil
	})
	return p
}

// Run runs a program on the host to its end, which must be exit status 0, and returns what
// it wrote to stdout and stderr.
func (h *Host) Run(name string, args ...string) string {
	var output bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := h.Start(cmd).Wait(); err != nil {
		h.net.fail(h.wrap(strings.Join(cmd.Args, " "), fmt.Errorf("%w\n%s", err, output.String())))
	}
	return output.String()
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end and returns what exec.Cmd.Wait does.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends sig. A process that has ended already is an error.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process at once and waits for its end.
func (p *Process) Kill() {
	p.Signal(os.Kill) // has no effect only if it has ended
	<-p.done
}
