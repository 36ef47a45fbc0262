package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// Record remembers what things were before poise changed them, so that they can be put back.
// The first value remembered for a key stays: what a later run finds may be poise's own, left by
// a run that was killed. The kernel forgets at a reboot, so a record of another boot counts as empty.
//
// A Record is not safe for concurrent use, and two open records of one file overwrite each other:
// processes that share a file must take turns.
type Record struct {
	path   string
	bootID string
	former []Former
	saved  bool // the file holds former
}

// Former is a thing's value before the first change. The key is the planner's word for the thing.
type Former struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// recordFile is the record on disk.
type recordFile struct {
	BootID string   `json:"boot_id"`
	Former []Former `json:"former"`
}

// OpenRecord reads the record at path. A missing file is an empty record; an unreadable or damaged
// one is an error, as taking it for empty would lose the former values for good.
func OpenRecord(path string) (*Record, error) {
	bootID, err := Sysctls{}.Read("kernel.random.boot_id")
	if err != nil {
		return nil, err
	}
	r := &Record{path: path, bootID: bootID, saved: true}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("undo record: %w", err)
	}
	file, err := decodeRecord(data)
	if err != nil {
		return nil, fmt.Errorf("undo record %s: %w; remove the file to give up the former values in it", path, err)
	}
	if file.BootID == bootID {
		r.former = file.Former
	}
	return r, nil
}

func decodeRecord(data []byte) (recordFile, error) {
	var file recordFile
	if err := json.Unmarshal(data, &file); err != nil {
		return recordFile{}, err
	}
	if file.BootID == "" {
		return recordFile{}, errors.New("no boot_id")
	}
	seen := map[string]bool{}
	for i, f := range file.Former {
		if f.Key == "" {
			return recordFile{}, fmt.Errorf("entry %d has no key", i)
		}
		if seen[f.Key] {
			return recordFile{}, fmt.Errorf("key %q stands twice", f.Key)
		}
		seen[f.Key] = true
	}
	return file, nil
}

// Remember notes a thing's value before it is changed; a key already known keeps its value.
// When it returns nil the note is on disk; with an error it is in memory only, and Sync tries again.
func (r *Record) Remember(key, former string) error {
	if _, known := r.Former(key); known {
		return r.Sync()
	}
	return r.save(append(slices.Clone(r.former), Former{key, former}))
}

// Sync brings to disk what an earlier call could not. Without that it does nothing.
func (r *Record) Sync() error {
	if r.saved {
		return nil
	}
	return r.save(r.former)
}

// Former returns what a thing was, and whether it is known.
func (r *Record) Former(key string) (string, bool) {
	i := slices.IndexFunc(r.former, func(f Former) bool { return f.Key == key })
	if i < 0 {
		return "", false
	}
	return r.former[i].Value, true
}

// All returns what is remembered, first remembered first.
func (r *Record) All() []Former {
	return slices.Clone(r.former)
}

// Forget drops a key once its thing is restored, and the file with the last one.
func (r *Record) Forget(key string) error {
	if _, known := r.Former(key); !known {
		return nil
	}
	return r.save(slices.DeleteFunc(slices.Clone(r.former), func(f Former) bool { return f.Key == key }))
}

// save makes former the record, in memory and on disk.
func (r *Record) save(former []Former) error {
	r.former, r.saved = former, false
	if err := r.store(former); err != nil {
		return fmt.Errorf("undo record: %w", err)
	}
	r.saved = true
	return nil
}

func (r *Record) store(former []Former) error {
	if len(former) == 0 {
		if err := os.Remove(r.path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.MarshalIndent(recordFile{r.bootID, former}, "", "  ")
	if err != nil {
		return err
	}
	return ReplaceFile(r.path, append(data, '\n'))
}

// ReplaceFile writes data to path so that a reader, or a crash, finds the old file or the new one.
func ReplaceFile(path string, data []byte) error {
	temp := path + ".tmp" // a fixed name: the next write takes away what a killed one left
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync() // else a power cut may keep the rename and lose the content
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
