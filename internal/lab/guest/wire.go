package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A microVM reports over one serial port, so that output and the end keep their order:
// frames of kind (1 byte), length (4 bytes, big endian), payload.
type frameKind byte

const (
	frameStdout frameKind = iota + 1
	frameStderr
	frameStatus // the last one: the program's exit status, 4 bytes
	frameError  // the last one: a refusal
)

// maxFrame bounds what a reader takes from a broken guest.
const maxFrame = 1 << 20

// frameWriter sends frames from several goroutines.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) send(kind frameKind, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{byte(kind)}, uint32(len(data)))
	_, err := f.w.Write(append(head, data...))
	return err
}

// copy sends what r yields as frames of one kind.
func (f *frameWriter) copy(kind frameKind, r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := f.send(kind, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// refusal is why the guest did not run the program, in its words.
type refusal string

func (r refusal) Error() string { return string(r) }

// receive passes output on and returns the exit status of the program.
func receive(r io.Reader, stdout, stderr io.Writer) (int, error) {
	for {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return 0, err
		}
		size := binary.BigEndian.Uint32(head[1:])
		if size > maxFrame {
			return 0, fmt.Errorf("guest frame of %d bytes exceeds %d", size, maxFrame)
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(r, data); err != nil {
			return 0, err
		}
		var err error
		switch kind := frameKind(head[0]); {
		case kind == frameStdout:
			_, err = stdout.Write(data)
		case kind == frameStderr:
			_, err = stderr.Write(data)
		case kind == frameStatus && size == 4:
			return int(binary.BigEndian.Uint32(data)), nil
		case kind == frameError:
			return 0, refusal(data)
		default:
			err = fmt.Errorf("guest frame of unknown kind %d, %d bytes", kind, size)
		}
		if err != nil {
			return 0, err
		}
	}
}
