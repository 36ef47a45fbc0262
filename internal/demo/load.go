package main

import (
	"fmt"
	"time"
)

// load is the client while something happens to the pair: it pings the address and asks for pages.
type load struct {
	pings    func() pings
	requests func() tally
}

// load begins, with a client that waits so long for a page.
func (w *pair) load(patience time.Duration) *load {
	c := w.client.HTTPClient()
	c.Timeout = patience
	return &load{
		pings:    keepPinging(w.client, pairVIP),
		requests: keepAsking(c, pairClientIP, pairVIP),
	}
}

func (l *load) end() {
	l.pings()
	l.requests()
}

// answers are who answers a few requests: each server must.
func (w *pair) answers() weights {
	c, got := w.client.HTTPClient(), weights{}
	for range 10 {
		answer, err := ask(c, pairClientIP, pairVIP)
		must(err)
		got[answer.Server]++
	}
	if got["s1"] == 0 || got["s2"] == 0 {
		must(&mismatch{"answers from s1 and s2", got.String()})
	}
	return got
}

// undisturbed judges a move in good order, from the new master's first advert to its announcement: next to nothing is
// lost. It returns how many requests failed.
func (l *load) undisturbed(w *pair, took, told time.Time) string {
	// A connection that is being made while the address moves breaks, as the new master does not know it. The client
	// makes one at a time.
	const underWay = 2
	p, t := l.pings(), l.requests()
	between("the client's outage", p.outage(), 0, 2*skew2/3) // one that let go first would cost a whole skew
	must(t.onlyDuring(took, told))
	if len(t.failures) > underWay {
		must(&mismatch{fmt.Sprintf("at most %d failed requests", underWay), t.String()})
	}
	w.say("%d of %d pings without an answer, for %s at most", p.lost(), len(p), ms(p.outage()))
	if len(t.failures) > 0 {
		w.say("%v, under way when the address moved; the slowest took %s", t, ms(t.slowest))
	} else {
		w.say("%v, the slowest took %s", t, ms(t.slowest))
	}
	return t.String()
}

// fate tells what became of the connection from before.
func (v *visitor) fate() string {
	now := v.next()
	if now == v.first {
		return "an established connection goes on"
	}
	return "an established connection broke, as directors do not share them; the next was served by " + now.Server
}
