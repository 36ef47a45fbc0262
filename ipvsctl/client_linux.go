package ipvsctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Client talks to the IPVS of the network namespace it was opened in. One goroutine at a time may use it.
type Client struct {
	socket *socket
	family uint16 // assigned by the kernel when the module is loaded, and again when it is reloaded
}

// ErrNoIPVS is what Open returns where there is no IPVS.
var ErrNoIPVS = errors.New("this kernel has no IPVS: run \"modprobe ip_vs\" as root, or install a kernel that has the module")

// Open returns a client for the calling thread's network namespace. Without IPVS, or without the right to
// use it, the error says what to do.
func Open(ctx context.Context) (*Client, error) {
	socket, err := openSocket()
	if err != nil {
		return nil, err
	}
	c := &Client{socket: socket}
	// Every command, reading too, is refused without the capability: ask now rather than at the first change.
	if _, err := c.Info(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close closes the socket. The kernel keeps its table.
func (c *Client) Close() { c.socket.close() }

// resolve learns the family's number; asked for the name, the kernel loads the module by itself. To a
// message with the number 0 it answers "done" and does nothing, so that must never be used.
func (c *Client) resolve() error {
	family, err := netlink.GenlFamilyGet(familyName)
	switch {
	case errors.Is(err, unix.ENOENT), err == nil && family.ID == 0:
		return ErrNoIPVS
	case err != nil:
		return fmt.Errorf("look up generic netlink family %s: %w", familyName, err)
	}
	c.family = family.ID
	return nil
}

// Info asks what the kernel's IPVS is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	if err := c.resolve(); err != nil {
		return Info{}, err
	}
	var info Info
	err := c.ask(ctx, 0, cmdGetInfo, nil, func(b []byte) (err error) {
		info, err = decodeInfo(b)
		return err
	})
	return info, wrap("read info", err)
}

// Table reads what the kernel balances now.
func (c *Client) Table(ctx context.Context) (Table, error) {
	table, _, err := c.Read(ctx)
	return table, err
}

// Read is Table with the counters of all that is in it. The kernel gives no snapshot: an entry that
// is added or removed meanwhile may be in or out.
func (c *Client) Read(ctx context.Context) (Table, map[ServiceKey]ServiceStats, error) {
	table := make(Table)
	stats := make(map[ServiceKey]ServiceStats)
	err := c.Services(ctx, func(key ServiceKey, settings Settings, counted ServiceStats) {
		counted.Destinations = make(map[netip.AddrPort]DestinationStats)
		table[key] = Service{Settings: settings, Destinations: make(map[netip.AddrPort]Destination)}
		stats[key] = counted
	})
	if err != nil {
		return nil, nil, err
	}
	for key := range table {
		err := c.Servers(ctx, key, func(server netip.AddrPort, d Destination, counted DestinationStats) {
			table[key].Destinations[server], stats[key].Destinations[server] = d, counted
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return table, stats, nil
}

// Services hands the services to take one after the other, in the kernel's order and without their servers.
func (c *Client) Services(ctx context.Context, take func(ServiceKey, Settings, ServiceStats)) error {
	if err := c.resolve(); err != nil {
		return err
	}
	err := c.ask(ctx, unix.NLM_F_DUMP, cmdGetService, nil, func(b []byte) error {
		key, settings, counted, err := decodeService(b)
		if err == nil {
			take(key, settings, counted)
		}
		return err
	})
	return wrap("read services", err)
}

// Service reads one service, without its servers. One that is not there is ESRCH.
func (c *Client) Service(ctx context.Context, key ServiceKey) (s Settings, counted ServiceStats, err error) {
	err = c.ask(ctx, 0, cmdGetService, appendService(nil, key, nil), func(b []byte) (err error) {
		_, s, counted, err = decodeService(b)
		return err
	})
	return s, counted, wrap(fmt.Sprintf("read %v", key), err)
}

// Servers hands the servers of one service to take, the one that was added last first. A service that is not there has none.
func (c *Client) Servers(ctx context.Context, key ServiceKey, take func(netip.AddrPort, Destination, DestinationStats)) error {
	family := familyOf(key.Addr.Addr())
	err := c.ask(ctx, unix.NLM_F_DUMP, cmdGetDest, appendService(nil, key, nil), func(b []byte) error {
		server, d, counted, err := decodeDest(b, family)
		if err == nil {
			take(server, d, counted)
		}
		return err
	})
	return wrap(fmt.Sprintf("read servers of %v", key), err)
}

// batchSize is how many changes go to the kernel in one message. Twice as many are no faster; nearly three times as
// many errors would not fit into the socket's buffer.
const batchSize = 100

// Apply carries out the changes one after the other and returns one error for each, nil where it
// succeeded. A change that fails does not stop those behind it.
func (c *Client) Apply(ctx context.Context, ops []Op) []error {
	errs := make([]error, len(ops))
	for first := 0; first < len(ops); first += batchSize {
		last := min(first+batchSize, len(ops))
		c.applyBatch(ctx, ops[first:last], errs[first:last])
	}
	return errs
}

// applyBatch sends the changes at once. The kernel works through them in order and reports each that fails, with
// its number; the last one asks for an answer in any case, and with that all have been said.
func (c *Client) applyBatch(ctx context.Context, ops []Op, errs []error) {
	if err := ctx.Err(); err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("%v: %w", ops[i], err)
		}
		return
	}
	failed, err := c.socket.batch(c.family, len(ops), func(b []byte, i int) (uint8, []byte) {
		return opCommands[ops[i].Kind], appendOp(b, &ops[i])
	})
	for i, err := range failed {
		errs[i] = fmt.Errorf("%v: %w", ops[i], explainOp(ops[i], err))
	}
	if err != nil {
		c.findOut(ctx, ops, errs, err)
	}
}

// findOut reads which changes of a batch were made whose answers are lost.
func (c *Client) findOut(ctx context.Context, ops []Op, errs []error, lost error) {
	c.socket.drain()
	table, unread := make(Table), make(map[ServiceKey]bool)
	for key := range services(ops) {
		settings, _, err := c.Service(ctx, key)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		s := Service{settings, make(map[netip.AddrPort]Destination)}
		if err == nil {
			err = c.Servers(ctx, key, func(server netip.AddrPort, d Destination, _ DestinationStats) { s.Destinations[server] = d })
		}
		if err != nil {
			unread[key] = true
			lost = errors.Join(lost, err)
		}
		table[key] = s
	}
	for i, op := range ops {
		if errs[i] == nil && (unread[op.Service] || !op.doneIn(table)) {
			errs[i] = fmt.Errorf("%v: %w", op, explain(lost))
		}
	}
}

// Zero sets the counters of the services named, and of their servers, to 0; of everything when none is named.
func (c *Client) Zero(ctx context.Context, keys ...ServiceKey) error {
	if len(keys) == 0 {
		return wrap("zero counters", c.ask(ctx, unix.NLM_F_ACK, cmdZero, nil, nil))
	}
	var errs []error
	for _, key := range keys {
		err := c.ask(ctx, unix.NLM_F_ACK, cmdZero, appendService(nil, key, nil), nil)
		errs = append(errs, wrap(fmt.Sprintf("zero %v", key), err))
	}
	return errors.Join(errs...)
}

// Daemons reads which synchronisation daemons run, at most one of each role.
func (c *Client) Daemons(ctx context.Context) ([]Daemon, error) {
	if err := c.resolve(); err != nil {
		return nil, err
	}
	var daemons []Daemon
	err := c.ask(ctx, unix.NLM_F_DUMP, cmdGetDaemon, nil, func(b []byte) error {
		d, err := decodeDaemon(b)
		daemons = append(daemons, d)
		return err
	})
	return daemons, wrap("read sync daemons", err)
}

// StartDaemon starts a synchronisation daemon. Its role must be free.
func (c *Client) StartDaemon(ctx context.Context, d Daemon) error {
	err := c.ask(ctx, unix.NLM_F_ACK, cmdNewDaemon, appendDaemon(nil, d), nil)
	return wrap(fmt.Sprintf("start %v", d), err)
}

// StopDaemon stops the daemon with this role.
//
// The kernel says nothing at all when it stopped a daemon that had no time to begin: kthread_stop gives EINTR then, to which
// netlink_rcv_skb has no answer. So there is a second request in the same message, and its answer ends the wait.
func (c *Client) StopDaemon(ctx context.Context, role Role) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	failed, err := c.socket.batch(c.family, 2, func(b []byte, i int) (uint8, []byte) {
		if i == 1 {
			return cmdGetInfo, b
		}
		b, nest := beginNest(b, attrDaemon)
		return cmdDelDaemon, endNest(append32(b, daemonRole, uint32(role)), nest)
	})
	return wrap("stop sync "+role.String(), explain(cmp.Or(failed[0], err)))
}

// ask sends one request and hands the attributes of each message of the answer to take, which must not keep them.
func (c *Client) ask(ctx context.Context, flags uint16, command uint8, attributes []byte, take func([]byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return explain(c.socket.ask(c.family, flags, command, attributes, take))
}

// services are the services that ops are about.
func services(ops []Op) map[ServiceKey]bool {
	keys := make(map[ServiceKey]bool)
	for _, op := range ops {
		keys[op.Service] = true
	}
	return keys
}

// explainOp adds what an errno means as the answer to one kind of change.
func explainOp(op Op, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT) && (op.Kind == AddService || op.Kind == EditService):
		missing := fmt.Sprintf("this kernel has no scheduler %q (module ip_vs_%[1]s)", op.Settings.Scheduler)
		if op.Settings.Engine != "" {
			missing += fmt.Sprintf(", or no persistence engine %q (module ip_vs_pe_%[1]s)", op.Settings.Engine)
		}
		return fmt.Errorf("%w: %s", err, missing)
	case errors.Is(err, unix.EINVAL) && op.Kind == AddDestination:
		other := ""
		if op.Server.Addr().Is6() != op.Service.IsIPv6() {
			other = ", or a daemon that synchronises connections runs, which bears no server of another family"
		}
		return fmt.Errorf("%w: is %v the address of one host? It may be a broadcast address of one of this host's networks%s", err, op.Server.Addr(), other)
	}
	return explain(err)
}

// explain adds to an errno what it means here, where the bare text would mislead.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: IPVS needs CAP_NET_ADMIN in the initial user namespace: run as root", err)
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("no answer from the kernel within %v", answerTimeout)
	case errors.Is(err, unix.ENOBUFS):
		return errors.New("the kernel's answer was lost")
	}
	return err
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
