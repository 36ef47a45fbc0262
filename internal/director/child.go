package director

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/status"
)

// child is a process of ours and the conversation with it.
type child struct {
	role    string
	process *os.Process
	conn    *conn
	ended   chan struct{} // closed when the process is gone
	err     error         // how it ended; read after ended

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan message
}

// helloTimeout bounds the time from exec to the first word: reading the binary and taking hold of the kernel.
const helloTimeout = 20 * time.Second

// birth is what a child begins life with.
type birth struct {
	role    string
	args    []string
	lock    *os.File // stays taken for as long as any process that has it lives
	beats   *os.File // the elector's
	events  func(status.Event)
	masters func([]string)
}

// startChild starts this same program in another role. The child inherits its end of a socket pair and the files.
func startChild(ctx context.Context, b birth) (*child, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", b.args...)
	cmd.Args[0] = childName(b.role)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, b.lock}
	start := cmd.Start
	if b.role == roleElector {
		// No death signal: when the parent is gone it has addresses to hand over. It hears of it by the socket.
		cmd.ExtraFiles = append(cmd.ExtraFiles, b.beats)
		start = func() (err error) {
			withRealtime(func() { err = cmd.Start() })
			return err
		}
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}

	c := &child{role: b.role, conn: ours, ended: make(chan struct{}), waiting: make(map[uint64]chan message)}
	started := make(chan error, 1)
	go func() {
		// The death signal is sent when the thread that forked ends, so this one must live as long as the child. And
		// precedence is a thread's, too.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := start()
		theirs.Close()
		if err == nil {
			c.process = cmd.Process
		}
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.ended)
		}
	}()
	if err := <-started; err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the %s: %w", b.role, err)
	}
	if err := c.greet(ctx); err != nil {
		c.kill()
		return nil, err
	}
	go c.listen(b)
	return c, nil
}

// childName is the process name of a role, in ps and as what tells main which role to play.
func childName(role string) string { return "poise-" + role }

// pairBuffer is how many bytes may wait in each direction. Memory is taken only for those that do.
const pairBuffer = 4 << 20

func socketPair() (*conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	for _, fd := range fds { // a large configuration passes at once; less is only slower
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, pairBuffer)
	}
	theirs := os.NewFile(uintptr(fds[1]), "parent")
	ours, err := fileConn(os.NewFile(uintptr(fds[0]), "child"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// fileConn turns an inherited or new socket into a conn and closes the file.
func fileConn(f *os.File) (*conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("socket to %s: %w", f.Name(), err)
	}
	return &conn{Conn: c}, nil
}

// greet waits for the child's first message.
func (c *child) greet(ctx context.Context) error {
	if err := c.conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Now()) })()
	m, err := c.conn.receive()
	if err != nil {
		return fmt.Errorf("the %s said no hello: %w", c.role, err)
	}
	if m.Kind != kindHello || m.Version != protocolVersion {
		return fmt.Errorf("the %s said %s version %d, want hello version %d", c.role, m.Kind, m.Version, protocolVersion)
	}
	return c.conn.SetReadDeadline(time.Time{})
}

// listen takes in what the child says until it hangs up.
func (c *child) listen(b birth) {
	for {
		m, err := c.conn.receive()
		if err != nil {
			c.conn.Close()
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, waiting := range c.waiting {
				close(waiting)
			}
			c.waiting = nil
			return
		}
		switch {
		case m.Kind == kindEvent && m.Event != nil:
			b.events(*m.Event)
		case m.Kind == kindMasters:
			b.masters(m.Masters)
		case m.Kind == kindAnswer:
			c.mu.Lock()
			waiting := c.waiting[m.ID]
			delete(c.waiting, m.ID)
			c.mu.Unlock()
			if waiting != nil {
				waiting <- m
			}
		}
	}
}

// errNoAnswer says that the child is there but hangs.
var errNoAnswer = errors.New("does not answer")

// ask sends a request and waits for its answer, at most for timeout.
func (c *child) ask(ctx context.Context, timeout time.Duration, m message) (message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer cancel()
	answer := make(chan message, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return message{}, fmt.Errorf("the %s has ended", c.role)
	}
	c.nextID++
	m.ID = c.nextID
	c.waiting[m.ID] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, m.ID)
		c.mu.Unlock()
	}()

	if err := c.conn.send(m); err != nil {
		return message{}, fmt.Errorf("the %s: %w", c.role, err)
	}
	select {
	case a, ok := <-answer:
		if !ok {
			return message{}, fmt.Errorf("the %s has ended", c.role)
		}
		if a.Error != "" {
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-ctx.Done():
		return message{}, fmt.Errorf("the %s: %w", c.role, context.Cause(ctx))
	}
}

// pid is the child's process, 0 for none.
func (c *child) pid() int {
	if c == nil {
		return 0
	}
	return c.process.Pid
}

// kill ends the process whatever it is doing, and waits for that.
func (c *child) kill() {
	_ = c.process.Kill() // fails only when it has ended already
	<-c.ended
	c.conn.Close()
}
