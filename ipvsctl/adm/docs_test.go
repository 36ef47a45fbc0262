package adm

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsCommands: every command of "poise ipvs" that the pages show to be typed is one.
func TestDocsCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*/*.md") // tutorials, methods
	if err != nil {
		t.Fatal(err)
	}
	blocks, commands := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$"), 0
	for _, page := range append(pages, "../../docs/ipvsadm.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range blocks.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				words, ours := strings.CutPrefix(line, "poise ipvs ")
				if !ours {
					continue
				}
				commands++
				words, _, _ = strings.Cut(words, "<")
				words, _, _ = strings.Cut(words, ">")
				p, _, _ := offline("")
				if _, err := p.parse(strings.Fields(words)); err != nil {
					t.Errorf("%s: %s%v", page, line, err)
				}
			}
		}
	}
	if commands == 0 {
		t.Error("no commands")
	}
}
