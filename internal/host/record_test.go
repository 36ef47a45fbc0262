package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func openRecord(t *testing.T, path string) *Record {
	t.Helper()
	r, err := OpenRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordFirstWriterWins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	r := openRecord(t, path)
	for _, f := range []Former{{"b", "1"}, {"a", "2"}, {"b", "poise's own"}} {
		if err := r.Remember(f.Key, f.Value); err != nil {
			t.Fatal(err)
		}
	}
	want := []Former{{"b", "1"}, {"a", "2"}}
	if got := r.All(); !slices.Equal(got, want) {
		t.Errorf("in memory %v, want %v", got, want)
	}

	again := openRecord(t, path) // the next run, after this one was killed
	if got := again.All(); !slices.Equal(got, want) {
		t.Errorf("from disk %v, want %v", got, want)
	}
	if err := again.Remember("b", "later"); err != nil {
		t.Fatal(err)
	}
	if got, known := openRecord(t, path).Former("b"); got != "1" || !known {
		t.Errorf("b = %q, %v after a second run", got, known)
	}
}

func TestRecordFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	r := openRecord(t, path)
	for _, key := range []string{"a", "b"} {
		if err := r.Remember(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	for _, key := range []string{"b", "never remembered", "a", "a"} {
		if err := r.Forget(key); err != nil {
			t.Errorf("forget %s: %v", key, err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("an empty record leaves %v", left)
	}
}

func TestRecordStoredLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not yet")
	r := openRecord(t, filepath.Join(dir, "record.json"))
	for range 2 { // knowing the key is not having stored it
		if err := r.Remember("a", "0"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	}
	if former, _ := r.Former("a"); former != "0" {
		t.Errorf("in memory %q, want 0", former)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	if former, _ := openRecord(t, filepath.Join(dir, "record.json")).Former("a"); former != "0" {
		t.Errorf("on disk %q, want 0", former)
	}
}

func TestRecordOfAnotherBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	old := `{"boot_id": "00000000-0000-0000-0000-000000000000", "former": [{"key": "a", "value": "old"}]}`
	if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	r := openRecord(t, path)
	if got := r.All(); len(got) != 0 {
		t.Errorf("before the first note: %v", got)
	}
	if err := r.Remember("a", "new"); err != nil {
		t.Fatal(err)
	}
	if got, want := openRecord(t, path).All(), []Former{{"a", "new"}}; !slices.Equal(got, want) {
		t.Errorf("after it: %v, want %v", got, want)
	}
}

func TestDamagedRecord(t *testing.T) {
	for name, content := range map[string]string{
		"empty file":    "",
		"cut short":     `{"boot_id": "x", "former": [{"key": "a"`,
		"not a record":  `[1, 2]`,
		"no boot":       `{"former": []}`,
		"no key":        `{"boot_id": "x", "former": [{"value": "1"}]}`,
		"key twice":     `{"boot_id": "x", "former": [{"key": "a"}, {"key": "a"}]}`,
		"trailing data": `{"boot_id": "x"} {}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "record.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenRecord(path)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove the file") {
				t.Errorf("error %v names neither file nor remedy", err)
			}
		})
	}
}

// FuzzRecord: what is read from disk is stored and read again unchanged, or refused.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"boot_id": "x", "former": [{"key": "net.ipv4.ip_forward", "value": "0"}, {"key": "b", "value": ""}]}`))
	f.Add([]byte(`{"boot_id": "x", "former": null}`))
	f.Add([]byte(`{"boot_id": "x", "former": [{"key": "a"}, {"key": "a"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := decodeRecord(data)
		if err != nil || len(file.Former) == 0 {
			return
		}
		path := filepath.Join(t.TempDir(), "record.json")
		r := &Record{path: path, bootID: file.BootID}
		if err := r.save(file.Former); err != nil {
			t.Fatal(err)
		}
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeRecord(stored); err != nil || !reflect.DeepEqual(file, again) {
			t.Errorf("%+v became %+v, %v", file, again, err)
		}
	})
}
