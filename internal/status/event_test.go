package status

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestEvent(t *testing.T) {
	server := netip.MustParseAddrPort("10.0.0.7:80")
	for _, tt := range []struct {
		event       Event
		line, attrs string
	}{
		{Event{What: "running"}, "running", "[]"},
		{
			Event{What: "server down", Service: "web", Server: server, Cause: "status 503"},
			"server down: web 10.0.0.7:80 (status 503)", "[service=web server=10.0.0.7:80 cause=status 503]",
		},
		{
			Event{What: "became master", Router: "public", Cause: "no advert for 3.609s"},
			"became master: public (no advert for 3.609s)", "[router=public cause=no advert for 3.609s]",
		},
	} {
		t.Run(tt.event.What, func(t *testing.T) {
			tt.event.Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
			if got, want := tt.event.String(), "2026-01-02 03:04:05.000 INFO  "+tt.line; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if got := fmt.Sprint(tt.event.Attrs()); got != tt.attrs {
				t.Errorf("attributes %s, want %s", got, tt.attrs)
			}
		})
	}
}
