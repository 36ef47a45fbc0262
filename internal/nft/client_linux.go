package nft

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Client talks to the nftables of the network namespace it was opened in. One goroutine at a time may use it.
type Client struct {
	socket *socket

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
func Open() (*Client, error) {
	socket, err := openSocket()
	if err != nil {
		return nil, explainOpen(err)
	}
	c := &Client{socket: socket}
	if _, err := c.generation(); err != nil {
		c.Close()
		return nil, explainOpen(err)
	}
	return c, nil
}

// Close closes the socket. The kernel keeps the table.
func (c *Client) Close() { c.socket.close() }

// Replace makes the kernel's table what r wants in one transaction: packets meet the old table or the new one. After an
// error the old one is still there.
func (c *Client) Replace(r Rules) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if err := c.socket.transact(tableOf(r).replacement()); err != nil {
		return fmt.Errorf("nftables: %w", explain(err))
	}
	return nil
}

// Differences says in what the kernel's table is not what r wants, each in a few words; nothing means that it is. As long
// as nobody has changed any table, nor the caller his mind, it costs one short question to the kernel.
func (c *Client) Differences(r Rules) ([]string, error) {
	if err := c.look(); err != nil {
		return nil, fmt.Errorf("nftables: %w", explain(err))
	}
	if c.compared != c.seen || !c.want.Equal(r) {
		c.want, c.compared, c.found = r.Merge(Rules{}), c.seen, tableOf(r).differences(c.have)
	}
	return slices.Clone(c.found), nil
}

// look reads the table unless it is known. Reading takes several questions, between which others may change it: what was
// read is true only if all of it is of one generation.
func (c *Client) look() error {
	before, err := c.generation()
	if err != nil || before == c.seen {
		return err
	}
	for range 10 {
		// A transaction counts the generation up a little before what it does is seen, or, in newer kernels, a little
		// after. So none may be in between when reading begins, nor when the number is asked again.
		err := c.socket.settle()
		have, problem := c.read()
		err = errors.Join(err, c.socket.settle())
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

func (c *Client) generation() (id uint32, err error) {
	err = c.socket.ask(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil, func(b []byte) error {
		a, err := decode(b)
		id = a.number(unix.NFTA_GEN_ID)
		return err
	})
	return id, err
}

func (c *Client) read() (*table, error) {
	t := &table{sets: make(map[string]set), chains: make(map[string]chain)}
	ask := func(kind, flags uint16, body []byte, take func([]byte) error) error {
		return c.socket.ask(kind, flags, unix.NFPROTO_INET, body, take)
	}
	err := ask(unix.NFT_MSG_GETTABLE, 0, appendText(nil, unix.NFTA_TABLE_NAME, tableName), t.readFlags)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		ask(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, nil, t.readChain),
		ask(unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, appendText(nil, unix.NFTA_RULE_TABLE, tableName), t.readRule),
		ask(unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, appendText(nil, unix.NFTA_SET_TABLE, tableName), t.readSet),
	)
	for name := range t.sets {
		of := appendText(appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, tableName), unix.NFTA_SET_ELEM_LIST_SET, name)
		err = errors.Join(err, ask(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, of, t.readElements))
	}
	return t, err
}

// explainOpen adds what is wrong when not even a question is answered.
func explainOpen(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("nftables: %w: this kernel has no nftables: run \"modprobe nf_tables\" as root, or install a kernel that has the module", err)
	}
	return fmt.Errorf("nftables: %w", explain(err))
}

// explain adds to an errno what it means here. A chain's type and an expression are modules of their own, which the
// kernel loads by itself if it has them.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: needs CAP_NET_ADMIN: run as root", err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: this kernel lacks one of the modules nft_chain_nat, nft_ct and nft_masq", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: this kernel's nf_tables has no family inet, or no sets of ranges (Linux 5.6 has both)", err)
	}
	return err
}
