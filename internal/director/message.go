package director

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"poise/config"
	"poise/internal/status"
)

// protocolVersion changes whenever parent and child of different builds would misunderstand each other.
const protocolVersion = 1

// maxMessage bounds what one side reads into memory: a configuration of a hundred thousand servers fits.
const maxMessage = 64 << 20

// writeTimeout is how long the other side may leave the socket's buffer full before it counts as hung.
const writeTimeout = 10 * time.Second

// kind says which fields of a message mean something.
type kind string

const (
	// From the parent, each answered with the same ID.
	kindPrepare  kind = "prepare"  // Epoch, Config: could you run this? With Resume: you will, it was in force already
	kindCommit   kind = "commit"   // Epoch, Intents, Holds, Masters: run what was prepared; answered when the kernel agrees. With Ready: and as kindReady
	kindReady    kind = "ready"    // to the elector: what is behind the addresses is in place, stand for election. To the balancer: tell me when it is
	kindAbort    kind = "abort"    // Epoch: forget what was prepared
	kindIntents  kind = "intents"  // Intents, Holds: the operator's wishes, whole; answered when the kernel agrees
	kindSnapshot kind = "snapshot" // answered with Snapshot
	kindPing     kind = "ping"     // are you there?
	kindStop     kind = "stop"     // finish as on_stop says, answer and exit

	// From a child.
	kindHello kind = "hello" // Version, first of all
	// From the elector, and from the parent on to the balancer, whenever it changes: Masters.
	kindMasters kind = "masters"
	kindAnswer  kind = "answer" // ID, and Error or what was asked for
	kindEvent   kind = "event"  // Event
)

// message is what parent and children tell each other. State always travels whole: a receiver that
// missed one message is right again after the next.
type message struct {
	Kind     kind             `json:"kind"`
	ID       uint64           `json:"id,omitempty"`
	Version  int              `json:"version,omitempty"`
	Epoch    uint64           `json:"epoch,omitempty"`
	Config   *config.Config   `json:"config,omitempty"`
	Resume   bool             `json:"resume,omitempty"`
	Ready    bool             `json:"ready,omitempty"`
	Intents  intents          `json:"intents,omitempty"`
	Holds    holds            `json:"holds,omitempty"`   // of routers for the elector, of services for the balancer
	Masters  []string         `json:"masters,omitempty"` // routers whose master this node is
	Snapshot *status.Snapshot `json:"snapshot,omitempty"`
	Event    *status.Event    `json:"event,omitempty"`
	Error    string           `json:"error,omitempty"`
}

// conn carries messages over a stream socket: 4 bytes of length, big endian, then JSON.
// One goroutine may receive while any number send.
type conn struct {
	net.Conn
	sending sync.Mutex
}

func (c *conn) send(m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("message %s: %w", m.Kind, err)
	}
	if len(body) > maxMessage {
		return fmt.Errorf("message %s: %d bytes, at most %d can be sent", m.Kind, len(body), maxMessage)
	}
	frame := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...)
	c.sending.Lock()
	defer c.sending.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = c.Write(frame)
	return err
}

func (c *conn) receive() (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return message{}, err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length > maxMessage {
		return message{}, fmt.Errorf("message of %d bytes, at most %d are accepted", length, maxMessage)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c, body); err != nil {
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return message{}, fmt.Errorf("message: %w", err)
	}
	return m, nil
}
