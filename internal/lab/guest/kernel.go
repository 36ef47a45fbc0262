package guest

import (
	"fmt"
	"os"
	"path/filepath"
)

// bootModules are what the first process needs to reach the host's files and the runner.
var bootModules = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"}

// Kernel is a kernel image with its modules, on the host.
type Kernel struct {
	Release string // as in uname -r
	Image   string // vmlinuz
	Modules string // folder with modules.dep
}

// FindKernel returns a usable kernel of the cache, else of the host's /boot. Usable means
// readable, with ip_vs, and able to boot from 9p (Debian's cloud kernels are not).
func FindKernel(cache string) (Kernel, error) {
	for _, root := range []string{filepath.Join(cache, "linux-*"), "/"} {
		dirs, err := filepath.Glob(filepath.Join(root, "lib/modules/*"))
		if err != nil {
			return Kernel{}, err
		}
		for _, dir := range dirs {
			release := filepath.Base(dir)
			k := Kernel{release, filepath.Join(dir, "../../../boot/vmlinuz-"+release), dir}
			if k.usable() {
				return k, nil
			}
		}
	}
	return Kernel{}, fmt.Errorf("no kernel with ip_vs and 9p modules in %s or /boot: run 'make deps'", cache)
}

func (k Kernel) usable() bool {
	image, err := os.Open(k.Image)
	if err != nil {
		return false
	}
	image.Close()
	mods, err := readModules(k.Modules)
	if err != nil {
		return false
	}
	_, err = mods.order(append([]string{"ip_vs"}, bootModules...)...)
	return err == nil
}
