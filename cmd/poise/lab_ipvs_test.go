package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

// TestLabAdm* are the set-ups which tutorials of ipvsadm show, as they are typed there, and what packets then meet.

// ipvsadmProgram is what the commands of ipvsadm are typed to. The tests hold for "ipvsadm" as well.
var ipvsadmProgram = []string{"poise", "ipvs"}

// ipvsadm types commands of ipvsadm on a host, a line each, and returns what they print.
func ipvsadm(t *testing.T, h *lab.Host, lines ...string) string {
	t.Helper()
	var printed strings.Builder
	for _, line := range lines {
		printed.WriteString(ipvsadmReads(t, h, "", line))
	}
	return printed.String()
}

// ipvsadmReads is ipvsadm for one command that reads a file.
func ipvsadmReads(t *testing.T, h *lab.Host, file, line string) string {
	t.Helper()
	return typed(t, h, file, append(slices.Clone(ipvsadmProgram), strings.Fields(line)...)...)
}

// typed runs a program on a host to its good end, without a complaint, and returns what it printed.
func typed(t *testing.T, h *lab.Host, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &complaint
	if err := h.Start(cmd).Wait(); err != nil || complaint.Len() > 0 {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, complaint.String())
	}
	return out.String()
}

// rows are the lines of a listing below its titles, without blanks at their ends.
func rows(listing string) (rows []string) {
	for line := range strings.Lines(listing) {
		isTitle := func(start string) bool { return strings.HasPrefix(line, start) }
		if !slices.ContainsFunc([]string{"IP Virtual Server", "IPVS connection", "Prot ", "pro ", "  -> RemoteAddress"}, isTitle) {
			rows = append(rows, strings.TrimRight(line, " \n"))
		}
	}
	return rows
}

// wantList waits until the rows of a listing are these: connections end on the director a little after the client is done.
func wantList(t *testing.T, h *lab.Host, line, want string) {
	t.Helper()
	want = strings.TrimSpace(want)
	lab.Eventually(t, patience, func() error {
		if got := strings.Join(rows(ipvsadm(t, h, line)), "\n"); got != want {
			return fmt.Errorf("%s shows\n%s\nwant\n%s", line, got, want)
		}
		return nil
	})
}

// wantAnswers compares numbers of answers by server with those wanted: "nat1:4 nat2:2".
func wantAnswers(t *testing.T, got map[string]int, want string) {
	t.Helper()
	if got := fmt.Sprint(got); got != "map["+want+"]" {
		t.Errorf("answers %s, want %s", got, want)
	}
}

// natLVS is newLVS with n servers whose gateway is the director, which forwards what they answer.
func natLVS(t *testing.T, n int) *lab.LVS {
	t.Helper()
	l := newLVS(t)
	l.Director.Sysctl("net/ipv4/ip_forward", "1")
	natServers(l, n)
	return l
}

// drServers adds n servers, 192.0.2.21 and following, that take HTTP for a virtual address from a director beside them.
func drServers(l *lab.LVS, n int, vip string) {
	for range n {
		s := l.AddServer(lab.DR)
		s.Sysctl("net/ipv4/conf/all/arp_ignore", "1")
		s.Sysctl("net/ipv4/conf/all/arp_announce", "2")
		s.AddAddr("lo", vip+"/32")
		s.ServeHTTP(":80")
	}
}

// addMark adds the user's own rule that marks what comes for ports of the VIP.
func addMark(l *lab.LVS, mark, ports string) {
	l.Director.Run("iptables", "-t", "mangle", "-A", "PREROUTING", "-d", lab.VIP, "-p", "tcp",
		"-m", "multiport", "--dports", ports, "-j", "MARK", "--set-mark", mark)
}

// A table that is saved, cleared and restored is listed as before and serves as before. Thresholds are in no saved table.
func TestLabAdmSaveRestore(t *testing.T) {
	l := natLVS(t, 2)
	ipvsadm(
		t, l.Director,
		"-A -t 192.0.2.10:80 -s wrr",
		"-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 3 -x 20 -y 10",
		"-a -t 192.0.2.10:80 -r 10.0.0.22 -m",
		"-A -u 192.0.2.10:53 -s sh -b sh-port,sh-fallback -o",
		"-a -u 192.0.2.10:53 -r 192.0.2.31 -i",
		"-a -u 192.0.2.10:53 -r 192.0.2.32 -i --tun-type gue --tun-port 6080 --tun-remcsum",
		"-a -u 192.0.2.10:53 -r 192.0.2.33 -i --tun-type gre --tun-csum -w 0",
		"-A -t [2001:db8:2::10]:443 -p 600 -M 64",
		"-a -t [2001:db8:2::10]:443 -r [fd00:10::21]:8443 -m -w 70000",
		"-A -f 7 -s rr -p -M 255.255.255.0",
		"-a -f 7 -r 192.0.2.31",
		"-A -f 7 -6 -s mh -b mh-port",
		"-a -f 7 -6 -r 2001:db8:2::31",
	)
	listed := func() string { return ipvsadm(t, l.Director, "-Ln", "-Ln --tun-info") }
	before, saved := listed(), ipvsadm(t, l.Director, "-S -n")
	ipvsadm(t, l.Director, "-C")
	wantList(t, l.Director, "-Ln", "")
	ipvsadmReads(t, l.Director, saved, "-R")
	if after := listed(); after != before {
		t.Errorf("restored:\n%s\nwant\n%s", after, before)
	}
	wantList(t, l.Director, "-Ln --thresholds -t 192.0.2.10:80", `
TCP  192.0.2.10:80 wrr
  -> 10.0.0.21:80                 0          0          0          0
  -> 10.0.0.22:80                 0          0          0          0`)
	wantAnswers(t, ask(t, l, 80, 4), "nat1:3 nat2:1")
}

// A server that comes back to its service finds its connections and counters. A service takes its servers along; when both
// come back, connections go on and counters begin anew.
func TestLabAdmRemoveReadd(t *testing.T) {
	l := natLVS(t, 2)
	const (
		web, other = "-t 192.0.2.10:80", "-t 192.0.2.10:81"
		server     = "-a " + web + " -r 10.0.0.21:80 -m"
		withServer = "TCP  192.0.2.10:80 rr\n  -> 10.0.0.21:80                 Masq    1      1          0"
	)
	// counted waits until the kernel has counted this many connections of the server, and more packets than before.
	counted := func(connections, before uint64) (packets uint64) {
		t.Helper()
		lab.Eventually(t, patience, func() error {
			n := counters(t, l.Director, "-Ln --stats "+web)["10.0.0.21:80"]
			if packets = n[1]; n[0] != connections || packets <= before {
				return fmt.Errorf("counters %d, want %d connections and more than %d packets", n, connections, before)
			}
			return nil
		})
		return packets
	}
	// While a service is left, packets of connections wait for their server. Else they would reach the director itself.
	ipvsadm(t, l.Director, "-A "+web+" -s rr", server, "-A "+other+" -s rr", "-a "+other+" -r 10.0.0.22:81 -m")
	kept := connect(t, l, 80)
	before := counted(1, 0)

	ipvsadm(t, l.Director, "-d "+web+" -r 10.0.0.21:80")
	wantList(t, l.Director, "-Ln "+web, "TCP  192.0.2.10:80 rr")
	answered := make(chan string, 1)
	go func() {
		name, err := kept.ask()
		answered <- fmt.Sprint(name, err)
	}()
	select {
	case a := <-answered:
		t.Errorf("%s: of a server that is away", a)
	case <-time.After(500 * time.Millisecond):
	}
	ipvsadm(t, l.Director, server)
	if a := <-answered; a != "nat1<nil>" {
		t.Errorf("the server is back, and the answer %s", a)
	}
	wantList(t, l.Director, "-Ln "+web, withServer)
	counted(1, before)

	ipvsadm(t, l.Director, "-D "+web)
	wantList(t, l.Director, "-Ln", "TCP  192.0.2.10:81 rr\n  -> 10.0.0.22:81                 Masq    1      0          0")
	ipvsadm(t, l.Director, "-A "+web+" -s rr")
	wantList(t, l.Director, "-Ln "+web, "TCP  192.0.2.10:80 rr")
	ipvsadm(t, l.Director, server)
	if name, err := kept.ask(); name != "nat1" || err != nil {
		t.Errorf("the service is back, and the answer %s, error %v", name, err)
	}
	wantList(t, l.Director, "-Ln "+web, withServer)
	counted(0, 0)
}

// counters are the numbers of a listing with --stats or --rate by address and port.
func counters(t *testing.T, h *lab.Host, line string) map[string][]uint64 {
	t.Helper()
	all := make(map[string][]uint64)
	for _, row := range rows(ipvsadm(t, h, line)) {
		name := strings.Fields(row)[1]
		for _, field := range strings.Fields(row)[2:] {
			n, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", row, err)
			}
			all[name] = append(all[name], n)
		}
	}
	return all
}

// What is listed is what the kernel's own files say, and -Z begins anew.
func TestLabAdmCounters(t *testing.T) {
	l := newLVS6(t)
	l.Director.Sysctl("net/ipv4/ip_forward", "1")
	l.Director.Sysctl("net/ipv6/conf/all/forwarding", "1")
	sink(t, l.AddServer(lab.NAT).Host, "[::]:8080")
	const (
		vip, server   = "192.0.2.10:80", "10.0.0.21:8080"
		vip6, server6 = "[2001:db8:2::10]:80", "[fd00:10::21]:8080"
	)
	ipvsadm(
		t, l.Director,
		"-A -t "+vip+" -s rr", "-a -t "+vip+" -r "+server+" -m -w 5",
		"-A -t "+vip6+" -s wlc", "-a -t "+vip6+" -r "+server6+" -m",
	)
	// likeProc waits until services and servers of a listing each add up to a row of ip_vs_stats, with some bytes. All are
	// counted at once.
	likeProc := func(line string, row int, bytes uint64) {
		t.Helper()
		lab.Eventually(t, patience, func() error {
			total, all := procStats(t, l.Director)[row], counters(t, l.Director, line)
			for i, want := range total {
				if all[vip][i]+all[vip6][i] != want || all[server][i]+all[server6][i] != want {
					return fmt.Errorf("%s shows %v, want the sums %d", line, all, total)
				}
			}
			if total[3] < bytes {
				return fmt.Errorf("%d has less than %d bytes", total, bytes)
			}
			return nil
		})
	}
	// 9 digits are shown in thousands, unless exactly.
	const large = 120_000_000
	pour(t, l.Client, vip, large)
	likeProc("-Ln --rate --exact", 1, 1)
	likeProc("-Ln --stats --exact", 0, large)
	lab.Eventually(t, patience, func() error { // the last packets are just counted
		exact, short := counters(t, l.Director, "-Ln --stats --exact")[vip], rows(ipvsadm(t, l.Director, "-Ln --stats"))[0]
		if !strings.Contains(short, fmt.Sprintf(" %dK ", exact[3]/1000)) {
			return fmt.Errorf("counters %d, shortened %s", exact, short)
		}
		return nil
	})

	pour(t, l.Client, vip6, 1)
	open(t, l.Client, vip)
	open(t, l.Client, vip6)
	likeProc("-Ln --stats --exact", 0, 1)
	for file, line := range map[string]string{"ip_vs": "-Ln", "ip_vs_conn": "-Lnc"} {
		lab.Eventually(t, patience, func() error { // seconds go by
			want, got := fromProc(t, readNet(t, l.Director, file)), rows(ipvsadm(t, l.Director, line))
			slices.Sort(got)
			if len(got) != 4 || !slices.Equal(got, want) {
				return fmt.Errorf("%s shows\n%s\nwant, by the kernel's file\n%s", line, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			return nil
		})
	}

	wantConnections := func(want, want6 uint64) {
		t.Helper()
		lab.Eventually(t, patience, func() error {
			if all := counters(t, l.Director, "-Ln --stats --exact"); all[vip][0] != want || all[vip6][0] != want6 {
				return fmt.Errorf("counters %v, want %d and %d connections", all, want, want6)
			}
			return nil
		})
	}
	wantConnections(2, 2)
	ipvsadm(t, l.Director, "-Z -t "+vip)
	wantConnections(0, 2)
	ipvsadm(t, l.Director, "-Z")
	wantConnections(0, 0)
	open(t, l.Client, vip6)
	wantConnections(0, 1)
	likeProc("-Ln --stats --exact", 0, 1)
}

// sink takes whatever comes to an address and port of a host, and then closes.
func sink(t *testing.T, h *lab.Host, addr string) {
	t.Helper()
	l, err := h.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				io.Copy(io.Discard, c)
			}()
		}
	}()
}

// open opens a connection from a host that stays.
func open(t *testing.T, h *lab.Host, addr string) *net.TCPConn {
	t.Helper()
	c, err := h.Dial(t.Context(), "tcp", "", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// pour sends n bytes to a sink and waits until it has them.
func pour(t *testing.T, h *lab.Host, addr string, n int) {
	t.Helper()
	c := open(t, h, addr)
	_, err := c.Write(make([]byte, n))
	if err == nil {
		err = c.CloseWrite()
	}
	if err == nil {
		_, err = io.Copy(io.Discard, c)
	}
	if err != nil {
		t.Fatalf("%s: %v", addr, err)
	}
}

// readNet reads a file of a host's /proc/net.
func readNet(t *testing.T, h *lab.Host, name string) (text string) {
	t.Helper()
	if err := h.Do(func() error {
		data, err := os.ReadFile("/proc/thread-self/net/" + name)
		text = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return text
}

// procStats are the two rows of ip_vs_stats: what was counted in all, and a second.
func procStats(t *testing.T, h *lab.Host) (stats [][]uint64) {
	t.Helper()
	for line := range strings.Lines(readNet(t, h, "ip_vs_stats")) {
		var row []uint64
		for _, field := range strings.Fields(line) {
			if n, err := strconv.ParseUint(field, 16, 64); err == nil {
				row = append(row, n)
			}
		}
		if len(row) == 5 { // else titles, of which the word "Conns" is none
			stats = append(stats, row)
		}
	}
	return stats
}

// fromProc are the rows of ip_vs or ip_vs_conn as ipvsadm shows them, sorted.
func fromProc(t *testing.T, text string) (listed []string) {
	t.Helper()
	addr := func(addr, port string) string {
		t.Helper()
		a, err := netip.ParseAddr(strings.Trim(addr, "[]")) // IPv6 is written out
		if err != nil {
			var b []byte
			if b, err = hex.DecodeString(addr); err == nil {
				a, _ = netip.AddrFromSlice(b)
			}
		}
		p, errPort := strconv.ParseUint(port, 16, 16)
		if err := errors.Join(err, errPort); err != nil {
			t.Fatal(err)
		}
		return netip.AddrPortFrom(a, uint16(p)).String()
	}
	service := func(s string) string {
		i := strings.LastIndexByte(s, ':')
		return addr(s[:i], s[i+1:])
	}
	for _, line := range rows(text) {
		f := strings.Fields(line)
		switch {
		case f[0] == "Pro": // title
		case f[0] == "->":
			listed = append(listed, fmt.Sprintf("  -> %-28s %-7s %-6s %-10s %s", service(f[1]), f[2], f[3], f[4], f[5]))
		case len(f) == 3:
			listed = append(listed, fmt.Sprintf("%-4s %s %s", f[0], service(f[1]), f[2]))
		default:
			left, err := strconv.Atoi(f[8])
			if err != nil {
				t.Fatal(err)
			}
			listed = append(listed, fmt.Sprintf("%-3s %02d:%02d  %-11s %-18s %-18s %s",
				f[0], left/60, left%60, f[7], addr(f[1], f[2]), addr(f[3], f[4]), addr(f[5], f[6])))
		}
	}
	slices.Sort(listed)
	return listed
}

// Services of one network, by address, port and method, do not know of each other.
func TestLabAdmServices(t *testing.T) {
	const another = "192.0.2.11"
	l := natLVS(t, 2)
	l.Director.AddAddr("eth0", another+"/32")
	drServers(l, 2, another) // 192.0.2.23 and .24
	tunnel := l.AddServer(lab.TUN)
	tunnel.AcceptTunnel(lab.VIP)
	tunnel.ServeHTTP(":8080")
	ipvsadm(
		t, l.Director,
		"-A -t 192.0.2.10:80 -s rr",
		"-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m",
		"-a -t 192.0.2.10:80 -r 10.0.0.22:80 -m",
		"-A -t 192.0.2.11:80 -s wrr",
		"-a -t 192.0.2.11:80 -r 192.0.2.23 -g -w 3",
		"-a -t 192.0.2.11:80 -r 192.0.2.24 -g",
		"-A -t 192.0.2.10:8080 -s lc",
		"-a -t 192.0.2.10:8080 -r 192.0.2.25 -i",
	)
	wantAnswers(t, ask(t, l, 80, 4), "nat1:2 nat2:2")
	wantAnswers(t, at(l, "192.0.2.11:80").ask(t, 8), "dr3:6 dr4:2")
	wantAnswers(t, ask(t, l, 8080, 3), "tun5:3")
	wantList(t, l.Director, "-Ln", `
TCP  192.0.2.10:80 rr
  -> 10.0.0.21:80                 Masq    1      0          2
  -> 10.0.0.22:80                 Masq    1      0          2
TCP  192.0.2.10:8080 lc
  -> 192.0.2.25:8080              Tunnel  1      0          3
TCP  192.0.2.11:80 wrr
  -> 192.0.2.23:80                Route   3      0          6
  -> 192.0.2.24:80                Route   1      0          2`)
}

// at is where the client asks by HTTP, to be seen as itself.
func at(l *lab.LVS, addr string) target {
	return target{l.Client, "http", netip.MustParseAddrPort(addr), lab.ClientAddr}
}

// Client, director and servers in one network: by the user's own rule the director is the servers' client, or they would
// answer the client past it. They listen on ports of their own.
func TestLabAdmOneNetwork(t *testing.T) {
	l := newLVS(t)
	l.Director.Sysctl("net/ipv4/ip_forward", "1")
	l.Director.Sysctl("net/ipv4/vs/conntrack", "1")
	l.Director.Run("iptables", "-t", "nat", "-A", "POSTROUTING", "-m", "ipvs", "--vaddr", lab.VIP+"/32", "--vport", "80", "-j", "MASQUERADE")
	l.AddServer(lab.FullNAT).ServeHTTP(":8081")
	l.AddServer(lab.FullNAT).ServeHTTP(":8082")
	ipvsadm(
		t, l.Director,
		"-A -t 192.0.2.10:80 -s wrr",
		"-a -t 192.0.2.10:80 -r 192.0.2.21:8081 -m -w 1",
		"-a -t 192.0.2.10:80 -r 192.0.2.22:8082 -m -w 1",
	)
	beside := at(l, "192.0.2.10:80")
	beside.host, beside.seen = l.AddNeighbour(), lab.DirectorIP
	wantAnswers(t, beside.ask(t, 6), "fullnat1:3 fullnat2:3")
	wantList(t, l.Director, "-Ln", `
TCP  192.0.2.10:80 wrr
  -> 192.0.2.21:8081              Masq    1      0          3
  -> 192.0.2.22:8082              Masq    1      0          3`)
}

// Two networks, and the servers' gateway is the director. Scheduler and weight change while they serve.
func TestLabAdmGateway(t *testing.T) {
	l := natLVS(t, 2)
	ipvsadm(
		t, l.Director,
		"-A -t 192.0.2.10:80 -s rr",
		"-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m",
		"-a -t 192.0.2.10:80 -r 10.0.0.22:80 -m",
	)
	wantAnswers(t, ask(t, l, 80, 6), "nat1:3 nat2:3")
	ipvsadm(t, l.Director, "-E -t 192.0.2.10:80 -s wrr", "-e -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 2")
	wantAnswers(t, ask(t, l, 80, 6), "nat1:4 nat2:2")
	wantList(t, l.Director, "-Ln", `
TCP  192.0.2.10:80 wrr
  -> 10.0.0.21:80                 Masq    2      0          7
  -> 10.0.0.22:80                 Masq    1      0          5`)
}

// Direct routing for a client behind a router: what servers answer does not come through the director, which forwards nothing.
func TestLabAdmRouter(t *testing.T) {
	l := newLVS(t)
	l.Director.Sysctl("net/ipv4/ip_forward", "0")
	drServers(l, 2, lab.VIP)
	ipvsadm(
		t, l.Director,
		"-A -t 192.0.2.10:80 -s wrr",
		"-a -t 192.0.2.10:80 -r 192.0.2.21:80 -g -w 3",
		"-a -t 192.0.2.10:80 -r 192.0.2.22:80 -g",
	)
	wantAnswers(t, ask(t, l, 80, 8), "dr1:6 dr2:2")
	lab.Eventually(t, patience, func() error {
		n := counters(t, l.Director, "-Ln --stats")["192.0.2.10:80"]
		if n[0] != 8 || n[1] == 0 || n[2] != 0 || n[4] != 0 {
			return fmt.Errorf("counters %d, want 8 connections with packets in, and none out", n)
		}
		return nil
	})
}

// A server is changed to another method in place: new connections reach it in a tunnel, an older one as it began. (Both use
// the same route in the kernel, Linux 6.1, and the first packet after the change looks for it. Were that one for the tunnel,
// the director would next ask for the VIP itself by ARP, in vain, and the older connection would hang.)
func TestLabAdmTunnelInPlace(t *testing.T) {
	l := newLVS(t)
	s := l.AddServer(lab.TUN)
	s.AcceptTunnel(lab.VIP)
	s.ServeHTTP(":80")
	wire := s.Capture("eth0")
	ipvsadm(t, l.Director, "-A -t 192.0.2.10:80", "-a -t 192.0.2.10:80 -r 192.0.2.21 -g")
	older := connect(t, l, 80)
	ipvsadm(t, l.Director, "-e -t 192.0.2.10:80 -r 192.0.2.21 -i")
	if _, err := older.ask(); err != nil {
		t.Error(err)
	}
	newer := connect(t, l, 80)
	for c, want := range map[*connection][]byte{older: {unix.IPPROTO_TCP}, newer: {unix.IPPROTO_IPIP}} {
		if got := carriedBy(wire.Frames(), c); !slices.Equal(got, want) {
			t.Errorf("packets of %v came in IP protocols %d, want %d", c.LocalAddr(), got, want)
		}
	}
	wantList(t, l.Director, "-Ln", `
TCP  192.0.2.10:80 wlc
  -> 192.0.2.21:80                Tunnel  1      2          0`)
}

// carriedBy are the IP protocols, each once in a row, of what a server received over a connection.
func carriedBy(frames []lab.Frame, c *connection) (protocols []byte) {
	from := uint16(c.LocalAddr().(*net.TCPAddr).Port)
	for _, f := range frames {
		outer := protocol(f)
		inner := f.Data
		if outer == unix.IPPROTO_IPIP {
			inner = f.Data[ipv4Header:]
		}
		isTCP := outer == unix.IPPROTO_TCP || outer == unix.IPPROTO_IPIP // nothing else is in the tunnel
		if !f.Sent && isTCP && binary.BigEndian.Uint16(inner[ethernetHeader+ipv4Header:]) == from {
			protocols = append(protocols, outer)
		}
	}
	return slices.Compact(protocols)
}

const (
	ethernetHeader = 14
	ipv4Header     = 20 // without options
)

// protocol is the IP protocol of a frame, 0 without IPv4.
func protocol(f lab.Frame) byte {
	if binary.BigEndian.Uint16(f.Data[12:]) != unix.ETH_P_IP {
		return 0
	}
	return f.Data[ethernetHeader+9]
}

// By a mark of the user's own, a client stays with its server, and another one with the other.
func TestLabAdmMarkPersistent(t *testing.T) {
	l := natLVS(t, 2)
	addMark(l, "66", "80")
	ipvsadm(
		t, l.Director,
		"-A -f 66 -s rr -p 3000",
		"-a -f 66 -r 10.0.0.21:80 -m",
		"-a -f 66 -r 10.0.0.22:80 -m",
	)
	another := at(l, "192.0.2.10:80")
	another.host, another.seen = l.AddNeighbour(), lab.NeighbourAddr
	wantAnswers(t, ask(t, l, 80, 3), "nat2:3") // the last added is the first
	wantAnswers(t, another.ask(t, 2), "nat1:2")
	wantAnswers(t, ask(t, l, 80, 1), "nat2:1")
	wantList(t, l.Director, "-Ln --persistent-conn", `
FWM  66 rr persistent 3000
  -> 10.0.0.21:80                 1         1           0          2
  -> 10.0.0.22:80                 1         1           0          4`)
}

// A mark of the user's own makes two ports one service, whose servers take turns.
func TestLabAdmMarkPorts(t *testing.T) {
	l := natLVS(t, 0)
	addMark(l, "666", "80,443")
	ipvsadm(t, l.Director, "-A -f 666 -s rr")
	for range 2 {
		s := l.AddServer(lab.NAT)
		s.ServeHTTP(":80")
		s.ServeHTTPS(":443", lab.VIP)
		ipvsadm(t, l.Director, "-a -f 666 -m -r "+s.Addr.String())
	}
	plain, secure := at(l, "192.0.2.10:80"), at(l, "192.0.2.10:443")
	secure.scheme = "https"
	for range 2 {
		wantAnswers(t, plain.ask(t, 1), "nat2:1")
		wantAnswers(t, secure.ask(t, 1), "nat1:1")
	}
	wantAnswers(t, plain.ask(t, 1), "nat2:1")
	wantAnswers(t, plain.ask(t, 1), "nat1:1")
	wantList(t, l.Director, "-Ln", `
FWM  666 rr
  -> 10.0.0.21:0                  Masq    1      0          3
  -> 10.0.0.22:0                  Masq    1      0          3`)
}

// fo fails over from the server of the highest weight to the next while its threshold is reached.
func TestLabAdmFailover(t *testing.T) {
	l := natLVS(t, 2)
	ipvsadm(
		t, l.Director,
		"-A -t 192.0.2.10:80 -s fo",
		"-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 3 -x 2",
		"-a -t 192.0.2.10:80 -r 10.0.0.22:80 -m -w 2",
	)
	wantOpened(t, l, "nat1", "nat1", "nat2", "nat2")
	ipvsadm(t, l.Director, "-e -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 3 -x 4")
	wantOpened(t, l, "nat1", "nat1", "nat2")
	wantList(t, l.Director, "-Ln --thresholds", `
TCP  192.0.2.10:80 fo
  -> 10.0.0.21:80                 4          0          4          0
  -> 10.0.0.22:80                 0          0          3          0`)
}

// ovf overflows from the server of the highest weight to the next when it has more connections than weight.
func TestLabAdmOverflow(t *testing.T) {
	l := natLVS(t, 2)
	ipvsadm(
		t, l.Director,
		"-A -t 192.0.2.10:80 -s ovf",
		"-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 2",
		"-a -t 192.0.2.10:80 -r 10.0.0.22:80 -m -w 1",
	)
	wantOpened(t, l, "nat1", "nat1", "nat1", "nat2", "nat2")
	wantList(t, l.Director, "-Ln", `
TCP  192.0.2.10:80 ovf
  -> 10.0.0.21:80                 Masq    2      3          0
  -> 10.0.0.22:80                 Masq    1      2          0`)
}

// wantOpened opens connections that stay, one after the other, and compares who answers them.
func wantOpened(t *testing.T, l *lab.LVS, want ...string) {
	t.Helper()
	var got []string
	for range want {
		name, err := connect(t, l, 80).ask()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("connections of %q, want %q", got, want)
	}
}

// Timeouts are listed as set, 0 leaves one, and a connection has them from its next packet on.
func TestLabAdmTimeouts(t *testing.T) {
	l := natLVS(t, 1)
	ipvsadm(t, l.Director, "-A -t 192.0.2.10:80", "-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m", "--set 900 60 300")
	wantList(t, l.Director, "-l --timeout", "Timeout (tcp tcpfin udp): 900 60 300")
	c := connect(t, l, 80)
	left := func() (d time.Duration) {
		t.Helper()
		f := strings.Fields(rows(ipvsadm(t, l.Director, "-lnc"))[0])
		d, err := time.ParseDuration(strings.Replace(f[1], ":", "m", 1) + "s")
		if err != nil || f[2] != "ESTABLISHED" {
			t.Fatalf("connection %q, error %v", f, err)
		}
		return d
	}
	if d := left(); d <= 600*time.Second || d > 900*time.Second {
		t.Errorf("%v left, want nearly 900 s", d)
	}
	ipvsadm(t, l.Director, "--set 600 0 0")
	wantList(t, l.Director, "-l --timeout", "Timeout (tcp tcpfin udp): 600 60 300")
	if _, err := c.ask(); err != nil {
		t.Fatal(err)
	}
	if d := left(); d > 600*time.Second {
		t.Errorf("%v left after a packet, want nearly 600 s", d)
	}
}

// A service on the director's loopback address, for clients on the director. The kernel lets no packet from a loopback address
// leave a host ("stopping loopback source"), and looks before any rule can masquerade it: route_localnet, conntrack and
// MASQUERADE do not help. What helps is another source. A client binds to one, or the route of the local table names one
// for all clients. Neither forwarding nor masquerading is needed then: the servers answer the director itself.
func TestLabAdmLoopback(t *testing.T) {
	l := newLVS(t)
	natServers(l, 2)
	ipvsadm(
		t, l.Director,
		"-A -t 127.0.0.1:8080 -s rr",
		"-a -t 127.0.0.1:8080 -r 10.0.0.21:80 -m",
		"-a -t 127.0.0.1:8080 -r 10.0.0.22:80 -m",
	)
	local := target{l.Director, "http", netip.MustParseAddrPort("127.0.0.1:8080"), lab.DirectorNAT}
	dial := func(source string, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		c, err := l.Director.Dial(ctx, "tcp", source, local.addr.String())
		if err == nil {
			c.Close()
		}
		return err
	}

	l.Director.Sysctl("net/ipv4/ip_forward", "1")
	l.Director.Sysctl("net/ipv4/vs/conntrack", "1")
	l.Director.Sysctl("net/ipv4/conf/all/route_localnet", "1")
	l.Director.Run("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth1", "-j", "MASQUERADE")
	sent := l.Director.Capture("eth1")
	if err := dial("", time.Second); err == nil || !strings.HasSuffix(err.Error(), "i/o timeout") {
		t.Errorf("masqueraded: error %v, want no answer ever", err)
	}
	for _, f := range sent.Frames() {
		if protocol(f) == unix.IPPROTO_TCP {
			t.Errorf("masqueraded: %x on the wire", f.Data)
		}
	}
	l.Director.Run("iptables", "-t", "nat", "-F")
	l.Director.Sysctl("net/ipv4/conf/all/route_localnet", "0")
	l.Director.Sysctl("net/ipv4/vs/conntrack", "0")
	l.Director.Sysctl("net/ipv4/ip_forward", "0")

	if err := dial(lab.DirectorNAT+":0", patience); err != nil {
		t.Errorf("from another source: %v", err)
	}
	l.Director.Run("ip", "route", "replace", "table", "local", "local", "127.0.0.1", "dev", "lo", "src", lab.DirectorNAT)
	wantAnswers(t, local.ask(t, 4), "nat1:2 nat2:2")
}

// Synchronisation is listed as it was started, by role.
func TestLabAdmDaemons(t *testing.T) {
	l := newLVS(t)
	const options = "--mcast-interface eth1 --syncid 51 --sync-maxlen 1400 --mcast-group 239.1.2.3 --mcast-port 9999 --mcast-ttl 8"
	const listed = " sync daemon (mcast=eth1, syncid=51, maxlen=1400, group=239.1.2.3, port=9999, ttl=8)"
	wantList(t, l.Director, "-l --daemon", "")
	ipvsadm(t, l.Director, "--start-daemon master "+options, "--start-daemon backup "+options)
	wantList(t, l.Director, "-l --daemon", "master"+listed+"\nbackup"+listed)
	ipvsadm(t, l.Director, "--stop-daemon master")
	wantList(t, l.Director, "-l --daemon", "backup"+listed)
	ipvsadm(t, l.Director, "--stop-daemon backup")
	wantList(t, l.Director, "-l --daemon", "")
}

// Hosts and ports have names, in commands and in listings.
func TestLabAdmNames(t *testing.T) {
	l := newLVS(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"hosts":    "192.0.2.10 www.example.com www\n10.0.0.21 rs1.example.com rs1\n",
		"services": "http 80/tcp\nwebcache 8080/tcp\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The files are the machine's: others take their place for these commands alone.
	script := fmt.Sprintf(`mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/services" /etc/services || exit
		for line; do %s $line || exit; done`, strings.Join(ipvsadmProgram, " "))
	got := rows(typed(
		t, l.Director, "", "unshare", "--mount", "sh", "-c", script, dir,
		"-A -t www:http -s rr",
		"-a -t www.example.com:http -r rs1:webcache -m",
		"-ln",
		"-l",
		"-D -t www:http",
		"-l",
	))
	want := []string{
		"TCP  192.0.2.10:80 rr",
		"  -> 10.0.0.21:8080               Masq    1      0          0",
		"TCP  www.example.com:http rr",
		"  -> rs1.example.com:webcache     Masq    1      0          0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// By the names of ipvsadm's programs, poise is them.
func TestLabAdmPrograms(t *testing.T) {
	l := natLVS(t, 1)
	poise, err := exec.LookPath("poise")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(poise, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	adm, save, restore := program("ipvsadm"), program("ipvsadm-save"), program("ipvsadm-restore")
	typed(t, l.Director, "", adm, "-A", "-t", "192.0.2.10:80", "-s", "rr")
	typed(t, l.Director, "", adm, "-a", "-t", "192.0.2.10:80", "-r", "10.0.0.21:80", "-m")
	const rules = "-A -t 192.0.2.10:80 -s rr\n-a -t 192.0.2.10:80 -r 10.0.0.21:80 -m -w 1\n"
	if saved := typed(t, l.Director, "", save, "-n"); saved != rules {
		t.Errorf("saved\n%swant\n%s", saved, rules)
	}
	typed(t, l.Director, "", adm, "-d", "-t", "192.0.2.10:80", "-r", "10.0.0.21:80")
	typed(t, l.Director, "", adm, "-A", "-t", "192.0.2.10:99") // is cleared away
	typed(t, l.Director, "# the table of before\n"+rules, restore)
	if left := typed(t, l.Director, "", save, "-n"); left != rules {
		t.Errorf("restored\n%swant\n%s", left, rules)
	}
	wantAnswers(t, ask(t, l, 80, 1), "nat1:1")
}
