package lab

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"poise/internal/lab/guest"
)

// NeedRoot is for tests which make namespaces. It Lacks root, or returns.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		Lacks(t, "needs root")
	}
}

// NeedIPVS is for tests which also use IPVS. It Lacks root or IPVS, or returns.
func NeedIPVS(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	if family, err := netlink.GenlFamilyGet("IPVS"); err != nil || family.ID == 0 {
		Lacks(t, "this kernel has no IPVS loaded: run with go test -exec bin/labrun")
	}
}

// Lacks skips a test for a reason. With POISE_LAB=require, set where nothing may lack, it
// fails the test instead.
func Lacks(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("POISE_LAB") == "require" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// Emulated reports whether the processor is emulated: no interval below 1 s can be asserted there.
func Emulated() bool { return os.Getenv(guest.BackendVar) == string(guest.TCG) }
