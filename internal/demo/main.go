// Command demo shows on a small network what poise does for the services of a director, and
// judges each step by what the kernel holds and what a client gets, never by poise's own words.
//
//	bin/labrun bin/demo -poise bin/poise
//
// Exit status 0 says that the whole story came true, 1 names the step that did not. DEMO_SABOTAGE=STEP
// leaves out what that step is about: a demo that does not fail there proves nothing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	poise := flag.String("poise", "bin/poise", "the poise `binary`")
	colour := flag.String("color", "auto", "colour the output: auto, always or never; a guest does not see the terminal, there auto is never")
	flag.Parse()
	out := screen{os.Stdout, *colour == "always" || *colour == "auto" && isTerminal(os.Stdout)}
	if err := run(out, *poise, os.Getenv("DEMO_SABOTAGE")); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run tells the story up to its end or its first failure, and leaves nothing behind.
func run(out screen, poise, sabotage string) (err error) {
	var names []string
	for _, s := range story {
		names = append(names, s.name)
	}
	if sabotage != "" && !slices.Contains(names, sabotage) {
		return fmt.Errorf("DEMO_SABOTAGE=%s: must be one of %s", sabotage, strings.Join(names, ", "))
	}

	w := &world{screen: out, poise: poise, sabotage: sabotage}
	defer func() { err = errors.Join(err, w.close()) }()
	out.introduce()
	if err := attempt(w.build); err != nil {
		return fmt.Errorf("set-up: %w", err)
	}
	begin := time.Now()
	var summary strings.Builder
	for i, s := range story {
		out.title(i+1, s)
		stepBegin := time.Now()
		var result string
		if err := attempt(func() { result = s.run(w) }); err != nil {
			out.failure(err, w.lastWords())
			return fmt.Errorf("step %d (%s) failed", i+1, s.name)
		}
		fmt.Fprintf(&summary, "  %s %-8s  %4.1f s  %s\n", out.check(), s.name, time.Since(stepBegin).Seconds(), result)
	}
	out.end(summary.String(), time.Since(begin))
	return nil
}

// must ends the step with err, as the lab's own methods do: so a step reads as what happens, in order.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// attempt runs f and returns the error by which must or the lab has ended it.
func attempt(f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case runtime.Error:
			panic(r)
		case error:
			err = r
		default:
			panic(r)
		}
	}()
	f()
	return nil
}
