package director

import (
	"context"
	"log/slog"
	"time"

	"poise/internal/status"
)

// The parent keeps a spare: an elector that has started, and has no routers. When the elector dies the spare has only to
// be told the configuration: starting a process takes longer than a backup at a short interval may wait.
const (
	spareDelay = time.Second // after an elector's start, which the next one must not disturb
	spareRetry = time.Minute // after a spare died or could not be started
)

// spareGone is closed when the spare has ended; nil while there is none.
func (p *parent) spareGone() <-chan struct{} {
	if p.spare == nil {
		return nil
	}
	return p.spare.ended
}

// startSpare starts a spare, which comes to spares: the loop goes on meanwhile. It comes as nil when it could not be started.
func (p *parent) startSpare(ctx context.Context) {
	if p.spare != nil || p.sparing || p.elector.child == nil {
		return
	}
	p.sparing = true
	b := p.electorBirth()
	p.tasks.Go(func() {
		c, err := startChild(ctx, b)
		if err != nil {
			c = nil // the elector's own start will say what is the matter
		}
		select {
		case p.spares <- c:
		case <-ctx.Done():
			if c != nil {
				c.kill()
			}
		}
	})
}

// spareStarted takes the spare into care, if there is still an elector that it could follow.
func (p *parent) spareStarted(c *child) {
	p.sparing = false
	switch {
	case c == nil:
		p.spareDue.Reset(spareRetry)
	case p.elector.wanted(p.cfg):
		p.spare = c
		p.publish()
	default:
		c.kill()
	}
}

// spareDied takes note that there is none for a while.
func (p *parent) spareDied() {
	p.emit(status.Event{Level: slog.LevelWarn, What: "spare elector died", Cause: p.spare.err.Error()})
	p.dropSpare()
	p.publish()
	p.spareDue.Reset(spareRetry)
}

// takeSpare hands out the spare; nil where there is none that lives.
func (p *parent) takeSpare() *child {
	c := p.spare
	p.spare = nil
	if c != nil {
		select {
		case <-c.ended:
			c.conn.Close()
			return nil
		default:
		}
	}
	return c
}

// dropSpare ends the spare.
func (p *parent) dropSpare() {
	if c := p.takeSpare(); c != nil {
		c.kill()
	}
}
