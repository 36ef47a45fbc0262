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

// ask requests a service's page. A server that saw the request come from anybody but the client is an error.
func ask(c *http.Client, m lab.Method) (answer lab.Answer, err error) {
	r, err := c.Get("http://" + vips[m] + "/")
	if err != nil {
		return answer, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body) // to its end, or the connection could not be used again
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("%s: status %s: %w", m, r.Status, err)
	}
	if from := answer.Client.Addr().String(); from != clientIP {
		return answer, &mismatch{answer.Server + " to be asked by " + clientIP, from}
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
				answer, err := ask(c, m)
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
	browser *http.Client
	service lab.Method
	first   lab.Answer
}

func (w *world) newVisitor(m lab.Method) *visitor {
	v := &visitor{browser: w.client.HTTPClient(), service: m}
	v.browser.Transport.(*http.Transport).DisableKeepAlives = false
	var err error
	v.first, err = ask(v.browser, m)
	must(err)
	return v
}

// goesOn judges that the connection still works: a new one would come from another port.
func (v *visitor) goesOn() {
	now, err := ask(v.browser, v.service)
	must(err)
	if now != v.first {
		must(&mismatch{
			fmt.Sprintf("connection from %v to %s to go on", v.first.Client, v.first.Server),
			fmt.Sprintf("one from %v to %s", now.Client, now.Server),
		})
	}
}

func (v *visitor) leave() { v.browser.CloseIdleConnections() }

// tally is how a client fared.
type tally struct {
	requests, failed int
	first            error // of the failures
	slowest          time.Duration
}

// keepAsking asks the services in turn until stop is called, which may be called again.
func (w *world) keepAsking(services ...lab.Method) (stop func() tally) {
	const pause = 10 * time.Millisecond // visitors, not a benchmark
	var t tally
	quit := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		c := w.client.HTTPClient()
		for i := 0; ; i++ {
			begin := time.Now()
			if _, err := ask(c, services[i%len(services)]); err != nil {
				if t.failed == 0 {
					t.first = err
				}
				t.failed++
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
	if t.failed > 0 {
		must(&mismatch{"no failed request", fmt.Sprintf("%d of %d failed, first: %v", t.failed, t.requests, t.first)})
	}
}
