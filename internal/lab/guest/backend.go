package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probeTime is what a guest may take to boot at hardware speed, with much room.
const probeTime = 20 * time.Second

// Choose returns the best back end this machine offers: Native for root with IPVS in the
// running kernel, else KVM if a guest really boots on it, else TCG.
func Choose(ctx context.Context, cache string) (Backend, error) {
	if os.Getuid() == 0 && HasIPVS() {
		return Native, nil
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, nil
	}
	kvm.Close()
	return accelerated(ctx, cache)
}

// accelerated boots a guest on KVM: a /dev/kvm that opens may still not run an ordinary
// kernel. The verdict is kept in the cache for as long as the host's kernel stays.
func accelerated(ctx context.Context, cache string) (Backend, error) {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return "", err
	}
	file := filepath.Join(cache, "accel-"+unix.ByteSliceToString(host.Release[:]))
	data, err := os.ReadFile(file)
	if err == nil {
		return Backend(strings.TrimSpace(string(data))), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	// Without a kernel or QEMU a failed boot would say nothing about KVM.
	if _, err := FindKernel(cache); err != nil {
		return "", err
	}
	if _, err := findQEMU(); err != nil {
		return "", err
	}
	p, err := NewProgram([]string{"true"})
	if err != nil {
		return "", err
	}
	p.Stdout, p.Stderr = io.Discard, io.Discard
	probe, cancel := context.WithTimeoutCause(ctx, probeTime, errors.New("KVM probe timed out"))
	defer cancel()
	verdict := KVM
	if status, err := Run(probe, KVM, cache, p); err != nil || status != 0 {
		verdict = TCG
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return verdict, writeWhole(file, []byte(verdict+"\n"))
}

// writeWhole writes a file which other runners may read or write at the same time.
func writeWhole(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already if all went well
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
