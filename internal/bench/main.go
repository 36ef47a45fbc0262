// Command bench measures how long a whole table takes to get into the kernel, to change there and to go: by poise, by
// keepalived without checks, and by hand with ipvsadm and poise ipvs, which list it too; one after the other in a network
// namespace of its own each time.
//
//	bin/labrun bin/bench -poise bin/poise
//
// The kernel's own netlink monitor says when a program has sent its last message: that is the end of a load, whatever
// the program thinks. Times of an emulated processor mean nothing by themselves; ratios within one run do.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"poise/internal/lab/guest"
)

func main() {
	poise := flag.String("poise", "bin/poise", "the poise `binary`")
	sizes := flag.String("sizes", "500x10,1000x10,2000x20", "services x servers, several with commas")
	runs := flag.Int("runs", 3, "how often each is measured")
	table := flag.String("apply", "", "only put a table of one `size` into the kernel")
	flag.Parse()
	if *table != "" {
		if err := apply(parseScale(*table)); err != nil {
			fail(err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "poise-bench-")
	if err != nil {
		fail(err)
	}
	defer os.RemoveAll(dir)
	fmt.Printf("back end: %s\n", cmp.Or(os.Getenv(guest.BackendVar), "native"))
	for size := range strings.SplitSeq(*sizes, ",") {
		s := parseScale(size)
		var r results
		for range *runs {
			for _, c := range []contender{byHand{"ipvsadm"}, byHand{*poise + " ipvs"}, batches{}, keepalived{}, &daemon{binary: *poise}} {
				r.add(c.name(), measure(c, s, dir))
			}
		}
		r.print(s)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// scale is how large a table is.
type scale struct{ services, servers int }

func parseScale(size string) (s scale) {
	if _, err := fmt.Sscanf(size, "%dx%d", &s.services, &s.servers); err != nil || s.services < 1 || s.servers < 1 {
		fail(fmt.Errorf("size %q: want SERVICESxSERVERS", size))
	}
	return s
}

func (s scale) entries() int { return s.services * (1 + s.servers) }

// sample is one measured thing.
type sample struct {
	wall, cpu time.Duration
	messages  int
}
