package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// unpacked returns the image without compression, made once and kept in the cache: an
// emulated guest takes seconds to unpack itself. Where it cannot be made it returns the
// image as it is, which boots too.
func (k Kernel) unpacked(cache string) string {
	path, err := k.unpack(cache)
	if err != nil {
		return k.Image
	}
	return path
}

func (k Kernel) unpack(cache string) (string, error) {
	info, err := os.Stat(k.Image)
	if err != nil {
		return "", err
	}
	// A release may be built again: the time tells the builds apart.
	path := filepath.Join(cache, fmt.Sprintf("vmlinux-%s-%d", k.Release, info.ModTime().Unix()))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	image, err := os.ReadFile(k.Image)
	if err != nil {
		return "", err
	}
	program, payload, err := compressed(image)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, "-dc")
	cmd.Stdin = bytes.NewReader(payload)
	data, err := cmd.Output()
	if err != nil {
		return "", err
	}
	return path, writeWhole(path, data)
}

// compressed finds the packed kernel in an x86 boot image, and the program that unpacks
// it. The offsets are those of the Linux/x86 boot protocol, version 2.08 or later.
func compressed(image []byte) (program string, payload []byte, err error) {
	const (
		setupSectors  = 0x1f1 // 0 means 4
		magic         = 0x202 // "HdrS", then the version
		payloadOffset = 0x248 // from the end of the set-up sectors
		payloadLength = 0x24c
		headerEnd     = 0x250
	)
	if len(image) < headerEnd || string(image[magic:magic+4]) != "HdrS" || binary.LittleEndian.Uint16(image[magic+4:]) < 0x208 {
		return "", nil, errors.New("no x86 boot image")
	}
	sectors := int(image[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + int(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := start + int(binary.LittleEndian.Uint32(image[payloadLength:]))
	if end > len(image) {
		return "", nil, errors.New("boot image is cut off")
	}
	// The last four bytes are the unpacked size, which no format knows of.
	payload = image[start : end-4]
	for head, program := range map[string]string{"\xfd7zXZ\x00": "xz", "\x28\xb5\x2f\xfd": "zstd", "\x1f\x8b": "gzip"} {
		if bytes.HasPrefix(payload, []byte(head)) {
			return program, payload, nil
		}
	}
	return "", nil, errors.New("unknown compression")
}
