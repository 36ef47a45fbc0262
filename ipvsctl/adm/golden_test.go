package adm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
	"poise/internal/lab/guest"
	"poise/ipvsctl"
)

// The recordings say what ipvsadm 1.31 printed and returned on a real kernel. They are never rewritten. A line's first
// character, its mark, says what the line is:
//
//	# key: value  in front: title, class, needs; else a comment
//	@ verb …      prepare the surroundings, see parseVerb
//	~ filter      change the output of all commands that follow, see parseFilter
//	$ command     words as in a shell; then, about it:
//	< > ! text    a line of standard input, standard output, standard error
//	? N           its exit status
//
// Instead of `> text` there is `>| text  |` where text ends in blanks, and `>- text` where no newline follows.
const recordings = "testdata/ipvsadm-1.31"

// recordedEtc has the files of names that were those of the machine then.
const recordedEtc = "testdata/etc"

// unmatched names the recordings which are not matched, and why. Only what the original does by accident, class quirk,
// may stand here.
var unmatched = map[string]string{}

// limit bounds what takes no time normally, in an emulated guest, too.
const limit = 30 * time.Second

func TestLabGolden(t *testing.T) {
	lab.NeedIPVS(t)
	replayAll(t, func(args []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
		return run(args, stdin, stdout, stderr, recordedEtc), nil
	})
}

// TestRecordings: all are there and make sense.
func TestRecordings(t *testing.T) {
	all := readRecordings(t)
	if len(all) != 89 {
		t.Errorf("%d recordings, want 89", len(all))
	}
	if len(unmatched) > 8 {
		t.Errorf("%d recordings are not matched, want 8 at most", len(unmatched))
	}
	for name := range unmatched {
		if !slices.ContainsFunc(all, func(r recording) bool { return r.name == name && r.class == "quirk" }) {
			t.Errorf("unmatched %s is no recording of class quirk", name)
		}
	}
}

func TestParseRecording(t *testing.T) {
	r, err := parseRecording("x", `# title: all there is
# class: quirk
# needs: no-ipvs
# a comment
~ s/\d+/N/
~ sort 1
@ sleep 0

$ ipvsadm -A  "a b"'c\'\ "\"" ""
< one
<
<| two  |
<- three
> out
>|  |c  |
! err
!- more
? 7
`)
	if err != nil {
		t.Fatal(err)
	}
	if r.class != "quirk" || r.needs != "no-ipvs" || len(r.steps) != 4 {
		t.Fatalf("%+v", r)
	}
	s := r.steps[3]
	if want := []string{"ipvsadm", "-A", `a bc\ "`, ""}; !slices.Equal(s.args, want) {
		t.Errorf("words %q, want %q", s.args, want)
	}
	if want := "one\n\ntwo  \nthree"; s.stdin != want {
		t.Errorf("standard input %q, want %q", s.stdin, want)
	}
	if want := (outcome{7, "out\n |c  \n", "err\nmore"}); s.want != want {
		t.Errorf("want %+v, want %+v", s.want, want)
	}
	out := "3\n22\nc1\nb\na"
	for _, s := range r.steps[:2] {
		out = s.filter(out)
	}
	if want := "N\nN\na\nb\ncN"; out != want {
		t.Errorf("filtered %q, want %q", out, want)
	}
	if f, err := parseFilter("head 2"); err != nil || f("a\nb\nc\n") != "a\nb\n" {
		t.Error("head 2:", err)
	}
}

func TestParseRecordingRefuses(t *testing.T) {
	const command = "$ ipvsadm -Ln\n? 0\n"
	for _, text := range []string{
		"", "# title: none\n", "# needs: luck\n" + command, "$ ipvsadm -Ln\n", "$ ipvsadm -Ln\n$ ipvsadm -C\n? 0\n", command + "? 0\n", "? 0\n", command + "@ sleep 1\n> late\n",
		command + "> cut off", command + ">- no newline\n> more\n", command + ">bad\n", command + ">| open\n", command + "+ text\n",
		"$ ipvsadm -Ln\n? 300\n", "$ ipvsadm -Ln\n? x\n", "$ ls\n? 0\n", "$ \n? 0\n", "$ ipvsadm 'x\n? 0\n", "$ ipvsadm \\\n? 0\n", "$ipvsadm\n? 0\n",
		"~ uniq\n" + command, "~ s/(/x/\n" + command, "~ s/a/b\n" + command, "~ sort\n" + command, "~ head -1\n" + command,
		"@ dance\n" + command, "@ sh\n" + command, "@ sleep soon\n" + command, "@ uid root\n" + command, "@ listen 80\n" + command,
		"@ syn 10.0.0.1:1\n" + command, "@ syn 10.0.0.1:1 10.0.0.2:1 x\n" + command, "@ udp 10.0.0.1:1 10.0.0.2:1\n" + command,
		"@ udp 10.0.0.1:1 10.0.0.2:1 1 x\n" + command, "@ udp 10.0.0.1:1 10.0.0.2:1 1 -2\n" + command, "@ udp 10.0.0.1:1 10.0.0.2:1 1 2 3\n" + command, "@ udp-data 10.0.0.1:1 10.0.0.2:1\n" + command,
	} {
		if r, err := parseRecording("x", text); err == nil {
			t.Errorf("%q is taken as %+v", text, r)
		}
	}
}

// recording is one case: its commands share a namespace.
type recording struct {
	name, class, needs string
	steps              []step
}

// step is one of: prepare, filter, args.
type step struct {
	line    int
	text    string // as written
	prepare func(*stage) error
	filter  func(string) string
	args    []string
	stdin   string
	want    outcome
}

// outcome is what came of a command.
type outcome struct {
	status         int
	stdout, stderr string
}

// untold is the status of a command before it is read.
const untold = -1

func readRecordings(t *testing.T) []recording {
	files, err := filepath.Glob(filepath.Join(recordings, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var all []recording
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r, err := parseRecording(strings.TrimSuffix(filepath.Base(file), ".txt"), string(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func parseRecording(name, text string) (recording, error) {
	r := recording{name: name}
	text, ended := strings.CutSuffix(text, "\n")
	if !ended {
		return r, fmt.Errorf("%s does not end in a newline", name)
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if err := r.add(i+1, line); err != nil {
			return r, fmt.Errorf("%s:%d: %q: %w", name, i+1, line, err)
		}
	}
	if last := r.last(); last == nil || last.want.status == untold {
		return r, fmt.Errorf("%s does not end in a command with its status", name)
	}
	return r, nil
}

// last is the command that a line is about, if it is about one.
func (r *recording) last() *step {
	if len(r.steps) == 0 || r.steps[len(r.steps)-1].args == nil {
		return nil
	}
	return &r.steps[len(r.steps)-1]
}

func (r *recording) add(n int, line string) error {
	if line == "" {
		return nil
	}
	mark, rest, last := line[0], line[1:], r.last()
	switch mark {
	case '#':
		return r.comment(rest)
	case '<', '>', '!', '?':
		if last == nil {
			return errors.New("is about no command")
		}
		return last.add(mark, rest)
	}
	if last != nil && last.want.status == untold {
		return errors.New("the command before has no status")
	}
	rest, blank := strings.CutPrefix(rest, " ")
	if !blank {
		return errors.New("no blank after the mark")
	}
	s, err := parseStep(mark, rest)
	s.line, s.text = n, line
	r.steps = append(r.steps, s)
	return err
}

func (r *recording) comment(text string) error {
	if len(r.steps) > 0 {
		return nil
	}
	key, value, _ := strings.Cut(text, ": ")
	switch key {
	case " class":
		r.class = value
	case " needs":
		if value != "no-ipvs" {
			return errors.New("unknown need")
		}
		r.needs = value
	}
	return nil
}

func parseStep(mark byte, text string) (s step, err error) {
	switch mark {
	case '@':
		s.prepare, err = parseVerb(text)
	case '~':
		s.filter, err = parseFilter(text)
	case '$':
		s.want.status = untold
		s.args, err = splitWords(text)
		if err == nil && (len(s.args) == 0 || !slices.Contains([]string{"ipvsadm", "ipvsadm-save", "ipvsadm-restore"}, s.args[0])) {
			err = errors.New("unknown program")
		}
	default:
		err = errors.New("unknown mark")
	}
	return s, err
}

// add adds what a line says about a command.
func (s *step) add(mark byte, rest string) error {
	into := map[byte]*string{'<': &s.stdin, '>': &s.want.stdout, '!': &s.want.stderr}[mark]
	if into == nil {
		status, err := strconv.ParseUint(strings.TrimPrefix(rest, " "), 10, 8)
		if err == nil && s.want.status != untold {
			err = errors.New("a second status")
		}
		s.want.status = int(status)
		return err
	}
	if *into != "" && !strings.HasSuffix(*into, "\n") {
		return errors.New("follows a line that was to be the last")
	}
	text, err := parsePayload(rest)
	*into += text
	return err
}

func parsePayload(rest string) (string, error) {
	if rest == "" {
		return "\n", nil
	}
	if text, ok := strings.CutPrefix(rest, " "); ok {
		return text + "\n", nil
	}
	if text, ok := strings.CutPrefix(rest, "- "); ok {
		return text, nil
	}
	if text, ok := strings.CutPrefix(rest, "| "); ok {
		if text, ok = strings.CutSuffix(text, "|"); ok {
			return text + "\n", nil
		}
	}
	return "", errors.New("unknown form of text")
}

// splitWords splits as a POSIX shell does where there is nothing to expand.
func splitWords(text string) (words []string, err error) {
	var word []byte
	in := false // a word has begun, if only with an empty quotation
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case c == '\\' && (quote == 0 || quote == '"' && i+1 < len(text) && strings.IndexByte("\"\\$`", text[i+1]) >= 0):
			if i++; i == len(text) {
				return nil, errors.New("ends in a backslash")
			}
			word, in = append(word, text[i]), true
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				words, word, in = append(words, string(word)), nil, false
			}
		default:
			word, in = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, errors.New("open quotation")
	}
	if in {
		words = append(words, string(word))
	}
	return words, nil
}

// parseFilter knows `s/RE/TEXT/`, which replaces every match by exactly TEXT; `head N`, which keeps N lines; and `sort N`,
// which sorts all lines but the first N.
func parseFilter(text string) (func(string) string, error) {
	if parts := strings.Split(text, "/"); len(parts) == 4 && parts[0] == "s" && parts[3] == "" {
		re, err := regexp.Compile(parts[1])
		return func(out string) string { return re.ReplaceAllLiteralString(out, parts[2]) }, err
	}
	verb, number, _ := strings.Cut(text, " ")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || verb != "sort" && verb != "head" {
		return nil, errors.New("unknown filter")
	}
	if verb == "head" {
		return func(out string) string {
			lines := slices.Collect(strings.Lines(out))
			return strings.Join(lines[:min(int(n), len(lines))], "")
		}, nil
	}
	return func(out string) string {
		text, ended := strings.CutSuffix(out, "\n")
		lines := strings.Split(text, "\n")
		slices.Sort(lines[min(int(n), len(lines)):])
		text = strings.Join(lines, "\n")
		if ended {
			text += "\n"
		}
		return text
	}, nil
}

// parseVerb knows how to prepare the surroundings. Sockets have the address and port given, and are closed with the case
// if not before.
//
//	sh COMMAND
//	listen ADDR                   accepts TCP
//	connect SRC DST               a connection that one of listen accepts
//	syn SRC DST                   the first packet of a connection, and no more
//	udp SRC DST BYTES [COUNT]     datagrams of that size
//	udp-data SRC DST TEXT         one datagram; \r and \n stand for control characters
//	uid N                         the next command is run by that user and group
//	sleep SECONDS
func parseVerb(text string) (func(*stage) error, error) {
	verb, rest, _ := strings.Cut(text, " ")
	switch verb {
	case "sh":
		if rest == "" {
			return nil, errors.New("no command")
		}
		return func(s *stage) error {
			s.host.Run("/bin/sh", "-c", rest)
			return nil
		}, nil
	case "listen":
		addr, err := netip.ParseAddrPort(rest)
		return func(s *stage) error { return s.listen(addr) }, err
	case "uid":
		uid, err := strconv.ParseUint(rest, 10, 31)
		return func(s *stage) error {
			s.uid = int(uid)
			return nil
		}, err
	case "sleep":
		seconds, err := strconv.ParseUint(rest, 10, 8)
		return func(*stage) error {
			time.Sleep(time.Duration(seconds) * time.Second)
			return nil
		}, err
	case "connect", "syn", "udp", "udp-data":
		return parseTraffic(verb, rest)
	}
	return nil, errors.New("unknown verb")
}

func parseTraffic(verb, text string) (func(*stage) error, error) {
	from, text, _ := strings.Cut(text, " ")
	to, rest, more := strings.Cut(text, " ")
	src, err := netip.ParseAddrPort(from)
	if err != nil {
		return nil, err
	}
	dst, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, err
	}
	switch {
	case verb == "connect" && !more:
		return func(s *stage) error { return s.connect(src, dst) }, nil
	case verb == "syn" && !more:
		return func(s *stage) error { return s.host.Do(func() error { return sendSYN(src, dst) }) }, nil
	case verb == "udp" && more:
		bytes, times, several := strings.Cut(rest, " ")
		if !several {
			times = "1"
		}
		size, err := strconv.ParseUint(bytes, 10, 16)
		if err != nil {
			return nil, err
		}
		count, err := strconv.ParseUint(times, 10, 16)
		return func(s *stage) error {
			return s.host.Do(func() error { return sendDatagrams(src, dst, make([]byte, size), int(count)) })
		}, err
	case verb == "udp-data" && more:
		data := []byte(strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(rest))
		return func(s *stage) error {
			return s.host.Do(func() error { return sendDatagrams(src, dst, data, 1) })
		}, nil
	}
	return nil, errors.New("too few arguments or too many")
}

// executor runs the program that a recording is about. It is called on a thread in the namespace of the case, with the
// rights that the program is to have.
type executor func(args []string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error)

func replayAll(t *testing.T, e executor) {
	all := readRecordings(t)
	// Without IPVS first: it is new then, as after a boot.
	slices.SortStableFunc(all, func(a, b recording) int { return strings.Compare(b.needs, a.needs) })
	for _, r := range all {
		t.Run(r.name, func(t *testing.T) {
			if r.sleeps() {
				t.Parallel()
			}
			if module := r.lacks(); module != "" {
				unload(t, module)
			}
			differences := r.replay(t, e)
			if reason := unmatched[r.name]; reason != "" {
				if len(differences) == 0 {
					t.Fatalf("matches, but is listed as unmatched: %s", reason)
				}
				t.Skipf("%d commands are not matched: %s", len(differences), reason)
			}
			for _, d := range differences {
				t.Error(d)
			}
		})
	}
}

// sleeps is whether a case may take its time beside others. None of them lists connections: those of all namespaces lie
// in one table, and a listing that is read in pieces may miss an entry, or have it twice, when others come and go.
func (r recording) sleeps() bool {
	return r.class == "stats" && slices.ContainsFunc(r.steps, func(s step) bool { return strings.HasPrefix(s.text, "@ sleep ") })
}

// lacks is the kernel module that must not be there, with those that depend on it.
func (r recording) lacks() string {
	if r.needs == "no-ipvs" {
		return "ip_vs"
	}
	// No recording is from a kernel with this scheduler, and one uses it to say so.
	if slices.ContainsFunc(r.steps, func(s step) bool { return slices.Contains(s.args, "twos") }) {
		return "ip_vs_twos"
	}
	return ""
}

// stage is where a case takes place.
type stage struct {
	t        *testing.T
	host     *lab.Host
	accepted chan io.Closer // connections
	uid      int            // of the next command
}

// replay returns how the results differ from those recorded.
func (r recording) replay(t *testing.T, e executor) (differences []string) {
	s := &stage{t: t, host: lab.New(t).Host("golden"), accepted: make(chan io.Closer)}
	size := "(size=4096)"
	if r.needs != "no-ipvs" {
		size = s.tableSize()
	}
	var filters []func(string) string
	for _, step := range r.steps {
		switch {
		case step.prepare != nil:
			if err := step.prepare(s); err != nil {
				t.Fatalf("%s:%d: %s: %v", r.name, step.line, step.text, err)
			}
		case step.filter != nil:
			filters = append(filters, step.filter)
		default:
			got, err := s.run(e, step)
			if err != nil {
				t.Fatalf("%s:%d: %s: %v", r.name, step.line, step.text, err)
			}
			got.stdout = strings.Replace(got.stdout, size, "(size=4096)", 1)
			for _, f := range filters {
				got.stdout, got.stderr = f(got.stdout), f(got.stderr)
			}
			want := step.want
			if r.class == "text" {
				want.stdout, want.stderr = anyText(want.stdout, got.stdout), anyText(want.stderr, got.stderr)
			}
			if got != want {
				differences = append(differences, fmt.Sprintf("%s.txt:%d: %s\n%s", filepath.Join(recordings, r.name), step.line, step.text, diff(want, got)))
			}
		}
	}
	return differences
}

// anyText is what is wanted of a stream where some text is wanted, but the program may say it in its own words.
func anyText(want, got string) string {
	if want != "" && got != "" {
		return got
	}
	return want
}

// tableSize is what this kernel's listings begin with, instead of the recorded kernel's 4096.
func (s *stage) tableSize() string {
	var info ipvsctl.Info
	if err := s.host.Do(func() error {
		c, err := ipvsctl.Open(s.t.Context())
		if err != nil {
			return err
		}
		defer c.Close()
		info, err = c.Info(s.t.Context())
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("(size=%d)", info.TableSize)
}

func (s *stage) run(e executor, step step) (outcome, error) {
	var status int
	var stdout, stderr bytes.Buffer
	err := s.host.Do(func() (err error) {
		if s.uid != 0 {
			if err := become(s.uid); err != nil {
				return err
			}
		}
		status, err = e(step.args, strings.NewReader(step.stdin), &stdout, &stderr)
		return err
	})
	s.uid = 0
	return outcome{status, stdout.String(), stderr.String()}, err
}

// become gives the calling thread, and no other, to a user and the group of the same number. There is no way back: the
// thread must end afterwards. The user last, as it is root who may do the rest.
func become(uid int) error {
	id := uintptr(uid)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); errno != 0 {
		return os.NewSyscallError("setresgid", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	return nil
}

// keep closes c at the end of the case.
func (s *stage) keep(c io.Closer) { s.t.Cleanup(func() { c.Close() }) }

func (s *stage) listen(addr netip.AddrPort) error {
	l, err := s.host.Listen("tcp", addr.String())
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	s.t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			select {
			case s.accepted <- c:
			case <-s.t.Context().Done():
				c.Close()
			}
		}
	})
	return nil
}

// connect returns when both ends know of the connection: then IPVS has seen all of the handshake.
func (s *stage) connect(src, dst netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	c, err := s.host.Dial(ctx, "tcp", src.String(), dst.String())
	if err != nil {
		return err
	}
	s.keep(c)
	select {
	case c := <-s.accepted:
		s.keep(c)
		return nil
	case <-ctx.Done():
		return errors.New("nobody accepted")
	}
}

// sendSYN closes the socket before it is time to repeat the packet. Closing sends none: there is no connection yet.
func sendSYN(src, dst netip.AddrPort) error {
	fd, err := openSocket(unix.SOCK_STREAM|unix.SOCK_NONBLOCK, src)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(dst)); err != unix.EINPROGRESS {
		return fmt.Errorf("connect without waiting: %v", err)
	}
	return nil
}

func sendDatagrams(src, dst netip.AddrPort, data []byte, count int) error {
	fd, err := openSocket(unix.SOCK_DGRAM, src)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := sockaddr(dst)
	for range count {
		if err := unix.Sendto(fd, data, 0, to); err != nil {
			return err
		}
	}
	return nil
}

// openSocket opens a socket in the calling thread's namespace.
func openSocket(kind int, src netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if src.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, sockaddr(src)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// unload takes a module, and those that depend on it, from the kernel and has every modprobe fail, until the test ends.
// Where the kernel is not the lab's own, nothing is taken from it.
func unload(t *testing.T, module string) {
	switch guest.Backend(os.Getenv(guest.BackendVar)) {
	case guest.KVM, guest.TCG:
	default:
		if module == "ip_vs_twos" && new(ipvsctl.Modules).Scheduler("twos") != nil {
			return // there is none anyway
		}
		t.Skipf("needs a kernel without %s", module)
	}
	loaded, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	var names []string // what depends on others first
	for line := range strings.Lines(string(loaded)) {
		name, _, _ := strings.Cut(line, " ")
		if strings.HasPrefix(name, module+"_") {
			names = append(names, name)
		}
	}
	if strings.Contains("\n"+string(loaded), "\n"+module+" ") {
		names = append(names, module)
	}
	t.Cleanup(func() {
		for _, name := range slices.Backward(names) {
			if out, err := exec.Command("modprobe", name).CombinedOutput(); err != nil {
				t.Errorf("modprobe %s: %v\n%s", name, err, out)
			}
		}
	})
	modprobe, err := exec.LookPath("modprobe")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/bin/false", modprobe, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount /bin/false over %s: %v", modprobe, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(modprobe, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", modprobe, err)
		}
	})
	for _, name := range names {
		// Namespaces that were deleted a moment ago may still hold it.
		lab.Eventually(t, limit, func() error {
			return os.NewSyscallError("delete_module "+name, unix.DeleteModule(name, 0))
		})
	}
}

// diff shows two results as a recording would, without the lines in front and at the end in which they agree.
func diff(want, got outcome) string {
	w, g := want.lines(), got.lines()
	for len(w) > 0 && len(g) > 0 && w[0] == g[0] {
		w, g = w[1:], g[1:]
	}
	for len(w) > 0 && len(g) > 0 && w[len(w)-1] == g[len(g)-1] {
		w, g = w[:len(w)-1], g[:len(g)-1]
	}
	for i, line := range w {
		w[i] = "want " + line
	}
	for i, line := range g {
		g[i] = "got  " + line
	}
	return strings.Join(append(w, g...), "\n")
}

func (r outcome) lines() []string {
	lines := []string{fmt.Sprint("? ", r.status)}
	for _, stream := range []struct{ mark, text string }{{">", r.stdout}, {"!", r.stderr}} {
		for line := range strings.Lines(stream.text) {
			text, ended := strings.CutSuffix(line, "\n")
			switch {
			case !ended:
				lines = append(lines, stream.mark+"- "+text)
			case strings.TrimRight(text, " \t\r") != text:
				lines = append(lines, stream.mark+"| "+text+"|")
			default:
				lines = append(lines, stream.mark+" "+text)
			}
		}
	}
	return lines
}
