package director

import (
	"fmt"
	"log/slog"
	"net"
	"testing"

	"poise/internal/status"
)

// TestOutboxIsBounded: a parent that does not read costs a child neither time nor memory; what must not be lost is not.
func TestOutboxIsBounded(t *testing.T) {
	left, right := net.Pipe()
	defer right.Close()
	o := newOutbox(&conn{Conn: left}, slog.New(slog.DiscardHandler))
	for i := range 3 * ringSize {
		o.event(status.Event{What: fmt.Sprint(i)}, i == 0)
	}
	o.put(message{Kind: kindAnswer, ID: 7}, true)
	if n := o.missed(); n != 2*ringSize+1 {
		t.Errorf("%d lost, want %d", n, 2*ringSize+1)
	}
	go o.run()
	far := &conn{Conn: right}
	var got []message
	for range ringSize {
		m, err := far.receive()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	o.flush()
	if first, second, last := got[0], got[1], got[ringSize-1]; first.Event.What != "0" ||
		second.Event.What != fmt.Sprint(2*ringSize+2) || last.ID != 7 {
		t.Errorf("heard %v, %v, … %v; want the one to keep, the latest, and the answer", first.Event, second.Event, last)
	}
}
