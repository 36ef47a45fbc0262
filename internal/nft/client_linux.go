package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Client talks to the nftables of the network namespace it was opened in. One goroutine at a time may use it.
type Client struct {
	place   *place
	library *nftables.Conn
	socket  *netlink.Conn // the library's own, for what it cannot ask or send

	// have is what was read last, in the kernel's generation seen. Every transaction, of anybody, begins another one; none
	// is 0.
	have *table
	seen uint32

	// found are the differences between want and what was read in the generation compared.
	want     Rules
	compared uint32
	found    []string
}

// Open returns a client for the calling thread's network namespace. Without nftables, or without the right to use it, the
// error says what to do.
func Open() (*Client, error) { return openAt(directorPlace) }

func openAt(p *place) (*Client, error) {
	c := &Client{place: p}
	library, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(socket *netlink.Conn) error {
		c.socket = socket
		return errors.Join(
			socket.SetOption(netlink.CapAcknowledge, true), // errors need not repeat the message
			socket.SetWriteBuffer(maxTransaction),
		)
	}))
	if err != nil {
		return nil, p.explainOpen(err)
	}
	c.library = library
	if _, err := c.generation(); err != nil {
		c.Close()
		return nil, p.explainOpen(err)
	}
	return c, nil
}

// Try tells whether the kernel can do what r wants. It has it done in a network namespace of its own, where there are no packets,
// and which is gone when this returns. Who may not make one is told nothing is wrong: Replace will say.
func Try(r Rules) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // where there is no way back the thread ends with the goroutine
		home, err := netns.Get()
		if err != nil {
			result <- nil
			return
		}
		defer home.Close()
		var problem error
		if other, err := netns.New(); err == nil {
			problem = try(r)
			other.Close()
		}
		result <- problem
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return <-result
}

func try(r Rules) error {
	c, err := Open()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Replace(r)
}

// maxTransaction bounds what is sent at once: some 100 bytes an element. No memory is set aside for it.
const maxTransaction = 64 << 20

// Close closes the socket. The kernel keeps the table.
func (c *Client) Close() { c.library.CloseLasting() }

// begin makes the socket ready for a question. What is left of the answer to an earlier one that failed would be taken for
// this one's. The kernel answers before it lets go of who asks: the deadline is for the day when it does not.
func (c *Client) begin() error {
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Control(func(fd uintptr) {
		var first [1]byte
		for err := error(nil); err != unix.EAGAIN; {
			_, _, err = unix.Recvfrom(int(fd), first[:], unix.MSG_DONTWAIT)
		}
	})
	return errors.Join(err, c.socket.SetDeadline(time.Now().Add(10*time.Second)))
}

// Replace makes the kernel's table what r wants in one transaction: packets meet the old table or the new one. After an
// error the old one is still there.
func (c *Client) Replace(r Rules) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return c.replace(tableOf(r))
}

func (c *Client) replace(t *table) error {
	batch, err := t.replacement()
	if err == nil {
		err = c.transact(batch)
	}
	if err != nil {
		return fmt.Errorf("nftables: %w", c.place.explain(err))
	}
	return nil
}

// transact has all messages carried out, or none. The kernel reports the last, or else the first that it refuses.
func (c *Client) transact(batch []netlink.Message) error {
	if err := c.begin(); err != nil {
		return err
	}
	if _, err := c.socket.SendMessages(batch); err != nil {
		return err
	}
	_, err := c.socket.Receive()
	return err
}

// Differences says in what the kernel's table is not what r wants, each in a few words; nothing means that it is. As long
// as nobody has changed any table, nor the caller his mind, it costs one short question to the kernel.
func (c *Client) Differences(r Rules) ([]string, error) {
	if err := c.look(); err != nil {
		return nil, fmt.Errorf("nftables: %w", c.place.explain(err))
	}
	if c.compared != c.seen || !c.want.Equal(r) {
		c.want, c.compared, c.found = r.Merge(Rules{}), c.seen, tableOf(r).differences(c.have)
	}
	return slices.Clone(c.found), nil
}

// look reads the table unless it is known. Reading takes several questions, between which others may change it: what was
// read is true only if all of it is of one generation.
func (c *Client) look() error {
	if err := c.begin(); err != nil {
		return err
	}
	before, err := c.generation()
	if err != nil || before == c.seen {
		return err
	}
	for range 10 {
		// A transaction counts the generation up a little before what it does is seen, or, in newer kernels, a little
		// after. So none may be in between when reading begins, nor when the number is asked again.
		err := c.settle()
		have, problem := c.read()
		err = errors.Join(err, c.settle())
		after, genErr := c.generation()
		switch {
		case err != nil || genErr != nil:
			return errors.Join(err, genErr)
		case after == before && problem != nil:
			return problem
		case after == before:
			c.have, c.seen = have, after
			return nil
		}
		before = after
	}
	return errors.New("changes faster than it can be read")
}

// settle waits for the end of a transaction that is under way: an empty one has to wait for its turn, and changes nothing.
func (c *Client) settle() error {
	bound := func(kind netlink.HeaderType) netlink.Message {
		m := message(0, 0, unix.AF_UNSPEC, nil)
		m.Header.Type = kind
		binary.BigEndian.PutUint16(m.Data[2:], unix.NFNL_SUBSYS_NFTABLES)
		return m
	}
	_, err := c.socket.SendMessages([]netlink.Message{bound(unix.NFNL_MSG_BATCH_BEGIN), bound(unix.NFNL_MSG_BATCH_END)})
	return err
}

func (c *Client) generation() (id uint32, err error) {
	answer, err := c.socket.Execute(message(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil))
	for _, m := range answer {
		ad, err := decoder(m)
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				id = ad.Uint32()
			}
		}
		if ad.Err() != nil {
			return 0, ad.Err()
		}
	}
	return id, err
}

// read asks for everything that is in our table.
func (c *Client) read() (*table, error) {
	ours, err := c.library.ListTableOfFamily(c.place.name, c.place.family)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t := newTable(c.place)
	t.flagged = ours.Flags != 0
	// What somebody else has put there may be of a kind that the library does not know: a difference, and no error, so that
	// it is put right.
	t.unread = c.readSets(t, ours)
	return t, errors.Join(c.readChains(t), c.readRules(t))
}

func (c *Client) readSets(t *table, ours *nftables.Table) error {
	kinds, err := c.library.GetSets(ours)
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		elements, err := c.library.GetSetElements(kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.Name, err)
		}
		s := set{kind: *kind, elements: make(map[element]struct{})}
		s.kind.Table, s.kind.Name, s.kind.Size = nil, "", 0
		for _, e := range elements {
			last := e.KeyEnd
			if last == nil {
				last = e.Key
			}
			s.elements[element{string(e.Key), string(last), string(e.Val)}] = struct{}{}
		}
		t.sets[kind.Name] = s
	}
	return nil
}

func (c *Client) readChains(t *table) error {
	chains, err := c.library.ListChainsOfTableFamily(c.place.family)
	for _, l := range chains {
		if l.Table.Name != c.place.name {
			continue
		}
		kind := chainKind{name: l.Type}
		if l.Hooknum != nil && l.Priority != nil {
			kind.hook, kind.priority = *l.Hooknum, *l.Priority
		}
		if l.Policy != nil {
			kind.policy = *l.Policy
		}
		t.chains[l.Name] = chain{kind: kind}
	}
	return err
}

func (c *Client) readRules(t *table) error {
	rules, err := c.socket.Execute(message(unix.NFT_MSG_GETRULE, netlink.Dump, byte(c.place.family), attribute(unix.NFTA_RULE_TABLE, []byte(c.place.name+"\x00"))))
	for _, m := range rules {
		err = errors.Join(err, t.readRule(m))
	}
	return err
}

// explainOpen adds what is wrong when not even a question is answered.
func (p *place) explainOpen(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("nftables: %w: this kernel has no nftables: run \"modprobe nf_tables\" as root, or install a kernel that has the module", err)
	}
	return fmt.Errorf("nftables: %w", p.explain(err))
}

// explain adds to an errno what it means here. A chain's type and an expression are modules of their own, which the
// kernel loads by itself if it has them.
func (p *place) explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: needs CAP_NET_ADMIN: run as root", err)
	case errors.Is(err, unix.ENOENT) && p.modules != "":
		return fmt.Errorf("%w: this kernel lacks one of the modules %s", err, p.modules)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: this kernel's nf_tables has no %s", err, p.support)
	}
	return err
}
