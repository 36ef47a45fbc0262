package host

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const lroFlag = 1 << 15 // ETH_FLAG_LRO of linux/ethtool.h

// LargeReceive tells whether an interface merges the packets it receives before the kernel sees them: LRO, of which the
// kernel has nothing to undo it before it sends them on (Documentation/networking/segmentation-offloads.rst).
func LargeReceive(ifname string) (on bool, err error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("%s: %w", ifname, err)
	}
	defer unix.Close(socket)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GFLAGS} // struct ethtool_value
	request := struct {                                           // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	if len(ifname) >= len(request.name) {
		return false, fmt.Errorf("interface %s: %w", ifname, errNoInterface)
	}
	copy(request.name[:], ifname)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	switch {
	case errno == 0:
		return value.data&lroFlag != 0, nil
	case errors.Is(errno, unix.EOPNOTSUPP): // it has no such settings
		return false, nil
	case errors.Is(errno, unix.ENODEV):
		return false, fmt.Errorf("interface %s: %w", ifname, errNoInterface)
	}
	return false, fmt.Errorf("ethtool flags of %s: %w", ifname, errno)
}
