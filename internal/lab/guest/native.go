package guest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// HasIPVS reports whether the running kernel has IPVS. It tries to load the module.
func HasIPVS() bool {
	if present() {
		return true
	}
	exec.Command("modprobe", "ip_vs").Run() // present judges
	return present()
}

func present() bool {
	_, err := os.Stat("/proc/net/ip_vs")
	return err == nil
}

// runNative runs p on this kernel. It needs root.
func runNative(ctx context.Context, p Program) (int, error) {
	data, err := json.Marshal(request{Program: p})
	if err != nil {
		return 0, err
	}
	file, err := memoryFile("request", data)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{InitName, stageNative}
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, ended(ctx, err)
	}
	return 0, nil
}
