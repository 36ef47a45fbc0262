package adm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"poise/ipvsctl"
)

const (
	longestLine = 64 << 10 // bytes
	mostPending = 4096     // changes that wait for others to go with them
)

// restorer carries out a command a line. Changes of the table go to the kernel in batches, but before anything else that
// is to be done, and while more input is waited for none is held back.
type restorer struct {
	*program
	ops      []ipvsctl.Op
	commands []optionID // of the ops
	status   int        // of the last line
}

// restore is -R. A line that fails its checks ends it; what the kernel refuses, and an unknown option, does not.
func (p *program) restore(ctx context.Context) int {
	r := restorer{program: p}
	lines := newLines(p.in)
	for {
		if len(r.ops) == mostPending || !lines.waiting() {
			r.apply(ctx)
			p.out.Flush()
		}
		words, err := lines.next()
		switch {
		case err == io.EOF:
			return r.status
		case err != nil:
			return p.fail(err)
		case len(words) == 0:
			continue
		}
		if ends := r.line(ctx, words); ends {
			return r.status
		}
	}
}

// line carries out one line, or has it wait for others.
func (r *restorer) line(ctx context.Context, words []string) (ends bool) {
	request, err := r.parseLine(words)
	if err == nil {
		if op, ok := request.op(); ok {
			r.ops, r.commands = append(r.ops, op), append(r.commands, request.command)
			return false
		}
	}
	r.apply(ctx)
	if err == nil {
		err = r.do(ctx, &request)
	}
	r.status = r.fail(err)
	f, failed := errors.AsType[*failure](err)
	return failed && f.ends || request.command == optHelp || request.command == optVersion
}

// apply carries out what waits.
func (r *restorer) apply(ctx context.Context) {
	for i, err := range r.kernel.Apply(ctx, r.ops) {
		r.status = r.fail(refused(r.commands[i], err))
	}
	r.ops, r.commands = r.ops[:0], r.commands[:0]
}

// parseLine is parse for a line of input, which may ask for everything but more input.
func (p *program) parseLine(words []string) (request, error) {
	r, err := p.parse(words)
	if err == nil && r.command == optRestore {
		err = errNoCommand
	}
	return r, err
}

// restoreAtomic is -R --atomic: it reads everything first, and then changes what differs. Comments are lines that begin
// with '#'.
func (p *program) restoreAtomic(ctx context.Context) int {
	want, errs := p.readTable()
	for _, err := range errs {
		fmt.Fprintln(p.err, err)
	}
	if len(errs) > 0 {
		fmt.Fprintln(p.err, "Nothing was changed")
		return 2
	}
	have, err := p.kernel.Table(ctx)
	if err != nil {
		return p.fail(refused(optRestore, err))
	}
	status := 0
	for _, err := range p.kernel.Apply(ctx, ipvsctl.Diff(have, want)) {
		if err != nil {
			fmt.Fprintln(p.err, err)
			status = 255
		}
	}
	return status
}

// readTable reads the table that the input makes of an empty one, or all that is wrong with it.
func (p *program) readTable() (table ipvsctl.Table, errs []error) {
	table = make(ipvsctl.Table)
	lines := newLines(p.in)
	for {
		words, err := lines.next()
		if err == io.EOF {
			return table, errs
		}
		broken := err != nil // what follows is not where a line begins
		if err == nil && len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			err = p.addLine(table, words)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", lines.number, err))
		}
		if broken {
			return table, errs
		}
	}
}

func (p *program) addLine(table ipvsctl.Table, words []string) error {
	r, err := p.parseLine(words)
	if err == errNoCommand {
		return fmt.Errorf("%q is no command", words[0])
	}
	if err != nil {
		return err
	}
	if r.command == optClear {
		clear(table)
		return nil
	}
	op, ok := r.op()
	if !ok {
		return fmt.Errorf("%q changes no table: --atomic takes -A, -E, -D, -a, -e, -d and -C", words[0])
	}
	if err := table.Apply(op); err != nil {
		return errors.New(wording(r.command, err))
	}
	return nil
}

// lines are the words of each line of an input.
type lines struct {
	in     *bufio.Reader
	number int      // of the line that was read last
	words  []string // used again and again
}

func newLines(in io.Reader) *lines { return &lines{in: bufio.NewReaderSize(in, longestLine)} }

// waiting reports whether the next line has come already.
func (l *lines) waiting() bool {
	b, _ := l.in.Peek(l.in.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// next returns the words of the next line, without a leading "ipvsadm", or io.EOF. Nothing quotes a blank. They are good
// until the next call.
func (l *lines) next() ([]string, error) {
	line, err := l.in.ReadSlice('\n')
	l.number++
	switch {
	case err == bufio.ErrBufferFull:
		return nil, refuse("line %d has more than %d bytes", l.number, longestLine)
	case err == io.EOF && len(line) > 0: // without a newline
	case err != nil:
		return nil, err
	}
	l.words = l.words[:0]
	start, text := 0, string(line)+"\n"
	for i := range len(text) {
		switch text[i] {
		case ' ', '\t', '\r', '\n':
			if start < i {
				l.words = append(l.words, text[start:i])
			}
			start = i + 1
		}
	}
	if len(l.words) > 0 && l.words[0] == "ipvsadm" {
		return l.words[1:], nil
	}
	return l.words, nil
}
