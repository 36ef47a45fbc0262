package ipvsctl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// answerTimeout bounds the wait for one answer of the kernel, which normally takes microseconds.
// A lost answer must become an error: the table is read again then.
var answerTimeout = unix.Timeval{Sec: 5}

// Client talks to the IPVS of the network namespace it was opened in. One goroutine at a time may use it.
type Client struct {
	socket *nl.SocketHandle
	family uint16 // assigned by the kernel when the module is loaded, and again when it is reloaded
}

// Open returns a client for the calling thread's network namespace. Without IPVS, or without the right to
// use it, the error says what to do.
func Open(ctx context.Context) (*Client, error) {
	socket, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("generic netlink socket: %w", err)
	}
	if err := errors.Join(socket.SetSendTimeout(&answerTimeout), socket.SetReceiveTimeout(&answerTimeout)); err != nil {
		socket.Close()
		return nil, fmt.Errorf("generic netlink socket: %w", err)
	}
	c := &Client{socket: &nl.SocketHandle{Socket: socket}}
	// Every command, reading too, is refused without the capability: ask now rather than at the first change.
	if _, err := c.Table(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close closes the socket. The kernel keeps its table.
func (c *Client) Close() { c.socket.Close() }

// resolve learns the family's number; asked for the name, the kernel loads the module by itself. To a
// message with the number 0 it answers "done" and does nothing, so that must never be used.
func (c *Client) resolve() error {
	family, err := netlink.GenlFamilyGet(familyName)
	switch {
	case errors.Is(err, unix.ENOENT), err == nil && family.ID == 0:
		return errors.New("this kernel has no IPVS: run \"modprobe ip_vs\" as root, or install a kernel that has the module")
	case err != nil:
		return fmt.Errorf("look up generic netlink family %s: %w", familyName, err)
	}
	c.family = family.ID
	return nil
}

// Table reads what the kernel balances now. Services by firewall mark and protocols poise does not
// configure are left out.
func (c *Client) Table(ctx context.Context) (Table, error) {
	table, _, err := c.Read(ctx)
	return table, err
}

// Read is Table with the counters of all that is in it. The kernel gives no snapshot: an entry that
// is added or removed meanwhile may be in or out.
func (c *Client) Read(ctx context.Context) (Table, map[ServiceKey]ServiceStats, error) {
	if err := c.resolve(); err != nil {
		return nil, nil, err
	}
	table := make(Table)
	stats := make(map[ServiceKey]ServiceStats)
	messages, err := c.execute(ctx, unix.NLM_F_DUMP, genlHeader(cmdGetService))
	if err != nil {
		return nil, nil, fmt.Errorf("read services: %w", explain(err))
	}
	for _, m := range messages {
		key, settings, counters, err := decodeService(m)
		if errors.Is(err, errNotAddress) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read services: %w", err)
		}
		table[key] = Service{Settings: settings, Destinations: make(map[netip.AddrPort]Destination)}
		stats[key] = ServiceStats{Counters: counters, Destinations: make(map[netip.AddrPort]DestinationStats)}
	}
	for key := range table {
		messages, err := c.execute(ctx, unix.NLM_F_DUMP, appendService(genlHeader(cmdGetDest), key, nil))
		if err != nil {
			return nil, nil, fmt.Errorf("read servers of %v: %w", key, explain(err))
		}
		for _, m := range messages {
			server, d, counted, err := decodeDest(m, familyOf(key.Addr.Addr()))
			if err != nil {
				return nil, nil, fmt.Errorf("read servers of %v: %w", key, err)
			}
			table[key].Destinations[server] = d
			stats[key].Destinations[server] = counted
		}
	}
	return table, stats, nil
}

// Apply carries out the changes one after the other and returns one error for each, nil where it
// succeeded. A change that fails does not stop those behind it.
func (c *Client) Apply(ctx context.Context, ops []Op) []error {
	errs := make([]error, len(ops))
	for i, op := range ops {
		if _, err := c.execute(ctx, unix.NLM_F_ACK, encodeOp(op)); err != nil {
			errs[i] = fmt.Errorf("%v: %w", op, explainOp(op, err))
		}
	}
	return errs
}

func (c *Client) execute(ctx context.Context, flags int, payload []byte) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	request := nl.NewNetlinkRequest(int(c.family), flags)
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_GENERIC: c.socket}
	request.AddRawData(payload)
	return request.Execute(unix.NETLINK_GENERIC, 0)
}

// explainOp adds what an errno means as the answer to one kind of change.
func explainOp(op Op, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT) && (op.Kind == AddService || op.Kind == EditService):
		return fmt.Errorf("%w: this kernel has no scheduler %q (module ip_vs_%[2]s)", err, op.Settings.Scheduler)
	case errors.Is(err, unix.EINVAL) && op.Kind == AddDestination:
		return fmt.Errorf("%w: is %v the address of one host? It may be a broadcast address of one of this host's networks", err, op.Server.Addr())
	}
	return explain(err)
}

// explain adds to an errno what it means here, where the bare text would mislead.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: IPVS needs CAP_NET_ADMIN in the initial user namespace: run as root", err)
	case errors.Is(err, unix.EAGAIN):
		return errors.New("no answer from the kernel within 5s")
	}
	return err
}
