package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Size of the microVM. Memory is taken from the host only as the guest touches it.
const (
	memory = "2G"
	cpus   = "2"
)

// runQEMU boots k and runs p in it. Initrd, report and console travel through
// descriptors: nothing is written to the host's file system.
func runQEMU(ctx context.Context, b Backend, k Kernel, p Program) (int, error) {
	qemu, err := findQEMU()
	if err != nil {
		return 0, err
	}
	image, err := k.initrd(p)
	if err != nil {
		return 0, err
	}
	initrd, err := memoryFile("initrd", image)
	if err != nil {
		return 0, err
	}
	defer initrd.Close()
	report, reportEnd, err := connection()
	if err != nil {
		return 0, err
	}
	defer report.Close()
	defer reportEnd.Close()
	console, consoleEnd, err := connection()
	if err != nil {
		return 0, err
	}
	defer console.Close()
	defer consoleEnd.Close()

	accel := "tcg,thread=multi"
	if b == KVM {
		accel = "kvm"
	}
	args := []string{
		"-accel", accel, "-cpu", "max", "-m", memory, "-smp", cpus,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", k.Image, "-initrd", "/proc/self/fd/3",
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off rdinit=/" + InitName + " -- " + stageVM,
		"-chardev", "socket,id=report,fd=4",
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=report,nr=1",
		"-chardev", "socket,id=console,fd=5", "-serial", "chardev:console",
		"-virtfs", share(rootTag, "/") + ",readonly=on",
	}
	if p.Keep != "" {
		args = append(args, "-virtfs", share(keepTag, p.Keep))
	}
	cmd := exec.CommandContext(ctx, qemu, args...)
	cmd.ExtraFiles = []*os.File{initrd, reportEnd, consoleEnd} // descriptors 3, 4, 5
	// A group of its own: Ctrl-C reaches only the runner, which ends the guest in its way.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	reportEnd.Close()
	consoleEnd.Close()
	tail := tailBuffer{max: 4 << 10}
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(&tail, console) })

	status, err := receive(report, p.Stdout, p.Stderr)
	cmd.Process.Kill() // the report is complete, or will never be
	cmd.Wait()
	wg.Wait()
	if _, refused := errors.AsType[refusal](err); err != nil && !refused {
		err = fmt.Errorf("%w; console:\n%s%s", ended(ctx, err), complaint.String(), tail.String())
	}
	return status, err
}

func findQEMU() (string, error) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", errors.New("qemu-system-x86_64 is not installed: run 'make deps'")
	}
	return path, nil
}

// share is a folder of the host for -virtfs. A comma in a QEMU option is written twice.
func share(tag, dir string) string {
	return "local,security_model=none,multidevs=remap,mount_tag=" + tag + ",path=" + strings.ReplaceAll(dir, ",", ",,")
}

// initrd is the guest's first file system: this program, the boot modules, the request.
func (k Kernel) initrd(p Program) ([]byte, error) {
	mods, err := readModules(k.Modules)
	if err != nil {
		return nil, err
	}
	files, err := mods.order(bootModules...)
	if err != nil {
		return nil, err
	}
	req := request{Program: p, Boot: files, Modules: k.Modules}
	var a archive
	for _, dir := range []string{"dev", "proc", "sys", "host", "overlay", "root"} {
		a.mkdir(dir)
	}
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(k.Modules, file))
		if err != nil {
			return nil, err
		}
		a.add("modules/"+file, data)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	a.add(InitName, self)
	data, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	a.add(requestFile, data)
	return a.bytes(), nil
}

// memoryFile is an unnamed file with data, positioned at its start.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory file %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// connection is a socket pair: our end, and one to hand to a child.
func connection() (mine, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// tailBuffer keeps the last max bytes written to it.
type tailBuffer struct {
	max  int
	data []byte
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	t.data = t.data[max(0, len(t.data)-t.max):]
	return len(p), nil
}

func (t *tailBuffer) String() string { return string(t.data) }
