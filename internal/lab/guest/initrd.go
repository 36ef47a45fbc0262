package guest

import (
	"bytes"
	"fmt"
	"path"
)

// archive is a cpio archive in the "newc" form, from which the kernel unpacks its first file system.
type archive struct {
	buf  bytes.Buffer
	dirs map[string]bool
	ino  int
}

const (
	cpioDir  = 0o040755
	cpioFile = 0o100755
)

// add appends a file, executable by all, after the folders it lies in.
func (a *archive) add(name string, data []byte) {
	a.mkdir(path.Dir(name))
	a.entry(name, cpioFile, data)
}

func (a *archive) mkdir(name string) {
	if name == "." || a.dirs[name] {
		return
	}
	a.mkdir(path.Dir(name))
	if a.dirs == nil {
		a.dirs = map[string]bool{}
	}
	a.dirs[name] = true
	a.entry(name, cpioDir, nil)
}

// bytes ends the archive.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}

func (a *archive) entry(name string, mode int, data []byte) {
	a.ino++
	fmt.Fprintf(&a.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.buf.Write(data)
	a.pad()
}

// pad aligns to four bytes, as the format wants after a name and after data.
func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}
