package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const unitName = "poise-realserver.service"

// install has systemd call apply with the same flags at each boot.
func (a *realserverArgs) install(cmd *cobra.Command) error {
	poise, err := os.Executable()
	if err != nil {
		return err
	}
	words := []string{poise, "realserver", "apply"}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		switch list, isList := f.Value.(pflag.SliceValue); {
		case f.Name == "persist" || f.Name == "unit-dir":
			return
		case f.Name == "config" || f.Name == "runtime-dir":
			if values[0], err = filepath.Abs(a.file); f.Name == "runtime-dir" {
				values[0], err = filepath.Abs(a.runtimeDir)
			}
		case isList:
			values = list.GetSlice()
		}
		for _, value := range values {
			words = append(words, "--"+f.Name+"="+value)
		}
	})
	if err != nil {
		return err
	}
	for i, word := range words {
		words[i] = unitWord(word)
	}
	unit := fmt.Sprintf(`# Written by "poise realserver apply --persist"; "poise realserver undo" removes it.
[Unit]
Description=this host as a real server
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%s
RuntimeDirectory=poise
RuntimeDirectoryPreserve=yes

[Install]
WantedBy=multi-user.target
`, strings.Join(words, " "))
	path := a.unitPath()
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		return fmt.Errorf("unit: %w", err)
	}
	link := a.unitLink()
	err = os.MkdirAll(filepath.Dir(link), 0o755)
	if err == nil {
		err = os.Symlink(path, link)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("unit: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  applies it again at each boot\n", path)
	return a.tellSystemd()
}

// remind says that a unit goes on applying what undo has taken away in part.
func (a *realserverArgs) remind(cmd *cobra.Command) error {
	path := a.unitPath()
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("unit: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  applies all of it again at the next boot: apply --persist what is to stay\n", path)
	return nil
}

// uninstall removes the unit, if there is one.
func (a *realserverArgs) uninstall() error {
	path := a.unitPath()
	err := errors.Join(remove(a.unitLink()), remove(path))
	if err != nil {
		return fmt.Errorf("unit: %w", err)
	}
	return a.tellSystemd()
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (a *realserverArgs) unitPath() string { return filepath.Join(a.unitDir, unitName) }

// unitLink is what "systemctl enable" makes.
func (a *realserverArgs) unitLink() string {
	return filepath.Join(a.unitDir, "multi-user.target.wants", unitName)
}

// tellSystemd has it read the units again, if it is there and reads them from where ours is.
func (a *realserverArgs) tellSystemd() error {
	if _, err := os.Stat("/run/systemd/system"); err != nil || a.unitDir != defaultUnitDir {
		return nil
	}
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl daemon-reload: %w: %s", err, out)
	}
	return nil
}

// unitWord is a word of a command line as a unit has it.
func unitWord(word string) string {
	word = strings.NewReplacer("%", "%%", "$", "$$").Replace(word)
	if strings.ContainsAny(word, " \t\"'\\;") {
		return strconv.Quote(word)
	}
	return word
}
