// Command demo shows on small networks what poise does for the services of a director, and for an address that two
// directors share. It judges each step by what the kernels hold, what passes the wire and what a client gets, never
// by poise's own words.
//
//	bin/labrun bin/demo -poise bin/poise
//
// Exit status 0 says that the whole story came true, 1 names the step that did not. DEMO_SABOTAGE=STEP
// leaves out or spoils what that step is about: a demo that does not fail there proves nothing.
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

// options are what the command line and the environment say.
type options struct {
	poise    string // the binary
	example  string // the configuration of the pair
	sabotage string // the step whose cause is left out
	act      int    // the only one to play, 0 for all
}

func main() {
	var o options
	flag.StringVar(&o.poise, "poise", "bin/poise", "the poise `binary`")
	flag.StringVar(&o.example, "example", "examples/pair.toml", "the `configuration` that the pair runs")
	flag.IntVar(&o.act, "act", 0, "play only this act, 1 or 2")
	colour := flag.String("color", "auto", "colour the output: auto, always or never; a guest does not see the terminal, there auto is never")
	flag.Parse()
	o.sabotage = os.Getenv("DEMO_SABOTAGE")
	out := screen{os.Stdout, *colour == "always" || *colour == "auto" && isTerminal(os.Stdout)}
	if err := run(out, o); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run tells the story up to its end or its first failure, and leaves nothing behind.
func run(out screen, o options) error {
	if names := stepNames(); o.sabotage != "" && !slices.Contains(names, o.sabotage) {
		return fmt.Errorf("DEMO_SABOTAGE=%s: must be one of %s", o.sabotage, strings.Join(names, ", "))
	}
	out.introduce()
	p := &play{screen: out, stalls: watchStalls()}
	if o.act != 2 {
		if err := perform(p, &world{stage: stage{screen: out, options: o}}, 1, firstAct); err != nil {
			return err
		}
	}
	if o.act != 1 {
		if err := perform(p, &pair{stage: stage{screen: out, options: o}}, 1+len(firstAct), secondAct); err != nil {
			return err
		}
	}
	out.end(p.summary.String(), p.took)
	return nil
}

func stepNames() []string {
	var names []string
	for _, s := range firstAct {
		names = append(names, s.name)
	}
	for _, s := range secondAct {
		names = append(names, s.name)
	}
	return names
}

// play is what has come true so far.
type play struct {
	screen
	stalls  *stalls
	summary strings.Builder
	took    time.Duration
}

// scene is where an act takes place: a network with the programs on it.
type scene interface {
	introduce()
	build() // poise does not run yet
	lastWords() string
	close() error
}

// step is one thing that poise does. run judges it and returns the result in a few words.
type step[S scene] struct {
	name, title string
	run         func(S) string
}

// perform plays an act, whose first step has this number.
func perform[S scene](p *play, s S, number int, act []step[S]) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	s.introduce()
	if err := attempt(s.build); err != nil {
		return fmt.Errorf("set-up: %w", err)
	}
	for i, st := range act {
		p.title(number+i, st.name, st.title)
		begin := time.Now()
		var result string
		if err := attempt(func() { result = st.run(s) }); err != nil {
			p.failure(err, s.lastWords()+p.stalls.String())
			return fmt.Errorf("step %d (%s) failed", number+i, st.name)
		}
		took := time.Since(begin)
		p.took += took
		fmt.Fprintf(&p.summary, "  %s %-9s  %4.1f s  %s\n", p.check(), st.name, took.Seconds(), result)
	}
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
