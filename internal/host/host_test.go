package host

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNeedNetAdmin(t *testing.T) {
	runtime.LockOSThread() // for good: the thread without capabilities ends with the test
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	if err := NeedNetAdmin(); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("without capabilities: %v", err)
	}
}
