package checker

// Quorum decides whether the servers of a service that may take traffic weigh enough to carry it.
// Between Weight-Hysteresis and Weight+Hysteresis it stays as it was, so that one server on the edge
// does not switch the whole service to and fro.
type Quorum struct {
	// Weight is what the servers must weigh together; below 1 counts as 1.
	Weight int
	// Hysteresis is how far beyond Weight the sum must be before a decision is reversed: 0..Weight-1.
	Hysteresis int

	decided, held bool
}

// Held says whether the servers suffice. Before the first observation they do not.
func (q *Quorum) Held() bool { return q.held }

// Decided says whether there was an observation yet.
func (q *Quorum) Decided() bool { return q.decided }

// Observe takes the sum of the weights of the servers that are up, and of those still unknown that the
// kernel has in service, and says whether that changed the decision.
//
// The first observation has no decision to defend, so Weight alone decides. Unknown servers with a place
// in the kernel's table count for it: after a restart they are most likely still carrying the service, and
// without them every restart would lose the quorum and gain it back a moment later.
func (q *Quorum) Observe(weight int) (changed bool) {
	need := max(q.Weight, 1)
	switch {
	case !q.decided:
	case q.held:
		need = max(need-q.Hysteresis, 1) // a weight of 0 carries nothing, whatever the settings say
	default:
		need += q.Hysteresis
	}
	held := weight >= need
	changed = !q.decided || held != q.held
	q.decided, q.held = true, held
	return changed
}
