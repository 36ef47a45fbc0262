package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// TestDocsPages: the pages that findings refer to are there, with the headings after the "#".
func TestDocsPages(t *testing.T) {
	reference := regexp.MustCompile(`"docs/([^"#]+)#?([^"]*)"`)
	found := 0
	err := filepath.WalkDir("../../internal", func(source string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(source) != ".go" || strings.HasSuffix(source, "_test.go") {
			return err
		}
		code, err := os.ReadFile(source)
		for _, match := range reference.FindAllStringSubmatch(string(code), -1) {
			found++
			page := strings.Replace(match[1], "%v", "dr", 1) // one of the methods
			text, err := os.ReadFile(filepath.Join("../../docs", page))
			if err != nil {
				t.Errorf("%s: %v", source, err)
			}
			if match[2] != "" && !slices.Contains(headings(string(text)), match[2]) {
				t.Errorf("%s: docs/%s has no heading %q", source, page, match[2])
			}
		}
		return err
	})
	if err != nil || found < 8 {
		t.Errorf("%d references, error %v", found, err)
	}
}

// headings are those of a page as links have them.
func headings(page string) (all []string) {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "#") {
			words := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#"))), "")
			all = append(all, strings.ReplaceAll(words, " ", "-"))
		}
	}
	return all
}
