package main

import (
	"log/slog"
	"strings"
	"testing"
)

func TestLog(t *testing.T) {
	for _, tt := range []struct {
		name, journal, level string
		want                 string
	}{
		{"terminal", "", "", `
level=INFO msg="server up" service=web
level=WARN msg="server down" service=web cause="GET /: status 503"
level=ERROR msg=refused service=web
`},
		{"journal", "8:1234", "", `
<6>msg="server up" service=web
<4>msg="server down" service=web cause="GET /: status 503"
<3>msg=refused service=web
`},
		{"journal, all of it", "8:1234", "debug", `
<7>msg="check failed" service=web level=DEBUG
<6>msg="server up" service=web
<4>msg="server down" service=web cause="GET /: status 503"
<3>msg=refused service=web
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("JOURNAL_STREAM", tt.journal)
			t.Setenv("POISE_LOG", tt.level)
			var lines strings.Builder
			log := newLogger(&lines).With("service", "web")
			log.Debug("check failed", "level", slog.LevelDebug)
			log.Info("server up")
			log.Warn("server down", "cause", "GET /: status 503")
			log.Error("refused")
			got := "\n"
			for line := range strings.Lines(lines.String()) {
				if tt.journal == "" { // begins with the time, which is not always the same
					_, line, _ = strings.Cut(line, " ")
				}
				got += line
			}
			if got != tt.want {
				t.Errorf("lines:%swant:%s", got, tt.want)
			}
		})
	}
}
