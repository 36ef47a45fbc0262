package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// networkModules are loaded before the program starts; those a kernel lacks are passed over.
// ip_vs_* stands for every scheduler and helper there is.
var networkModules = []string{
	"ip_vs", "ip_vs_*", "nf_conntrack", "ipip", "8021q", "bridge", "veth", "dummy", "tun", "nlmon", "nf_tables",
	"nft_chain_nat", "nft_ct", "nft_fib_inet", "nft_limit", "nft_log", "nft_masq", "nft_nat", "nft_redir", "nft_reject_inet",
}

// loadNetworking loads networkModules from the host's folder dir and leaves it where
// modprobe, and so the kernel by itself, finds what else it needs.
func loadNetworking(dir string) error {
	here := filepath.Join("/lib/modules", filepath.Base(dir))
	if here != dir {
		if err := os.MkdirAll(here, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, here, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", dir, here, err)
		}
	}
	mods, err := readModules(here)
	if err != nil {
		return err
	}
	names := make(chan string)
	var wg sync.WaitGroup
	errs := make([]error, runtime.NumCPU())
	for i := range errs {
		// The kernel waits by itself for a module which the other loader has begun.
		wg.Go(func() {
			for name := range names {
				errs[i] = errors.Join(errs[i], mods.load(name))
			}
		})
	}
	for _, pattern := range networkModules {
		for _, name := range mods.matching(pattern) {
			names <- name
		}
	}
	close(names)
	wg.Wait()
	return errors.Join(errs...)
}

// load loads a module after all it depends on.
func (m modules) load(name string) error {
	files, err := m.order(name)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := loadFile(filepath.Join(m.dir, file)); err != nil {
			return err
		}
	}
	return nil
}

// loadFile loads a module file; one that is there already is fine.
func loadFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && err != unix.EEXIST {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// modules is a kernel's module index: name to file and the names it depends on.
// A module compiled into the kernel has no file.
type modules struct {
	dir  string
	file map[string]string
	deps map[string][]string
}

// errNoModule is in the error for a name which is not in the index.
var errNoModule = errors.New("no such module")

func readModules(dir string) (modules, error) {
	m := modules{dir: dir, file: map[string]string{}, deps: map[string][]string{}}
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, deps, _ := strings.Cut(line, ":")
		name := moduleName(file)
		m.file[name] = file
		for dep := range strings.FieldsSeq(deps) {
			m.deps[name] = append(m.deps[name], moduleName(dep))
		}
	})
	if err != nil {
		return modules{}, err
	}
	err = eachLine(filepath.Join(dir, "modules.builtin"), func(line string) {
		m.file[moduleName(line)] = ""
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return modules{}, err
	}
	return m, nil
}

// order returns the files, relative to the folder, that load names with all they depend on,
// in an order in which each can be loaded.
func (m modules) order(names ...string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	var visit func(string) error
	visit = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		file, ok := m.file[name]
		if !ok {
			return fmt.Errorf("%s in %s: %w", name, m.dir, errNoModule)
		}
		for _, dep := range m.deps[name] {
			if err := visit(dep); err != nil {
				return err
			}
		}
		if file != "" {
			files = append(files, file)
		}
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// matching returns the names, sorted, which a glob pattern matches.
func (m modules) matching(pattern string) []string {
	var names []string
	for name := range m.file {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// moduleName is the kernel's name of a module file: kernel/net/x-y.ko.xz is x_y.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

func eachLine(path string, do func(line string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		do(lines.Text())
	}
	return lines.Err()
}
