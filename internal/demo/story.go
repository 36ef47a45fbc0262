package main

import (
	"fmt"
	"syscall"
	"time"

	"poise/internal/lab"
)

// firstAct is what happens on one director, in order: each step begins where the one before it ended.
var firstAct = []step[*world]{
	{"spread", "poise starts, and requests follow the weights", spread},
	{"failure", "the web server of s3 is killed", failure},
	{"recovery", "the web server of s3 starts again", recovery},
	{"drain", "a server gets no new connections, and keeps those it has", drain},
	{"reload", "SIGHUP under load: s4 joins dr, s1 gets weight 4 there, tun retires", reload},
	{"restart", "poise stops and starts, and the kernel goes on balancing", restart},
}

func spread(w *world) string {
	w.configure(w.want)
	begin := time.Now()
	w.director.start()
	took := w.await(begin)
	w.say("all servers are checked and have their weights in the kernel %s after the start", ms(took))
	for _, m := range methods {
		w.say("%-3s  answers %v; each server saw the client's own address", m, w.answers(m))
	}
	return "1:2:3, exactly, by nat, dr and tun"
}

func failure(w *world) string {
	stop := w.keepAsking(methods...)
	defer stop()
	begin := time.Now()
	w.cause("failure", w.servers["s3"].web.Kill)
	w.want = w.want.with("s3", 0, methods...)
	took := w.await(begin)
	before := stop()
	w.say("weight 0 in the kernel after %s: of the checks, one every %v, two failed", ms(took), checkInterval)
	w.say("until then %v", before)
	w.say("then none: answers %v", w.answers(methods...))
	return fmt.Sprintf("weight 0 after %s, no failed request afterwards", ms(took))
}

func recovery(w *world) string {
	stop := w.keepAsking(methods...)
	defer stop()
	begin := time.Now()
	w.cause("recovery", w.servers["s3"].web.Restart)
	w.want = w.want.with("s3", 3, methods...)
	took := w.await(begin)
	meanwhile := stop()
	w.say("weight 3 in the kernel after %s", ms(took))
	meanwhile.flawless()
	w.say("none of %d requests meanwhile failed, the slowest took %s", meanwhile.requests, ms(meanwhile.slowest))
	w.say("then answers %v", w.answers(methods...))
	return fmt.Sprintf("weight 3 after %s, no failed request", ms(took))
}

func drain(w *world) string {
	v := w.newVisitor(lab.NAT)
	defer v.leave()
	drained, enabled := v.first.Server, w.want
	w.say("a visitor of nat has a connection to %s: that is the one to drain", drained)

	begin := time.Now()
	w.cause("drain", func() { w.tell("drain", lab.NAT, drained, "--reason", "new disk") })
	took := time.Since(begin)
	w.want = enabled.with(drained, 0, lab.NAT)
	w.holds()
	w.say("poise drain: done in %s, and weight 0 in the kernel by then", ms(took))
	w.say("answers %v", w.answers(lab.NAT))
	v.goesOn()
	w.say("the visitor's connection goes on")

	w.tell("enable", lab.NAT, drained)
	w.want = enabled
	w.holds()
	w.say("poise enable: answers %v", w.answers(lab.NAT))
	return fmt.Sprintf("weight 0 after %s, the established connection goes on", ms(took))
}

func reload(w *world) string {
	w.addServer(4)
	w.want = w.want.with("s4", 3, lab.DR).with("s1", 4, lab.DR)
	delete(w.want, lab.TUN)
	w.configure(w.want)

	stop := w.keepAsking(lab.NAT, lab.DR)
	defer stop()
	begin := time.Now()
	w.cause("reload", func() { must(w.director.daemon.Signal(syscall.SIGHUP)) })
	took := w.await(begin)
	meanwhile := stop()
	w.say("the kernel has the new table after %s, with the first check of s4", ms(took))
	meanwhile.flawless()
	w.say("none of %d requests to nat and dr meanwhile failed, the slowest took %s", meanwhile.requests, ms(meanwhile.slowest))
	w.say("dr answers %v", w.answers(lab.DR))
	return fmt.Sprintf("new table after %s, no failed request", ms(took))
}

func restart(w *world) string {
	v := w.newVisitor(lab.DR)
	defer v.leave()
	stop := w.keepAsking(lab.NAT, lab.DR)
	defer stop()
	watch := w.director.WatchIPVS()
	w.director.stop()
	w.director.start()
	// When all is well there is nothing to see: look until the checks have had their say and poise
	// has compared the kernel's table with its file once more (every 5 s).
	time.Sleep(7 * checkInterval)
	if writes := watch.Writes(); writes != 0 {
		must(&mismatch{"no IPVS write on netlink", fmt.Sprintf("%d; commands by number: %v", writes, watch.Counts())})
	}
	w.holds()
	w.say("0 IPVS writes on netlink")
	v.goesOn()
	meanwhile := stop()
	meanwhile.flawless()
	w.say("a connection from before goes on; none of %d requests meanwhile failed, the slowest took %s",
		meanwhile.requests, ms(meanwhile.slowest))

	// A daemon that had not come back would have written nothing either.
	begin := time.Now()
	w.servers["s1"].web.Kill()
	w.want = w.want.with("s1", 0, lab.NAT, lab.DR)
	took := w.await(begin)
	w.say("poise is at work again: s1 is killed, weight 0 after %s by %d writes", ms(took), watch.Writes())
	return fmt.Sprintf("0 IPVS writes, none of %d requests failed", meanwhile.requests)
}
