package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"poise/config"
)

// TestDocsConfigurations: what the pages show as a whole file passes "poise check". A part of one is called ```toml fragment;
// docs/config.md has its own test, as it shows a bad file.
func TestDocsConfigurations(t *testing.T) {
	files := 0
	err := filepath.WalkDir("../../docs", func(page string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(page) != ".md" || filepath.Base(page) == "config.md" {
			return err
		}
		text, err := os.ReadFile(page)
		for _, block := range regexp.MustCompile("(?ms)^```toml\n(.*?)^```$").FindAllSubmatch(text, -1) {
			if file := string(block[1]); strings.Contains(file, "[[service]]") || strings.Contains(file, "[[router]]") {
				files++
				if _, err := config.Parse(page, block[1], nil, os.ReadFile); err != nil {
					t.Errorf("%v\nin\n%s", err, file)
				}
			}
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, error %v", files, err)
	}
}
