package adm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"poise/ipvsctl"
)

// offline is a program without a kernel and without a name server.
func offline(input string) (p *program, out, errs *bytes.Buffer) {
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	return &program{
		name: "ipvsadm", in: strings.NewReader(input), out: bufio.NewWriter(out), err: errs,
		names: names{etc: "testdata/etc", ask: func(string) (netip.Addr, bool) { return netip.Addr{}, false }},
	}, out, errs
}

// What a command line asks for, or why not. The recordings have many more; these are the ones on which a whole rule hangs.
func TestParse(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"-A -t 10.0.0.1:80", "add 10.0.0.1:80 scheduler wlc"},
		{"-A -u www:domain -s rr", "add 192.0.2.80:53/udp scheduler rr"},
		{"-a -t 10.0.0.1:80 -r 10.1:8080 -m -w 3", "add 10.0.0.1:80 10.0.0.1:8080 nat weight 3"},
		{"-a -t 10.0.0.1:80 -r 10.1:8080 -w 3", "add 10.0.0.1:80 10.0.0.1:80 dr weight 3"},
		{"-amr 10.2 -f7", "add mark 7 10.0.0.2:0 nat weight 1"},
		{"-a -m -r 10.2 -t 10.1:80", "add 10.0.0.1:80 10.0.0.2:0 nat weight 1"}, // the port was not known yet
		{"-d -t 10.1:80 -r 10.2:8080", "remove 10.0.0.1:80 10.0.0.2:8080"},
		{"-Dt www:http", "remove 192.0.2.80:80"},
		{"-D -f 4294967295 -6", "remove mark 0xffffffff ipv6"},
		{"-a -t [2001:db8::1]:80 -r 10.2 -i --tun-type gue --tun-port 6080 --tun-csum", "add [2001:db8::1]:80 10.0.0.2:80 tun weight 1 gue port 6080 checksum full"},
		{"-a -f 1 -r 10.2 -x 9 -y 4", "add mark 1 10.0.0.2:0 dr weight 1 thresholds 9 4"},

		{"", "no command"},
		{"-n -L", "no command"},
		{"-A -t 10.0.0.1:80 -w", "-w: missing argument"},
		{"-At", "-At: missing argument"},
		{"-L --numeric=yes", "--numeric=yes: option does not take an argument"},
		{"-L -n=yes", "-n=yes: option does not take an argument"},
		{"-A -t 80 -s", "illegal virtual server address[:port] specified"}, // values before what comes behind them
		{"-L -D -t x", "invalid option `-D'"},
		{"-L x -q", "-q: unknown option"}, // words last
		{"-A -t 10.1:80 -b sh-port x", "unexpected argument x"},
		{"-A -w 1 -b sh-port", "incompatible scheduler flag `sh-port'"},
		{"-A -w 1", "You need to supply the 'service-address' option for the 'add-service' command"}, // lower than weight
		{"-L --atomic", "Illegal 'atomic' option with the 'list' command"},
	} {
		p, _, _ := offline("")
		r, err := p.parse(strings.Fields(c.line))
		got := fmt.Sprint(err)
		if op, ok := r.op(); err == nil && ok {
			got = op.String()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.line, got, c.want)
		}
	}
}

func TestParseDots(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "10.1": "10.0.0.1", "10.1.258": "10.1.1.2", "167772161": "10.0.0.1", "0x0a000001": "10.0.0.1", "010.0.0.4": "8.0.0.4",
		"0XA.1": "10.0.0.1", "1.2.3.4 and more": "1.2.3.4", "4294967295": "255.255.255.255", "0": "0.0.0.0", "1.16777215": "1.255.255.255",
		"": "", "1.2.3.4.5": "", "1.2.3.256": "", "256.1": "", "1.16777216": "", "4294967296": "", "08": "", "0x": "", "1.": "", ".1": "", "+1": "", "-1": "", "1_0": "", "a": "", " 1": "",
	} {
		got, ok := parseDots(text)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: got %v %v, want %q", text, got, ok, want)
		}
	}
}

func TestAppendLarge(t *testing.T) {
	for _, c := range []struct {
		n           uint64
		short, long string
	}{
		{0, "        0", "        0"},
		{99_999_999, " 99999999", " 99999999"},
		{100_000_000, "  100000K", " 100000000"},
		{999_999_999, "  999999K", " 999999999"},
		{1_000_000_000, "    1000M", " 1000000000"},
		{99_999_999_999, "   99999M", " 99999999999"},
		{100_000_000_000, "     100G", " 100000000000"},
		{100_000_000_000_000, "     100T", " 100000000000000"},
		{1<<64 - 1, "18446744T", " 18446744073709551615"},
	} {
		if got := string(appendLarge(nil, false, c.n)); got != c.short {
			t.Errorf("%d: got %q, want %q", c.n, got, c.short)
		}
		if got := string(appendLarge(nil, true, c.n)); got != c.long {
			t.Errorf("%d exactly: got %q, want %q", c.n, got, c.long)
		}
	}
}

// TestAtomic: what a file makes of an empty table, or every line that is wrong with it.
func TestAtomic(t *testing.T) {
	p, _, _ := offline(`# comments are taken
-A -t 10.0.0.1:80 -s rr

ipvsadm -a -t 10.0.0.1:80 -r 10.0.1.1 -m -x 7
-C
-A -f 66 -p 300
-a -f 66 -r 10.0.1.1 -g
-e -f 66 -r 10.0.1.1 -g -w 9
`)
	table, errs := p.readTable()
	want := ipvsctl.Table{ipvsctl.ByMark(66, false): {
		Settings:     ipvsctl.Settings{Scheduler: "wlc", Persistence: 300e9},
		Destinations: map[netip.AddrPort]ipvsctl.Destination{netip.MustParseAddrPort("10.0.1.1:0"): {Method: ipvsctl.DR, Weight: 9}},
	}}
	if len(errs) != 0 || len(ipvsctl.Diff(table, want)) != 0 || len(ipvsctl.Diff(want, table)) != 0 {
		t.Errorf("got %v, errors %v, want %v", table, errs, want)
	}

	p, _, _ = offline(`-A -t 10.0.0.1:80 -s rr
-A -t 10.0.0.1:80 -s wrr
garbage
-a -t 10.0.0.2:80 -r 10.0.1.1
-a -t 10.0.0.1:80 -r 10.0.1.1 -w many
--set 1 2 3
-R
-L --nosuch
-a -t 10.0.0.1:80 -r 10.0.1.1 -y 3`)
	_, errs = p.readTable()
	wrong := []string{
		"line 2: Service already exists",
		`line 3: "garbage" is no command`,
		"line 4: Service not defined",
		"line 5: illegal weight specified",
		`line 6: "--set" changes no table: --atomic takes -A, -E, -D, -a, -e, -d and -C`,
		`line 7: "-R" is no command`,
		"line 8: --nosuch: unknown option",
		"line 9: Numerical result out of range",
	}
	var got []string
	for _, err := range errs {
		got = append(got, err.Error())
	}
	if !slices.Equal(got, wrong) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wrong, "\n"))
	}

	p, _, _ = offline("-A -t 10.0.0.1:80\n" + strings.Repeat("x", longestLine+1) + "\n-D -t 10.0.0.9:80\n")
	if _, errs = p.readTable(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "line 2 has more than 65536 bytes") {
		t.Errorf("a line without end: got %v", errs)
	}
}

// What is not waiting is not waited for: lines that have come are seen before the next read.
func TestLinesWaiting(t *testing.T) {
	r, w := io.Pipe()
	defer r.Close()
	l := newLines(r)
	if l.waiting() {
		t.Error("a line is waiting before any was written")
	}
	go w.Write([]byte("-C\n-A -t 10.0.0.1:80\n-L"))
	for _, want := range []bool{true, false} {
		if words, err := l.next(); err != nil || len(words) == 0 {
			t.Fatal(words, err)
		}
		if l.waiting() != want {
			t.Errorf("waiting is %v, want %v", !want, want)
		}
	}
}

// FuzzCommandLine: whatever the words, there is a request or a reason; and what adds an entry, saved and read again, adds
// the same.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{
		"-A -t 10.0.0.1:80 -s sh -b sh-port -p 300 -M 255.255.255.0", "-A -f 7 -6 -M 64 -p", "-A -u [::ffff:1.2.3.4]:53 -o --pe sip -p", "-A --sctp-service www:diameter",
		"-a -t 10.0.0.1:80 -r 0x7f.1:080 -mw3 -x 9 -y 1", "-a -t [::1]:80 -r 10.1 -i --tun-type gre --tun-csum", "-Lnc --persistent-conn", "--set 1 2 3", "-R --atomic",
		"--start-daemon master --mcast-group ff02::1 --mcast-port 7 --sync-maxlen 9", "-t=", "-", "--=", "-A -t www.example.com:http", "-=", "-6", "-A -f -1",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, out, _ := offline("")
		r, err := p.parse(strings.Split(line, " "))
		if err != nil {
			return
		}
		op, ok := r.op()
		if !ok || op.Kind != ipvsctl.AddService && op.Kind != ipvsctl.AddDestination {
			return
		}
		if strings.ContainsAny(op.Settings.Scheduler+op.Settings.Engine, " \t\r\n") || strings.HasPrefix(op.Settings.Scheduler, "-") {
			return // no kernel has such a name, and a line cannot say it
		}
		table := ipvsctl.Table{}
		if op.Kind == ipvsctl.AddDestination {
			table.Apply(ipvsctl.Op{Kind: ipvsctl.AddService, Service: op.Service, Settings: ipvsctl.Settings{Scheduler: "rr"}})
			if op.Service.Addr.Port() == 0 && op.Service.Mark == 0 {
				return // the service would need persistence
			}
		}
		if table.Apply(op) != nil {
			return
		}
		text := saved(p, out, table)
		again, _, _ := offline(text)
		got, errs := again.readTable()
		if changes := ipvsctl.Diff(table, got); len(errs) > 0 || len(changes) > 0 {
			t.Fatalf("%q\nis saved as\n%s\nwhich reads as %v, errors %v", line, text, changes, errs)
		}
	})
}

// FuzzRestore: whatever the bytes, a table no larger than they are long; saved and read again it is the same.
func FuzzRestore(f *testing.F) {
	f.Add([]byte("# x\n-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.1.1 -m\n"))
	f.Add([]byte("ipvsadm\r\n\x00\n-C\n-A -f 66 -p\n-a -f 66 -r [2001:db8::1]:0 -i -x 3 -y 3"))
	f.Add([]byte("-A -u 1.2.3.4:5 -o\n-E -u 1.2.3.4:5 -p 9 -M 0.0.0.24\n-D -u 1.2.3.4:5\n-A -t ::1 -p"))
	f.Fuzz(func(t *testing.T, file []byte) {
		p, out, _ := offline(string(file))
		table, _ := p.readTable()
		entries := 0
		for key, s := range table {
			entries += 1 + len(s.Destinations)
			if strings.ContainsAny(s.Scheduler+s.Engine, " \t\r\n") || strings.HasPrefix(s.Scheduler+s.Engine, "-") {
				delete(table, key)
			}
		}
		if entries > bytes.Count(file, []byte("\n"))+1 {
			t.Fatalf("%d entries of %q", entries, file)
		}
		again, _, _ := offline(saved(p, out, table))
		got, errs := again.readTable()
		if changes := ipvsctl.Diff(table, got); len(errs) > 0 || len(changes) > 0 {
			t.Fatalf("%q reads again as %v, errors %v", file, changes, errs)
		}
	})
}

// FuzzConnection: whatever the kernel's line, a connection or a reason.
func FuzzConnection(f *testing.F) {
	f.Add("TCP 0A000001 E6C0 0A000064 0050 0A010016 0050 ESTABLISHED     895")
	f.Add("UDP [2001:0db8:0050:0000:0000:0000:0000:0001] 9C41 [2001:0db8:0050:0000:0000:0000:0000:0100] 0035 [2001:0db8:0050:0000:0000:0000:0000:0021] 0035 UDP 300")
	f.Add("UDP 0A320001 0000 0A320064 13C4 0A320015 13C4 NONE        598 sip 4711@10.50.0.1")
	f.Fuzz(func(t *testing.T, line string) {
		if c, err := parseConnection(line); err == nil && !(c.client.IsValid() && c.virtual.IsValid() && c.server.IsValid()) {
			t.Fatalf("%q: %+v", line, c)
		}
	})
}

// saved is what -Sn --exact prints of a table.
func saved(p *program, out *bytes.Buffer, table ipvsctl.Table) string {
	how := givenNumeric | givenExact
	for key, s := range table {
		service := p.serviceOption(key, how)
		p.saveService(service, &entry{key: key, settings: s.Settings})
		for addr, d := range s.Destinations {
			p.saveServer(service, key.Protocol, &server{addr: addr, dest: d}, how)
		}
	}
	p.out.Flush()
	return out.String()
}

func BenchmarkParse(b *testing.B) {
	p, _, _ := offline("")
	l := newLines(endless("-a -t 10.1.0.1:80 -r 10.2.0.1:81 -m -w 5\n"))
	b.ReportAllocs()
	for b.Loop() {
		words, err := l.next()
		if err != nil {
			b.Fatal(err)
		}
		r, err := p.parseLine(words)
		if _, ok := r.op(); !ok || err != nil {
			b.Fatal(err)
		}
	}
}

// endless is an input of one line again and again.
type endless string

func (e endless) Read(b []byte) (n int, _ error) {
	for n+len(e) <= len(b) {
		n += copy(b[n:], e)
	}
	return n, nil
}
