package finding

import (
	"strings"
	"testing"
)

func TestPrint(t *testing.T) {
	var out strings.Builder
	err := Print(&out, []Finding{
		{How: Computed, What: "the kernel has IPVS", Seen: "version 1.2.1"},
		{How: Probed, What: "server answers", Severity: Fault, Seen: "two\nlines", Want: "an answer", Remedy: "look at it", Page: "docs/x.md"},
		{How: Observed, What: "silence", Severity: Warning, Seen: "a word", Want: "none", Remedy: "hush"},
	})
	want := `ok       computed  the kernel has IPVS  version 1.2.1
FAULT    probed    server answers       two lines
    want: an answer
    remedy: look at it
    see: docs/x.md
warning  observed  silence              a word
    want: none
    remedy: hush
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s", err, out.String())
	}
}
