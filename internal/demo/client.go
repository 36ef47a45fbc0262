package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"poise/internal/lab"
)

// ask requests the page of the service at addr. A server that saw the request come from anybody but the client,
// whose address is from, is an error.
func ask(c *http.Client, from, addr string) (answer lab.Answer, err error) {
	r, err := c.Get("http://" + addr + "/")
	if err != nil {
		return answer, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body) // to its end, or the connection could not be used again
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("%s: status %s: %w", addr, r.Status, err)
	}
	if seen := answer.Client.Addr().String(); seen != from {
		return answer, &mismatch{answer.Server + " to be asked by " + from, seen}
	}
	return answer, nil
}

// answers asks each service for two whole turns of its scheduler, in which every server must answer twice
// its weight. It returns who answered how often.
func (w *world) answers(services ...lab.Method) weights {
	c := w.client.HTTPClient()
	all := weights{}
	for _, m := range services {
		want, got := weights{}, weights{}
		for name, weight := range w.want[m] {
			if weight > 0 {
				want[name] = 2 * weight
			}
			for range 2 * weight {
				answer, err := ask(c, clientIP, vips[m])
				must(err)
				got[answer.Server]++
				all[answer.Server]++
			}
		}
		if !maps.Equal(got, want) {
			must(&mismatch{fmt.Sprintf("answers from %s by %v", m, want), got.String()})
		}
	}
	return all
}

// visitor has an established connection to a service.
type visitor struct {
	browser    *http.Client
	from, addr string
	first      lab.Answer
}

func newVisitor(client *lab.Host, from, addr string) *visitor {
	v := &visitor{browser: client.HTTPClient(), from: from, addr: addr}
	v.browser.Transport.(*http.Transport).DisableKeepAlives = false
	v.first = v.next()
	return v
}

// next asks for another page, by the same connection as long as there is one.
func (v *visitor) next() lab.Answer {
	answer, err := ask(v.browser, v.from, v.addr)
	must(err)
	return answer
}

// goesOn judges that the connection still works: a new one would come from another port.
func (v *visitor) goesOn() {
	if now := v.next(); now != v.first {
		must(&mismatch{
			fmt.Sprintf("connection from %v to %s to go on", v.first.Client, v.first.Server),
			fmt.Sprintf("one from %v to %s", now.Client, now.Server),
		})
	}
}

func (v *visitor) leave() { v.browser.CloseIdleConnections() }

// tally is how a client fared.
type tally struct {
	requests int
	failures []failedRequest
	slowest  time.Duration
}

// failedRequest was not answered as it should.
type failedRequest struct {
	begin, end time.Time
	err        error
}

func (t tally) String() string {
	return fmt.Sprintf("%d of %d requests failed", len(t.failures), t.requests)
}

// keepAsking asks the services in turn, as from, until stop is called, which may be called again.
func keepAsking(c *http.Client, from string, addrs ...string) (stop func() tally) {
	const pause = 10 * time.Millisecond // visitors, not a benchmark
	var t tally
	quit := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for i := 0; ; i++ {
			begin := time.Now()
			if _, err := ask(c, from, addrs[i%len(addrs)]); err != nil {
				t.failures = append(t.failures, failedRequest{begin, time.Now(), err})
			}
			t.requests++
			t.slowest = max(t.slowest, time.Since(begin))
			select {
			case <-quit:
				return
			case <-time.After(pause):
			}
		}
	})
	return sync.OnceValue(func() tally {
		close(quit)
		asking.Wait()
		return t
	})
}

// flawless judges that no request failed.
func (t tally) flawless() {
	if len(t.failures) > 0 {
		must(&mismatch{"no failed request", fmt.Sprintf("%v, first: %v", t, t.failures[0].err)})
	}
}

// onlyDuring is nil if all requests that failed were under way at some time between from and to.
func (t tally) onlyDuring(from, to time.Time) error {
	for _, f := range t.failures {
		if f.end.Before(from) || f.begin.After(to) {
			return &mismatch{
				fmt.Sprintf("no request to fail but from %v to %v", from.Format(clock), to.Format(clock)),
				fmt.Sprintf("one from %v to %v: %v", f.begin.Format(clock), f.end.Format(clock), f.err),
			}
		}
	}
	return nil
}

const clock = "15:04:05.000"
