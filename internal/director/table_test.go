package director

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"poise/internal/status"
	"poise/ipvsctl"
)

// fakeKernel is an IPVS table in memory that can refuse changes, and be where the balancer is killed.
type fakeKernel struct {
	table  ipvsctl.Table
	refuse func(ipvsctl.Op) error
	killIn int // the balancer dies at this many changes from now; 0: it lives
	unread error
	writes []string
}

func (k *fakeKernel) Read(context.Context) (ipvsctl.Table, map[ipvsctl.ServiceKey]ipvsctl.ServiceStats, error) {
	return k.table.Clone(), nil, k.unread
}

func (k *fakeKernel) Apply(_ context.Context, ops []ipvsctl.Op) []error {
	errs := make([]error, len(ops))
	for i, op := range ops {
		if k.killIn--; k.killIn == 0 {
			panic(killed)
		}
		k.writes = append(k.writes, op.String())
		errs[i] = k.apply(op)
	}
	return errs
}

const killed = "killed"

// unlessKilled runs f, which may come to the point where the balancer is killed.
func unlessKilled(f func()) (alive bool) {
	defer func() {
		if r := recover(); r != nil && r != killed {
			panic(r)
		}
	}()
	f()
	return true
}

func (k *fakeKernel) apply(op ipvsctl.Op) error {
	if k.refuse != nil {
		if err := k.refuse(op); err != nil {
			return err
		}
	}
	return k.table.Apply(op)
}

// tableOf reads "80: 1/3 2/0; 443: 1/1": services by port, servers by last octet and weight.
func tableOf(text string) ipvsctl.Table {
	table := make(ipvsctl.Table)
	for entry := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(entry) == "" {
			continue
		}
		var port uint16
		head, servers, _ := strings.Cut(entry, ":")
		fmt.Sscan(head, &port)
		service := ipvsctl.Service{Settings: ipvsctl.Settings{Scheduler: "rr"}, Destinations: map[netip.AddrPort]ipvsctl.Destination{}}
		for _, word := range strings.Fields(servers) {
			var octet byte
			var weight int
			fmt.Sscanf(word, "%d/%d", &octet, &weight)
			service.Destinations[netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, octet}), port)] = ipvsctl.Destination{Weight: weight}
		}
		table[ipvsctl.ServiceKey{Protocol: ipvsctl.TCP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10}), port)}] = service
	}
	return table
}

// told collects what a keeper says.
type told []string

func (e *told) emit(event status.Event) {
	what := event.What
	if event.Server.IsValid() {
		what += " " + event.Server.String()
	}
	*e = append(*e, strings.TrimSuffix(what+": "+event.Cause, ": "))
}

func newKeeper(t rapid.TB, k kernel, path string, events *told) *keeper {
	owned, err := loadOwnership(path, "this boot")
	if err != nil {
		t.Fatal(err)
	}
	return &keeper{kernel: k, owned: owned, emit: events.emit, totals: &status.Totals{}, refused: map[opID]*refusal{}}
}

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func expectTable(t *testing.T, k *fakeKernel, want string) {
	t.Helper()
	if ops := ipvsctl.Diff(k.table, tableOf(want)); len(ops) > 0 {
		t.Errorf("the kernel's table is not %q, it takes %v", want, ops)
	}
}

func TestKeeperAdoptsAndLeavesForeignEntries(t *testing.T) {
	k := &fakeKernel{table: tableOf("80: 1/9 7/1; 22: 5/1")}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	keep.configured = entriesOf(tableOf("80: 1/1 2/1"))
	keep.adopt(t.Context(), begin, k.table.Clone(), tableOf("80: 1/1 2/1"), nil)
	expectTable(t, k, "80: 1/1 2/1 7/1; 22: 5/1") // 7 and 22 belong to somebody else
	slices.Sort(events)
	want := told{
		"foreign entry found, left alone 10.0.0.7:80",
		"foreign entry found, left alone: 192.0.2.10:22",
		"table changed: 192.0.2.10:80: 10.0.0.2:80 added, weight 1, 10.0.0.1:80 weight 9 → 1",
	}
	if !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
	k.writes, events = nil, nil
	keep.verify(t.Context(), begin, tableOf("80: 1/1 2/1"))
	if len(events) > 0 {
		t.Errorf("events %q where nothing happened", events)
	}
	if len(k.writes) > 0 {
		t.Errorf("a table that is right was written to: %q", k.writes)
	}
}

func TestKeeperRemovesOnlyOursAfterARestart(t *testing.T) {
	k := &fakeKernel{table: tableOf("22: 5/1")}
	path := filepath.Join(t.TempDir(), "owned.json")
	var events told
	newKeeper(t, k, path, &events).verify(t.Context(), begin, tableOf("80: 1/1 2/1; 443: 1/1"))

	// The next run has a configuration without 443 and without 2: it knows from the file that they were ours.
	restarted := newKeeper(t, k, path, &events)
	restarted.verify(t.Context(), begin, tableOf("80: 1/1"))
	expectTable(t, k, "80: 1/1; 22: 5/1")
	restarted.remove(t.Context(), begin)
	expectTable(t, k, "22: 5/1")
}

func TestKeeperAnotherBootsFileMeansNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "owned.json")
	old := &ownership{path: path, bootID: "an earlier boot"}
	if err := old.exactly(tableOf("22: 5/1")); err != nil {
		t.Fatal(err)
	}
	k := &fakeKernel{table: tableOf("22: 5/1")}
	var events told
	newKeeper(t, k, path, &events).verify(t.Context(), begin, tableOf("80: 1/1"))
	expectTable(t, k, "80: 1/1; 22: 5/1")
}

func TestKeeperHealsDrift(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}}
	var events told
	want := tableOf("80: 1/1 2/1 3/1; 443: 1/1")
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	keep.verify(t.Context(), begin, want)

	k.table = tableOf("443: 1/5; 22: 5/1") // as after ipvsadm -C, and somebody else's new service
	keep.verify(t.Context(), begin, want)
	expectTable(t, k, "80: 1/1 2/1 3/1; 443: 1/1; 22: 5/1")
	wantEvents := told{
		"foreign entry found, left alone: 192.0.2.10:22",
		"drift: 192.0.2.10:80: changed by somebody else, put back: added, scheduler rr, " +
			"10.0.0.1:80 added, weight 1, 10.0.0.2:80 added, weight 1, 10.0.0.3:80 added, weight 1",
		"drift: 192.0.2.10:443: changed by somebody else, put back: 10.0.0.1:443 weight 5 → 1",
	}
	if !slices.Equal(events, wantEvents) {
		t.Errorf("events %q, want %q", events, wantEvents)
	}
	if keep.totals.Drift != 5 {
		t.Errorf("drift counted %d, want 5", keep.totals.Drift)
	}
}

// TestKeeperTakesOutWhatWasPutInByHand: a configured server that is not to be in the table, because it is
// down or because it is the sorry server, is ours all the same.
func TestKeeperTakesOutWhatWasPutInByHand(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	keep.configured = entriesOf(tableOf("80: 1/1 2/1 9/1"))
	want := tableOf("80: 1/1")
	keep.adopt(t.Context(), begin, k.table.Clone(), want, nil)
	k.table = tableOf("80: 1/1 2/1 9/1")
	events = nil
	keep.verify(t.Context(), begin, want)
	expectTable(t, k, "80: 1/1")
	if want := (told{"drift: 192.0.2.10:80: changed by somebody else, put back: 10.0.0.2:80 removed, 10.0.0.9:80 removed"}); !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

// TestKeeperAdoptionIsNoDrift: what somebody added by hand and then wrote into the file was not put back.
func TestKeeperAdoptionIsNoDrift(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	keep.adopt(t.Context(), begin, k.table.Clone(), tableOf("80: 1/1"), nil)
	k.table = tableOf("80: 1/1 2/1")
	keep.configured = entriesOf(tableOf("80: 1/1 2/1"))
	events = nil
	keep.adopt(t.Context(), begin, k.table.Clone(), tableOf("80: 1/1 2/1"), nil)
	if len(events) > 0 || keep.totals.Drift != 0 {
		t.Errorf("events %q, drift %d, want none", events, keep.totals.Drift)
	}
}

func TestKeeperWithoutADisk(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}}
	var events told
	dir := filepath.Join(t.TempDir(), "not yet")
	keep := newKeeper(t, k, filepath.Join(dir, "owned.json"), &events)
	for range 3 {
		keep.verify(t.Context(), begin, tableOf("80: 1/1; 443: 1/1"))
	}
	keep.verify(t.Context(), begin, tableOf("80: 1/1")) // what is ours is known in memory
	expectTable(t, k, "80: 1/1")
	if len(events) != 1 || !strings.HasPrefix(events[0], "ownership not recorded: ") {
		t.Errorf("events %q, want the trouble, once", events)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	keep.verify(t.Context(), begin, tableOf("80: 1/1"))
	if last := events[len(events)-1]; last != "ownership recorded again" {
		t.Errorf("last event %q", last)
	}
}

func TestKeeperRemoveSaysWhatIsLeft(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	keep.verify(t.Context(), begin, tableOf("80: 1/1"))
	k.refuse = func(op ipvsctl.Op) error { return fmt.Errorf("%v: %w", op, unix.EBUSY) }
	_, err := keep.remove(t.Context(), begin)
	if want := "still in the kernel: [remove 192.0.2.10:80]"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestKeeperRefusal(t *testing.T) {
	noRoute := netip.MustParseAddrPort("10.0.0.9:80")
	k := &fakeKernel{table: ipvsctl.Table{}, refuse: func(op ipvsctl.Op) error {
		if op.Server == noRoute {
			return errors.New(op.String() + ": invalid argument")
		}
		return nil
	}}
	var events told
	want := tableOf("80: 1/1 9/1; 443: 1/1")
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)

	// The others are served, the refusal is said once, and tried again later and later.
	var tried []time.Duration
	for wait := time.Duration(0); wait < 20*time.Second; wait += 500 * time.Millisecond {
		k.writes = nil
		keep.apply(t.Context(), begin.Add(wait), want)
		if slices.ContainsFunc(k.writes, func(w string) bool { return strings.Contains(w, "10.0.0.9") }) {
			tried = append(tried, wait)
		}
	}
	expectTable(t, k, "80: 1/1; 443: 1/1")
	wantTried := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}
	if !slices.Equal(tried, wantTried) {
		t.Errorf("tried at %v, want %v", tried, wantTried)
	}
	wantEvents := told{"kernel refuses: add 192.0.2.10:80 10.0.0.9:80 nat weight 1: invalid argument"}
	if !slices.Equal(events, wantEvents) {
		t.Errorf("events %q, want %q", events, wantEvents)
	}
	if next := keep.nextRetry(); next != begin.Add(31*time.Second) {
		t.Errorf("next retry %v after the beginning, want 31s", next.Sub(begin))
	}

	k.refuse = nil
	keep.apply(t.Context(), begin.Add(time.Minute), want)
	expectTable(t, k, "80: 1/1 9/1; 443: 1/1")
	if last := events[len(events)-1]; last != "kernel accepts: add 192.0.2.10:80 10.0.0.9:80 nat weight 1" {
		t.Errorf("last event %q", last)
	}
}

func TestKeeperRefusedServiceIsOneStory(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}, refuse: func(op ipvsctl.Op) error {
		if op.Kind == ipvsctl.AddService {
			return fmt.Errorf("%v: %w", op, unix.ENOENT)
		}
		return nil
	}}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	keep.verify(t.Context(), begin, tableOf("80: 1/1 2/1"))
	if want := (told{"kernel refuses: add 192.0.2.10:80 scheduler rr: no such file or directory"}); !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
	key := slices.Collect(maps.Keys(tableOf("80:")))[0]
	if got := keep.problem(key); got != "add 192.0.2.10:80 scheduler rr: no such file or directory" {
		t.Errorf("problem %q", got)
	}
}

// What somebody else took away cannot be edited. Added again it is as wanted, and nothing is left to retry.
func TestKeeperForgetsRefusalsOvertakenByEvents(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	keep.verify(t.Context(), begin, tableOf("80: 1/1 2/1"))
	k.table = tableOf("80: 2/1")
	keep.apply(t.Context(), begin, tableOf("80: 1/0 2/1"))
	if keep.nextRetry().IsZero() {
		t.Fatal("nothing was refused")
	}
	keep.apply(t.Context(), keep.nextRetry(), tableOf("80: 1/0 2/1"))
	expectTable(t, k, "80: 1/0 2/1")
	if next := keep.nextRetry(); !next.IsZero() {
		t.Errorf("next retry at %v, want none", next)
	}
}

// The caller keeps its table and changes it: that must not look like the kernel's own.
func TestKeeperSeesChangesOfTheSameTable(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	want := tableOf("80: 1/1")
	keep.apply(t.Context(), begin, want)
	maps.Copy(want, tableOf("80: 1/0"))
	keep.apply(t.Context(), begin, want)
	expectTable(t, k, "80: 1/0")
}

func TestKeeperUnreadableKernelIsSaidOnce(t *testing.T) {
	k := &fakeKernel{table: ipvsctl.Table{}, unread: errors.New("read services: no answer")}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	for range 3 {
		keep.verify(t.Context(), begin, tableOf("80: 1/1"))
	}
	k.unread = nil
	keep.verify(t.Context(), begin, tableOf("80: 1/1"))
	expectTable(t, k, "80: 1/1")
	want := told{"kernel table unreadable: read services: no answer", "kernel table readable again"}
	if !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

// TestKeeperConverges: whatever others do to the table, whatever the kernel refuses meanwhile and however
// often the balancer is killed, in the end ours is as wanted and what was never ours is untouched.
func TestKeeperConverges(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs))
		k := &fakeKernel{table: tableOf("22: 5/1; 80: 7/1")}
		var events told
		keep := newKeeper(t, k, path, &events)
		wants := []string{"80: 1/1 2/1; 443: 1/1", "80: 1/0 3/2", "443: 1/1 2/2", ""}
		want := tableOf(wants[0])
		now := begin
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			now = now.Add(time.Minute)
			switch rapid.SampledFrom([]string{"reload", "flush", "weight", "refuse", "accept", "kill", "tick"}).Draw(t, "event") {
			case "reload":
				want = tableOf(rapid.SampledFrom(wants).Draw(t, "file"))
				k.killIn = rapid.IntRange(0, 8).Draw(t, "killed in") // 0 and whatever is beyond the last change: not
				if !unlessKilled(func() { keep.apply(t.Context(), now, want) }) {
					keep = newKeeper(t, k, path, &events)
				}
				k.killIn = 0
			case "flush":
				for key := range k.table {
					if key.Addr.Port() != 22 {
						delete(k.table, key)
					}
				}
			case "weight":
				for _, service := range k.table {
					for addr, d := range service.Destinations {
						if _, ours := keep.owned.entries[ipvsctl.ServiceKey{Protocol: ipvsctl.TCP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10}), addr.Port())}][addr]; ours {
							d.Weight++
							service.Destinations[addr] = d
						}
					}
				}
			case "refuse":
				k.refuse = func(ipvsctl.Op) error { return unix.ENOMEM }
			case "accept":
				k.refuse = nil
			case "kill":
				keep = newKeeper(t, k, path, &events)
			case "tick":
				keep.verify(t.Context(), now, want)
			}
		}
		k.refuse = nil
		keep.verify(t.Context(), now.Add(time.Hour), want)
		for key, service := range want {
			for addr, d := range service.Destinations {
				if got := k.table[key].Destinations[addr]; got != d {
					t.Fatalf("%v %v is %+v, want %+v", key, addr, got, d)
				}
			}
		}
		for key, service := range k.table {
			for addr := range service.Destinations {
				_, wanted := want[key].Destinations[addr]
				foreign := addr.Addr().As4()[3] == 5 || addr.Addr().As4()[3] == 7
				if !wanted && !foreign {
					t.Fatalf("%v %v was left behind", key, addr)
				}
			}
		}
		if _, there := k.table[ipvsctl.ServiceKey{Protocol: ipvsctl.TCP, Addr: netip.MustParseAddrPort("192.0.2.10:22")}]; !there {
			t.Fatal("the foreign service is gone")
		}
	})
}

// A service that is held is nobody's to change but the operator's, until it is let go.
func TestKeeperHolds(t *testing.T) {
	k := &fakeKernel{table: tableOf("80: 1/1 2/1; 81: 1/1")}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	web := ipvsctl.ServiceKey{Protocol: ipvsctl.TCP, Addr: netip.MustParseAddrPort("192.0.2.10:80")}
	keep.configured = entriesOf(tableOf("80: 1/1 2/1; 81: 1/1"))
	keep.held = map[ipvsctl.ServiceKey]bool{web: true}
	want := tableOf("80: 1/5 2/0; 81: 1/2")

	keep.adopt(t.Context(), begin, k.table.Clone(), want, nil)
	expectTable(t, k, "80: 1/1 2/1; 81: 1/2")

	// Whatever somebody does to it, it stays so, and is no drift.
	k.table = tableOf("80: 1/7 2/1; 81: 1/9")
	events = nil
	keep.verify(t.Context(), begin, want)
	expectTable(t, k, "80: 1/7 2/1; 81: 1/2")
	if want := (told{"drift: 192.0.2.10:81: changed by somebody else, put back: 10.0.0.1:81 weight 9 → 2"}); !slices.Equal(events, want) {
		t.Errorf("said %q, want %q", events, want)
	}
	k.table = tableOf("81: 1/2")
	keep.verify(t.Context(), begin, want)
	want[web].Destinations[netip.MustParseAddrPort("10.0.0.1:80")] = ipvsctl.Destination{Weight: 3} // a verdict
	keep.apply(t.Context(), begin, want)
	expectTable(t, k, "81: 1/2")

	clear(keep.held)
	keep.verify(t.Context(), begin, want)
	expectTable(t, k, "80: 1/3 2/0; 81: 1/2")

	// A stop that removes all leaves it, too, and says so.
	keep.held[web] = true
	if left, err := keep.remove(t.Context(), begin); !left || err != nil {
		t.Errorf("left behind: %v, error %v", left, err)
	}
	expectTable(t, k, "80: 1/3 2/0")
	clear(keep.held)
	if left, err := keep.remove(t.Context(), begin); left || err != nil {
		t.Errorf("nothing is held, left behind: %v, error %v", left, err)
	}
	expectTable(t, k, "")
}

// What leaves is there until what must come before has come, and if that fails it stays. All of it is said.
func TestKeeperAdoptsInTwoSteps(t *testing.T) {
	k := &fakeKernel{table: tableOf("80: 1/1; 81: 1/1")}
	var events told
	keep := newKeeper(t, k, filepath.Join(t.TempDir(), "owned.json"), &events)
	keep.configured = entriesOf(k.table)
	want := tableOf("80: 1/2; 82: 1/1")
	failed := errors.New("no nftables")
	err := keep.adopt(t.Context(), begin, k.table.Clone(), want, func() error {
		expectTable(t, k, "80: 1/2; 81: 1/1; 82: 1/1")
		return failed
	})
	if err != failed {
		t.Errorf("error %v, want %v", err, failed)
	}
	expectTable(t, k, "80: 1/2; 81: 1/1; 82: 1/1")
	events = nil
	if err := keep.adopt(t.Context(), begin, k.table.Clone(), want, func() error { return nil }); err != nil {
		t.Error(err)
	}
	expectTable(t, k, "80: 1/2; 82: 1/1")
	if said := (told{"table changed: 192.0.2.10:81: removed"}); !slices.Equal(events, said) {
		t.Errorf("said %q, want %q", events, said)
	}
}
