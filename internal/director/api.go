package director

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/user"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"poise/checker"
	"poise/internal/status"
	"poise/vrrp"
)

// controlHandler serves the control socket: reading, and the operator's intents.
func (p *parent) controlHandler() http.Handler {
	mux := p.readOnly()
	mux.HandleFunc("POST /v1/services/{service}/servers/{server}/{intent}", p.postIntent)
	mux.HandleFunc("POST /v1/services/{service}/hold", p.postHoldService)
	mux.HandleFunc("POST /v1/services/{service}/release", p.postReleaseService)
	mux.HandleFunc("POST /v1/routers/{router}/hold", p.postHold)
	mux.HandleFunc("POST /v1/routers/{router}/release", p.postRelease)
	mux.HandleFunc("POST /v1/reload", p.postReload)
	return mux
}

// apiHandler serves the API address: reading only, as anybody who reaches it may ask.
func (p *parent) apiHandler() http.Handler {
	mux := p.readOnly()
	mux.Handle("GET /metrics", status.MetricsHandler(p.fresh))
	return mux
}

func (p *parent) readOnly() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", p.getStatus)
	mux.HandleFunc("GET /v1/events", p.getEvents)
	return mux
}

// freshness is how old a snapshot may be: so many may ask a second, and the balancer is asked once.
const freshness = time.Second

// fresh is the snapshot for those who only look.
func (p *parent) fresh(ctx context.Context) *status.Snapshot {
	return p.view.snapshot(ctx, time.Now().Add(-freshness))
}

func (p *parent) getStatus(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(p.fresh(r.Context())) // fails only when the client has gone
}

// postReload is SIGHUP with an answer.
func (p *parent) postReload(w http.ResponseWriter, r *http.Request) {
	var epoch uint64
	err := p.do(r.Context(), func() error {
		err := p.reload(r.Context())
		epoch = p.epoch
		return err
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	fmt.Fprintf(w, "%s, epoch %d\n", p.ConfigFile, epoch)
}

// getEvents writes one event a line, from the first after ?since=SEQ on. With ?follow=1 it goes on
// until the client leaves.
func (p *parent) getEvents(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseUint(r.FormValue("since"), 10, 64)
	if err != nil && r.FormValue("since") != "" {
		http.Error(w, fmt.Sprintf("since = %q: not a number", r.FormValue("since")), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder := json.NewEncoder(w)
	for {
		events, more := p.events.since(since)
		for _, e := range events {
			if encoder.Encode(e) != nil {
				return
			}
			since = e.Seq
		}
		if r.FormValue("follow") == "" {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

// IntentRequest is what a client posts with an intent.
type IntentRequest struct {
	Weight *int   `json:"weight,omitempty"` // of "weight": 0..2^31-1
	Reason string `json:"reason,omitempty"`
}

// What one request may hold.
const (
	maxIntentRequest = 4 << 10
	maxReason        = 200
)

func (p *parent) postIntent(w http.ResponseWriter, r *http.Request) {
	server, err := netip.ParseAddrPort(r.PathValue("server"))
	if addr, noPort := netip.ParseAddr(r.PathValue("server")); noPort == nil { // where clients choose the port
		server, err = netip.AddrPortFrom(addr, 0), nil
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("server %q: not an address and port such as 10.0.0.7:80", r.PathValue("server")), http.StatusBadRequest)
		return
	}
	request, ok := readIntent(w, r)
	if !ok {
		return
	}
	key := checker.Key{Service: r.PathValue("service"), Server: server}
	intent := status.Intent{Reason: request.Reason, By: peerOf(r.Context()), At: time.Now()}
	e := status.Event{Level: slog.LevelInfo, Service: key.Service, Server: key.Server}
	change := func(in intents) intents {
		if former := in.of(key); former != nil && intent.Reason == "" {
			intent.Reason = former.Reason // asking again is not forgetting why
		}
		return in.with(key, intent)
	}
	switch what := r.PathValue("intent"); what {
	case "drain":
		intent.Drain = true
		e.What = "server drained"
	case "weight":
		if request.Weight == nil || *request.Weight < 0 || *request.Weight > 1<<31-1 {
			http.Error(w, "weight: must be 0..2147483647", http.StatusBadRequest)
			return
		}
		intent.Weight = request.Weight
		e.What = fmt.Sprintf("server weight set to %d", *request.Weight)
	case "enable":
		e.What = "server enabled"
		change = func(in intents) intents { return in.without(key) }
	default:
		http.Error(w, fmt.Sprintf("%q is none of drain, enable, weight", what), http.StatusNotFound)
		return
	}
	e.Cause = "asked" + because(&intent)
	err = p.intend(r.Context(), key, change, e)
	if refuse(w, err) {
		return
	}
	_ = json.NewEncoder(w).Encode(p.server(r.Context(), key, time.Now())) // fails only when the client has gone
}

// readIntent reads what came with a wish, or answers what is wrong with it.
func readIntent(w http.ResponseWriter, r *http.Request) (request IntentRequest, ok bool) {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxIntentRequest)).Decode(&request); err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return request, false
	}
	if strings.ContainsFunc(request.Reason, unicode.IsControl) || len(request.Reason) > maxReason {
		http.Error(w, fmt.Sprintf("reason: must be one line of at most %d bytes", maxReason), http.StatusBadRequest)
		return request, false
	}
	return request, true
}

// refuse answers why a wish was not carried out, if it was not.
func refuse(w http.ResponseWriter, err error) bool {
	if err == nil {
		return false
	}
	code := http.StatusServiceUnavailable
	if _, isUnknown := errors.AsType[unknown](err); isUnknown {
		code = http.StatusNotFound
	}
	http.Error(w, err.Error(), code)
	return true
}

// postHold hands a router's addresses over, and answers when another node has them or nobody came.
func (p *parent) postHold(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("router")
	e := status.Event{Level: slog.LevelInfo, What: "router held", Router: name}
	change, ok := readHold(w, r, name, &e)
	if !ok || refuse(w, p.intendRouter(r.Context(), name, change, e)) {
		return
	}
	p.answerRouter(w, r, name)
}

// readHold reads a wish to hold what is called name: how it changes the holds, and its cause for the event about it.
func readHold(w http.ResponseWriter, r *http.Request, name string, e *status.Event) (change func(holds) holds, ok bool) {
	request, ok := readIntent(w, r)
	hold := status.Hold{Reason: request.Reason, By: peerOf(r.Context()), At: time.Now()}
	e.Cause = "asked by " + hold.By
	if hold.Reason != "" {
		e.Cause += ": " + hold.Reason
	}
	return func(h holds) holds {
		if former := h.of(name); former != nil && hold.Reason == "" {
			hold.Reason = former.Reason // asking again is not forgetting why
		}
		return h.with(name, hold)
	}, ok
}

// postHoldService has a service's entries in the kernel left alone.
func (p *parent) postHoldService(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("service")
	e := status.Event{Level: slog.LevelInfo, What: "service held", Service: name}
	change, ok := readHold(w, r, name, &e)
	if !ok || refuse(w, p.intendService(r.Context(), name, change, e)) {
		return
	}
	p.answerService(w, r, name)
}

// postReleaseService ends what postHoldService began.
func (p *parent) postReleaseService(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("service")
	e := status.Event{Level: slog.LevelInfo, What: "service no longer held", Service: name, Cause: "asked by " + peerOf(r.Context())}
	if refuse(w, p.intendService(r.Context(), name, func(h holds) holds { return h.without(name) }, e)) {
		return
	}
	p.answerService(w, r, name)
}

// answerService answers with the service as it is now.
func (p *parent) answerService(w http.ResponseWriter, r *http.Request, name string) {
	out := status.Service{Name: name}
	for _, service := range p.view.snapshot(r.Context(), time.Now()).Services {
		if service.Name == name {
			out = service
		}
	}
	_ = json.NewEncoder(w).Encode(out) // fails only when the client has gone
}

// postRelease ends what postHold began.
func (p *parent) postRelease(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("router")
	e := status.Event{Level: slog.LevelInfo, What: "router no longer held", Router: name, Cause: "asked by " + peerOf(r.Context())}
	err := p.intendRouter(r.Context(), name, func(h holds) holds { return h.without(name) }, e)
	if refuse(w, err) {
		return
	}
	p.answerRouter(w, r, name)
}

// answerRouter answers with the router as it is when nothing is being handed over any more.
func (p *parent) answerRouter(w http.ResponseWriter, r *http.Request, name string) {
	for begun := time.Now(); ; {
		out := status.Router{Name: name}
		s := p.view.snapshot(r.Context(), time.Now())
		for _, router := range s.Routers {
			if router.Name == name {
				out = router
			}
		}
		handing := out.Hold != nil && out.State != vrrp.Master && out.Serving
		if !handing || s.Elector.Stale || time.Since(begun) > commitTimeout {
			_ = json.NewEncoder(w).Encode(out) // fails only when the client has gone
			return
		}
		select {
		case <-time.After(handoverPoll):
		case <-r.Context().Done():
			return
		}
	}
}

// handoverPoll is how often a hand-over is looked at: it is over within milliseconds, or within about a second.
const handoverPoll = 20 * time.Millisecond

// server is one server as it is after the moment given.
func (p *parent) server(ctx context.Context, key checker.Key, since time.Time) status.Server {
	for _, service := range p.view.snapshot(ctx, since).Services {
		for _, server := range service.Servers {
			if service.Name == key.Service && server.Addr == key.Server {
				return server
			}
		}
	}
	return status.Server{Addr: key.Server, Absent: true, Reason: "not in the configuration"}
}

type peerKey struct{}

// withPeer notes the user at the other end of a unix connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ctx
	}
	var name string
	_ = raw.Control(func(fd uintptr) { // on error the name stays empty
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			name = strconv.FormatUint(uint64(cred.Uid), 10)
		}
	})
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return context.WithValue(ctx, peerKey{}, name)
}

func peerOf(ctx context.Context) string {
	name, _ := ctx.Value(peerKey{}).(string)
	return name
}
