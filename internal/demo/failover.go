package main

import (
	"fmt"
	"slices"
	"time"

	"poise/internal/lab"
)

// secondAct is what happens on two directors that share an address.
var secondAct = []step[*pair]{
	{"pair", "lb1 starts with examples/pair.toml and becomes master, lb2 joins as its backup", bothStart},
	{"hand-over", "poise failover on lb1, for planned work: lb2 takes over", handOver},
	{"undo", "poise failover --undo: lb1, the better one, takes the address back", undo},
	{"power-off", "lb1 is cut off and all its processes are killed", powerOff},
	{"return", "lb1 boots again", comeBack},
}

func bothStart(w *pair) string {
	begin := time.Now()
	w.lb1.start()
	took := w.elected(w.awaitTable(w.lb1, begin), begin)
	told := w.await(announcement, "lb1", begin)
	w.say("it tells the neighbours %s later", ms(told.at.Sub(took.at)))
	w.spoil("pair", func() { w.lb2.keepByHand(pairVIP) })
	begin2 := time.Now()
	w.lb2.start()
	table := w.awaitTable(w.lb2, begin2)
	w.heldBy("lb1")
	must(w.seen(begin).only("lb1", advert, release, announcement))
	w.say("lb2 has the same in its kernel %s after its start, hears lb1, and is silent", ms(table.whole.Sub(begin2)))
	w.say("who has %s? lb1 alone; requests are answered by %v", pairVIP, w.answers())
	return "lb1 alone answers for the address"
}

func handOver(w *pair) string {
	l := w.load(limit)
	defer l.end()
	v := newVisitor(w.client, pairClientIP, pairVIP)
	defer v.leave()
	begin := time.Now()
	w.cause("hand-over", func() { w.lb1.tell("failover", pairRouter, "--reason", "new disk") })
	left := w.await(release, "lb1", begin)
	took := w.await(advert, "lb2", left.at)
	told := w.await(announcement, "lb2", left.at)
	w.heldBy("lb2")
	must(w.seen(left.at).only("lb2", announcement))
	wait := took.at.Sub(left.at)
	between("lb2's first advert after lb1's priority 0", wait, skew2, skew2+late())
	w.say("lb1 says that it leaves (priority 0), and serves on; lb2 takes over %s later, its skew is %s", ms(wait), ms(skew2))
	w.say("lb2 tells the neighbours %s after its first advert; lb1 announced nothing more", ms(told.at.Sub(took.at)))
	w.say("who has %s? lb2 alone", pairVIP)
	result := l.undisturbed(w, took.at, told.at)
	w.say("%s", v.fate())
	return "lb2 has the address, " + result
}

func undo(w *pair) string {
	l := w.load(limit)
	defer l.end()
	begin := time.Now()
	w.lb1.tell("failover", pairRouter, "--undo")
	w.spoil("undo", func() { w.lb2.keepByHand(pairVIP) })
	took := w.await(advert, "lb1", begin)
	wait := took.at.Sub(begin)
	between("lb1's first advert after the undo", wait, down1, down1+late())
	w.say("lb1 hears nobody better for %s, and takes over %s after the command", ms(down1), ms(wait))
	return w.preempted(l, took)
}

func powerOff(w *pair) string {
	l := w.load(2 * time.Second) // TCP repeats what is lost after 1, 3 and 7 s: who waits longer sees the recovery late
	defer l.end()
	v := newVisitor(w.client, pairClientIP, pairVIP)
	defer v.leave()
	w.await(advert, "lb1", time.Now()) // the outage is longest just after one
	w.cause("power-off", func() { w.lb1.SetLink("eth0", false) })
	begin := time.Now()
	w.lb1.kill()
	w.cause("power-off", w.lb1.forget)
	adverts := w.seen(time.Time{}).of(advert).by("lb1")
	last := adverts[len(adverts)-1]
	took := w.await(advert, "lb2", begin)
	told := w.await(announcement, "lb2", begin)
	w.heldBy("lb2")
	must(w.seen(begin).only("lb2", advert, release, announcement))
	silence := told.at.Sub(last.at)
	between("lb2's first announcement after lb1's last advert", silence, down2, down2+late())
	w.say("lb1 is gone %s after an advert, without a word", ms(begin.Sub(last.at)))
	w.say("lb2 takes over %s after that advert, its master-down interval is %s, and tells the neighbours %s later",
		ms(took.at.Sub(last.at)), ms(down2), ms(told.at.Sub(took.at)))
	w.say("who has %s? lb2 alone", pairVIP)
	p, t := l.pings(), l.requests()
	between("the client's outage", p.outage(), down2-advertInterval, down2+late())
	must(t.onlyDuring(last.at, told.at))
	w.say("nobody answered the client's pings for %s; %v, none since", ms(p.outage()), t)
	w.say("%s", v.fate())
	return fmt.Sprintf("lb2 has the address %s after lb1's last advert", ms(silence))
}

func comeBack(w *pair) string {
	l := w.load(limit)
	defer l.end()
	w.lb1.SetLink("eth0", true)
	begin := time.Now()
	w.cause("return", w.lb1.start)
	took := w.elected(w.awaitTable(w.lb1, begin), begin)
	result := w.preempted(l, took)
	want := turns{"lb1", "lb2", "lb1", "lb2", "lb1"}
	if got := w.seen(time.Time{}).of(announcement).hosts(); !slices.Equal(got, want) {
		must(&mismatch{"announcements in turn by " + want.String(), got.String()})
	}
	w.say("since the beginning: announcements by %v, none out of turn", want)
	return result
}

// elected waits for lb1's first advert after its start, and judges that it stood for election only with its table in
// the kernel.
func (w *pair) elected(t tableTimes, begin time.Time) sighting {
	first := w.await(advert, "lb1", begin)
	if first.at.Before(t.whole) {
		must(&mismatch{"lb1's first advert after its table was whole", ms(t.whole.Sub(first.at)) + " before"})
	}
	between("lb1's first advert after it had a table", first.at.Sub(t.empty), down1, down1+late())
	w.say("lb1's table is in the kernel, its servers are checked %s after the start", ms(t.whole.Sub(begin)))
	w.say("it hears nobody better for %s from its table on, and takes over: first advert %s after the start", ms(down1), ms(first.at.Sub(begin)))
	return first
}

// preempted judges that lb1 takes the address from a living lb2 in good order, from its first advert on.
func (w *pair) preempted(l *load, took sighting) string {
	told := w.await(announcement, "lb1", took.at)
	w.heldBy("lb1")
	must(w.seen(told.at).only("lb1", announcement, release))
	w.say("lb1 tells the neighbours %s after its first advert; lb2 announces nothing more", ms(told.at.Sub(took.at)))
	w.say("who has %s? lb1 alone", pairVIP)
	return "lb1 has the address, " + l.undisturbed(w, took.at, told.at)
}

// late is how much later than its time something may happen. An emulated machine may stand still for a second, and a
// backup that was not awake when the time came listens for another interval.
func late() time.Duration {
	if lab.Emulated() {
		return 2500 * time.Millisecond
	}
	return 250 * time.Millisecond
}

// between judges that a duration is within bounds. The witness sees a frame a moment before others act on it.
func between(what string, got, least, most time.Duration) {
	const early = 5 * time.Millisecond
	if got < least-early || got > most {
		must(&mismatch{fmt.Sprintf("%s within %s to %s", what, ms(least), ms(most)), ms(got)})
	}
}
