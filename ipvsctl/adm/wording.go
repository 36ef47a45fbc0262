package adm

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"poise/ipvsctl"
)

// refused is the failure of a command that the kernel refused, nil if it did not.
func refused(command optionID, err error) error {
	if err == nil {
		return nil
	}
	return &failure{wording(command, err), 255, false}
}

// answers are what an error number means as the answer to some commands.
var answers = []struct {
	errno    unix.Errno
	commands []optionID
	text     string
}{
	{unix.EEXIST, []optionID{optAddService}, "Service already exists"},
	{unix.EEXIST, []optionID{optAddServer}, "Destination already exists"},
	{unix.EEXIST, []optionID{optStartDaemon}, "Daemon has already run"},
	{unix.ESRCH, []optionID{optEditService, optDeleteService, optZero, optList}, "No such service"},
	{unix.ESRCH, []optionID{optAddServer, optEditServer, optDeleteServer}, "Service not defined"},
	{unix.ESRCH, []optionID{optStopDaemon}, "No daemon is running"},
	{unix.ENOENT, []optionID{optAddService, optEditService}, "Scheduler or persistence engine not found"},
	{unix.ENOENT, []optionID{optEditServer, optDeleteServer}, "No such destination"},
	{unix.EINVAL, nil, "Invalid operation.  Possibly wrong module version, address not unicast, ..."},
	{unix.EPERM, nil, "Permission denied (you must be root)"},
	{unix.ENOPROTOOPT, nil, "Protocol not available"},
	{unix.ENOMEM, nil, "Memory allocation problem"},
	{unix.EOPNOTSUPP, nil, "Operation not supported with IPv6"},
	{unix.EAFNOSUPPORT, nil, "Operation not supported with specified address family"},
	{unix.EMSGSIZE, nil, "Module is wrong version"},
}

// wording is how ipvsadm says that the kernel refused a command.
func wording(command optionID, err error) string {
	if errors.Is(err, ipvsctl.ErrNoIPVS) {
		err = unix.ENOPROTOOPT
	}
	errno, ok := errors.AsType[unix.Errno](err)
	if !ok {
		return err.Error()
	}
	for _, a := range answers {
		if a.errno != errno {
			continue
		}
		for _, c := range a.commands {
			if c == command {
				return a.text
			}
		}
		if a.commands == nil {
			return a.text
		}
	}
	text := errno.Error()
	return strings.ToUpper(text[:1]) + text[1:] // as the C library has it
}
