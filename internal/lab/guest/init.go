package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// InitName is the name (argument 0) under which the runner's program becomes the first process of a guest.
const InitName = "poise-lab-init"

const (
	stageVM     = "vm"
	stageNative = "native"

	requestFile = "request.json"
	requestFD   = 3 // natively

	reportPort = "/dev/vport0p1"
	rootTag    = "root" // the host's files
	keepTag    = "keep" // Program.Keep
)

// request is what the first process is told.
type request struct {
	Program Program
	Boot    []string // modules to load before the host's files are there, in order
	Modules string   // folder of the kernel's modules, on the host
}

// Init is the first process of a guest. It does not return.
func Init() {
	if len(os.Args) > 1 && os.Args[1] == stageVM {
		initVM()
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	status, err := initNative()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		status = 1
	}
	os.Exit(status)
}

func initNative() (int, error) {
	file := os.NewFile(requestFD, "request")
	var req request
	if err := json.NewDecoder(file).Decode(&req); err != nil {
		return 0, fmt.Errorf("request: %w", err)
	}
	file.Close()
	// Private first: no mount of ours may show outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("private mounts: %w", err)
	}
	for _, m := range []mount{procFS, sysFS, runFS} {
		if err := m.do(); err != nil {
			return 0, err
		}
	}
	if err := loopbackUp(); err != nil {
		return 0, err
	}
	return run(req.Program, os.Stdout, os.Stderr)
}

// initVM reports over the serial port, or on the console if it does not get that far.
func initVM() {
	req, port, err := boot()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return
	}
	report := &frameWriter{w: port}
	status, err := runReported(req, report)
	if err != nil {
		report.send(frameError, []byte(err.Error()))
	} else {
		report.send(frameStatus, []byte{0, 0, 0, byte(status)})
	}
	time.Sleep(time.Minute) // the runner ends the guest; power off only if it is gone
}

// boot loads the boot modules and opens the report port.
func boot() (request, *os.File, error) {
	var req request
	data, err := os.ReadFile("/" + requestFile)
	if err != nil {
		return req, nil, err
	}
	if err := json.Unmarshal(data, &req); err != nil {
		return req, nil, fmt.Errorf("request: %w", err)
	}
	if err := (mount{fstype: "devtmpfs", target: "/dev"}).do(); err != nil {
		return req, nil, err
	}
	for _, file := range req.Boot {
		if err := loadFile("/modules/" + file); err != nil {
			return req, nil, err
		}
	}
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		// Not os.OpenFile: the runtime would poll the port, and a full one must block instead.
		fd, err := unix.Open(reportPort, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			return req, os.NewFile(uintptr(fd), reportPort), nil
		}
		if time.Since(start) > 10*time.Second {
			return req, nil, fmt.Errorf("%s: %w", reportPort, err)
		}
	}
}

// runReported completes the guest and runs the program with its output as frames.
func runReported(req request, report *frameWriter) (int, error) {
	if err := hostRoot(req); err != nil {
		return 0, err
	}
	if err := loadNetworking(req.Modules); err != nil {
		return 0, err
	}
	if err := loopbackUp(); err != nil {
		return 0, err
	}
	if err := unix.Sethostname([]byte("poise-lab")); err != nil {
		return 0, err
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { report.copy(frameStdout, outRead) })
	wg.Go(func() { report.copy(frameStderr, errRead) })
	status, err := run(req.Program, outWrite, errWrite)
	outWrite.Close()
	errWrite.Close()
	wg.Wait() // everything said is sent
	return status, err
}

// File systems which every guest gets of its own.
var (
	procFS = mount{fstype: "proc", target: "/proc"}
	sysFS  = mount{fstype: "sysfs", target: "/sys"}
	runFS  = mount{fstype: "tmpfs", target: "/run", options: "mode=755"}
)

// options9P are those of both shares; messages above the default of 128 kB save round trips.
const options9P = "trans=virtio,version=9p2000.L,msize=262144"

// hostRoot makes the host's files, under a writable layer in memory, the root of this process.
func hostRoot(req request) error {
	keep := req.Program.Keep
	before := []mount{
		{"9p", rootTag, "/host", unix.MS_RDONLY, options9P + ",cache=loose"},
		{fstype: "tmpfs", target: "/overlay"},
	}
	for _, m := range before {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/overlay/upper", "/overlay/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	layers := mount{fstype: "overlay", target: "/root", options: "lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work"}
	if err := layers.do(); err != nil {
		return err
	}
	// The first file system cannot be pivoted away from; moving a mount over it does the same.
	if err := unix.Mount("/dev", "/root/dev", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := os.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	after := []mount{procFS, sysFS, runFS, {fstype: "devpts", target: "/dev/pts"}, {fstype: "tmpfs", target: "/dev/shm"}}
	if keep != "" {
		after = append(after, mount{fstype: "9p", source: keepTag, target: keep, options: options9P})
	}
	for _, m := range after {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// run runs p as a child, collects the orphans which a first process inherits, and kills
// what p left behind. The status is that of a shell: 128+n after signal n.
func run(p Program, stdout, stderr *os.File) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	proc, err := os.StartProcess(p.Args[0], p.Args, &os.ProcAttr{
		Dir: p.Dir, Env: p.Env, Files: []*os.File{null, stdout, stderr},
	})
	if err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for %s: %w", p.Args[0], err)
		}
		if pid != proc.Pid {
			continue
		}
		unix.Kill(-1, unix.SIGKILL) // all but the first process
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}

// mount is a file system to mount. Without a device, source is only a name.
type mount struct {
	fstype, source, target string
	flags                  uintptr
	options                string
}

func (m mount) do() error {
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}
