package main

import (
	"encoding/binary"
	"net"
	"sync"
	"time"

	"poise/internal/lab"
)

// ping is one ICMP echo request and what became of it.
type ping struct {
	sent     time.Time
	answered bool
}

type pings []ping

func (p pings) lost() (n int) {
	for _, one := range p {
		if !one.answered {
			n++
		}
	}
	return n
}

// outage is the longest time without an answer: from the first ping that got none to the next one that did.
func (p pings) outage() (longest time.Duration) {
	var since time.Time
	for _, one := range p {
		switch {
		case !one.answered && since.IsZero():
			since = one.sent
		case one.answered && !since.IsZero():
			longest = max(longest, one.sent.Sub(since))
			since = time.Time{}
		}
	}
	if !since.IsZero() {
		longest = max(longest, p[len(p)-1].sent.Sub(since))
	}
	return longest
}

const (
	pingPause  = 5 * time.Millisecond
	lastAnswer = 500 * time.Millisecond // what may still come after the last ping
)

// keepPinging asks addr for echoes until stop is called, which may be called again.
func keepPinging(from *lab.Host, addr string) (stop func() pings) {
	c, err := from.ListenPacket("ip4:icmp", "0.0.0.0")
	must(err)
	to := &net.IPAddr{IP: net.ParseIP(addr)}
	var (
		mu   sync.Mutex
		all  pings
		quit = make(chan struct{})
		work sync.WaitGroup
	)
	work.Go(func() {
		tick := time.NewTicker(pingPause)
		defer tick.Stop()
		for {
			mu.Lock()
			number := len(all)
			all = append(all, ping{sent: time.Now()})
			mu.Unlock()
			c.WriteTo(echoRequest(uint16(number)), to) // one that cannot be sent is not answered
			select {
			case <-quit:
				time.Sleep(lastAnswer)
				c.Close()
				return
			case <-tick.C:
			}
		}
	})
	work.Go(func() {
		buf := make([]byte, 1<<11)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			if number, ok := echoReply(buf[:n]); ok {
				mu.Lock()
				if int(number) < len(all) {
					all[number].answered = true
				}
				mu.Unlock()
			}
		}
	})
	return sync.OnceValue(func() pings {
		close(quit)
		work.Wait()
		return all
	})
}

// echoRequest is an ICMP message (RFC 792): type, code, checksum, identifier, number.
func echoRequest(number uint16) []byte {
	const request = 8 << 8 // type and code
	b := binary.BigEndian.AppendUint16(nil, request)
	b = binary.BigEndian.AppendUint16(b, ^uint16((request+uint32(number))%0xffff))
	b = binary.BigEndian.AppendUint16(b, 0)
	return binary.BigEndian.AppendUint16(b, number)
}

func echoReply(b []byte) (number uint16, ok bool) {
	if len(b) < 8 || b[0] != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[6:]), true
}
