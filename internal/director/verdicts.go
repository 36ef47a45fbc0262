package director

import (
	"errors"
	"log/slog"
	"time"

	"poise/checker"
	"poise/internal/status"
)

// ownFault is the trouble of this host that made a check say nothing about its server.
type ownFault struct {
	cause string
	last  time.Time
}

// reports takes in a report and those that wait behind it, so that many servers that fail together are
// one decision and one change of the table. It says whether any verdict changed.
func (b *balancer) reports(r checker.Report) (changed bool) {
	concerned := make(map[*serviceState]bool)
	for _, r := range batch(r, b.checks.Reports()) {
		if b.report(r) {
			concerned[b.services[r.Service]] = true
		}
	}
	for service := range concerned {
		b.decide(service)
	}
	return len(concerned) > 0
}

// mostReports is how many reports make a batch: however fast they come, kernel and parent have their turn.
const mostReports = 1000

// batch is the first report and those that wait behind it.
func batch(first checker.Report, behind <-chan checker.Report) []checker.Report {
	reports := []checker.Report{first}
	for len(reports) < mostReports {
		select {
		case r := <-behind:
			reports = append(reports, r)
		default:
			return reports
		}
	}
	return reports
}

// report takes in the outcome of one check and says whether it changed the verdict.
func (b *balancer) report(r checker.Report) (changed bool) {
	// After Set returns, the loop reports only what was set: both are known.
	server, service := b.servers[r.Key], b.services[r.Service]
	if errors.Is(r.Err, checker.ErrSelf) {
		server.self++
		b.noteOwnFault(r)
		return false
	}
	service.checks.Observe(r.Took)
	if r.Err == nil {
		server.ok++
	} else {
		server.failed++
		server.cause = r.Err.Error()
		b.log.Debug("check failed", "service", r.Service, "server", r.Server, "cause", r.Err, "took", r.Took)
	}
	if !r.Changed {
		return false
	}
	server.state, server.since = r.State, r.At
	e := status.Event{Level: slog.LevelInfo, What: "server up", Service: r.Service, Server: r.Server}
	if r.State == checker.Down {
		e.Level, e.What, e.Cause = slog.LevelWarn, "server down", server.cause
	}
	b.emit(e)
	return true
}

// ownFaultPause is how long a trouble of this host must be gone before it is news again.
const ownFaultPause = time.Minute

// noteOwnFault says that checks fail for a reason on this host: verdicts stand still then.
func (b *balancer) noteOwnFault(r checker.Report) {
	if r.At.Sub(b.ownFault.last) > ownFaultPause {
		b.emit(status.Event{Level: slog.LevelError, What: "checks fail on this host, verdicts stand still", Cause: r.Err.Error()})
	}
	b.ownFault.cause, b.ownFault.last = r.Err.Error(), r.At
}
