package guest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestModuleOrder(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "modules.dep"), `kernel/a.ko: kernel/b-b.ko.xz kernel/c.ko
kernel/b-b.ko.xz: kernel/c.ko
kernel/c.ko:
kernel/lost.ko: kernel/gone.ko
`)
	write(t, filepath.Join(dir, "modules.builtin"), "kernel/inside.ko\n")
	mods, err := readModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		names []string
		want  []string // nil: errNoModule
	}{
		{"dependencies first, each once", []string{"a", "c"}, []string{"kernel/c.ko", "kernel/b-b.ko.xz", "kernel/a.ko"}},
		{"name with underscore", []string{"b_b"}, []string{"kernel/c.ko", "kernel/b-b.ko.xz"}},
		{"built in", []string{"inside", "c"}, []string{"kernel/c.ko"}},
		{"unknown", []string{"d"}, nil},
		{"unknown dependency", []string{"lost"}, nil},
	} {
		got, err := mods.order(tt.names...)
		if !slices.Equal(got, tt.want) || errors.Is(err, errNoModule) != (tt.want == nil) {
			t.Errorf("%s: %q, error %v, want %q", tt.name, got, err, tt.want)
		}
	}
	if got := mods.matching("*b*"); !slices.Equal(got, []string{"b_b"}) {
		t.Errorf("matching *b*: %q", got)
	}
}

func TestFindKernel(t *testing.T) {
	cache := t.TempDir()
	root := filepath.Join(cache, "linux-image")
	const all = "k/ip_vs.ko:\nk/virtio_pci.ko:\nk/virtio_console.ko:\nk/9pnet_virtio.ko:\nk/overlay.ko:\n"
	write(t, filepath.Join(root, "boot/vmlinuz-1-cloud"), "")
	write(t, filepath.Join(root, "lib/modules/1-cloud/modules.dep"), all)
	write(t, filepath.Join(root, "lib/modules/2-noimage/modules.dep"), all+"k/9p.ko:\n")
	write(t, filepath.Join(root, "boot/vmlinuz-3-good"), "")
	write(t, filepath.Join(root, "lib/modules/3-good/modules.dep"), all+"k/9p.ko:\n")
	k, err := FindKernel(cache)
	if err != nil || k.Release != "3-good" || k.Image != filepath.Join(root, "boot/vmlinuz-3-good") {
		t.Errorf("kernel %+v, error %v, want 3-good", k, err)
	}
}

func TestCompressed(t *testing.T) {
	image := make([]byte, 1024)
	copy(image[0x202:], "HdrS\x08\x02")
	image[0x1f1] = 1 // one set-up sector after the boot sector
	binary.LittleEndian.PutUint32(image[0x248:], 16)
	const payload = "\xfd7zXZ\x00...size"
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	image = append(image, strings.Repeat("-", 16)+payload+"tail"...)
	program, got, err := compressed(image)
	if program != "xz" || string(got) != "\xfd7zXZ\x00..." || err != nil {
		t.Errorf("%q, %q, %v", program, got, err)
	}
	for name, bad := range map[string][]byte{
		"cut off":     image[:1030],
		"no header":   image[:0x240],
		"not a boot":  make([]byte, 2048),
		"other bytes": bytes.Replace(image, []byte("7zXZ"), []byte("7zYZ"), 1),
	} {
		if _, _, err := compressed(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestArchive(t *testing.T) {
	var a archive
	a.mkdir("dev")
	a.add("lib/x/one", []byte("odd"))
	a.add("lib/x/two", []byte("even"))
	type entry struct {
		name, data string
		dir        bool
	}
	var got []entry
	for rest := a.bytes(); len(rest) > 0; {
		// 6 bytes magic, then 13 hexadecimal numbers of 8 digits.
		size, nameSize := hex(t, rest[54:62]), hex(t, rest[94:102])
		name := string(rest[110 : 110+nameSize-1])
		start := (110 + nameSize + 3) &^ 3
		e := entry{name, string(rest[start : start+size]), hex(t, rest[14:22])&0o170000 == 0o040000}
		if string(rest[:6]) != "070701" {
			t.Fatalf("entry %+v begins with %q", e, rest[:6])
		}
		got = append(got, e)
		rest = rest[(start+size+3)&^3:]
	}
	want := []entry{
		{"dev", "", true},
		{"lib", "", true},
		{"lib/x", "", true},
		{"lib/x/one", "odd", false},
		{"lib/x/two", "even", false},
		{"TRAILER!!!", "", false},
	}
	if !slices.Equal(got, want) {
		t.Errorf("entries %+v\nwant %+v", got, want)
	}
}

func TestReceive(t *testing.T) {
	frames := func(send func(*frameWriter)) io.Reader {
		var buf bytes.Buffer
		send(&frameWriter{w: &buf})
		return &buf
	}
	for _, tt := range []struct {
		name           string
		in             io.Reader
		stdout, stderr string
		status         int
		err            string // "": none
	}{
		{"output and status", frames(func(f *frameWriter) {
			f.copy(frameStdout, strings.NewReader("out"))
			f.copy(frameStderr, strings.NewReader("err"))
			f.send(frameStatus, []byte{0, 0, 0, 137})
		}), "out", "err", 137, ""},
		{"refusal", frames(func(f *frameWriter) { f.send(frameError, []byte("no such file")) }), "", "", 0, "no such file"},
		{"guest dies", frames(func(f *frameWriter) { f.send(frameStdout, []byte("begun")) }), "begun", "", 0, "EOF"},
		{"dies in a frame", strings.NewReader("\x01\x00\x00\x00\x05ab"), "", "", 0, "unexpected EOF"},
		{"unknown kind", strings.NewReader("\x09\x00\x00\x00\x00"), "", "", 0, "guest frame of unknown kind 9, 0 bytes"},
		{"too large", strings.NewReader("\x01\xff\xff\xff\xff"), "", "", 0, "guest frame of 4294967295 bytes exceeds 1048576"},
	} {
		var stdout, stderr bytes.Buffer
		status, err := receive(tt.in, &stdout, &stderr)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if stdout.String() != tt.stdout || stderr.String() != tt.stderr || status != tt.status || text != tt.err {
			t.Errorf("%s: %q, %q, %d, %q", tt.name, stdout.String(), stderr.String(), status, text)
		}
	}
}

func TestTailBuffer(t *testing.T) {
	b := tailBuffer{max: 4}
	io.WriteString(&b, "abc")
	io.WriteString(&b, "def")
	if b.String() != "cdef" {
		t.Errorf("tail %q, want cdef", b.String())
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := cmp.Or(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func hex(t *testing.T, digits []byte) int {
	t.Helper()
	n, err := strconv.ParseUint(string(digits), 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}
