package proxy

import (
	"errors"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/tideover/tideover/proxy/session"
)

// refusedBecause says why a handshake was turned away.
type refusedBecause int

const (
	refusedMalformed refusedBecause = iota
	refusedOrigin
	refusedBind
	refusedToken
	refusedConflict
	refusedLimit
	refusedStopping
	refusedByUpstream // it answered, but not 101
	refusedUpstream   // it did not answer
	refusedCircuit    // it was not asked: it is known to be down
	refusedKinds
)

func (w refusedBecause) String() string {
	return [...]string{"malformed", "origin", "bind", "token", "conflict", "limit", "stopping", "by_upstream", "no_upstream", "circuit_open"}[w]
}

// dialFailures names why an upstream gave no usable answer.
var dialFailures = [...]string{"unreachable", "timeout", "broken"}

// dialFailure is the index of err in dialFailures.
func dialFailure(err error) int {
	switch {
	case errors.Is(err, errTooSlow):
		return 1
	case errors.Is(err, errBroken):
		return 2
	}
	return 0
}

// counters sum up what happened. Sessions count for themselves, so that no message touches anything shared. Who
// asks adds up what those have that live, and what those had that are over: each once, though sessions end
// meanwhile, for a sum must never be less than it was the last time.
type counters struct {
	refused    [refusedKinds]atomic.Uint64
	opened     [3]atomic.Uint64 // by session.Mode
	dialFailed [len(dialFailures)]atomic.Uint64

	summing sync.Mutex // held while somebody adds up

	mu    sync.Mutex // a leaf
	over  session.Totals
	lefts [session.Reasons]uint64
	sum   *session.Totals // nil while nobody adds up
	round uint8           // of adding up, the present one or the latest; relays that are in the sum are marked with it
}

// totals adds up what all sessions have counted. all lists them; each is called with every one that lives, locked.
func (c *counters) totals(all iter.Seq[*relay], each func(*relay)) (session.Totals, [session.Reasons]uint64) {
	c.summing.Lock()
	defer c.summing.Unlock()
	c.mu.Lock()
	sum := c.over
	c.sum, c.round = &sum, max(1, c.round+1) // new sessions are marked with 0
	c.mu.Unlock()
	for r := range all {
		r.mu.Lock()
		if !r.retired() {
			c.mu.Lock()
			c.add(r)
			c.mu.Unlock()
			each(r)
		}
		r.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum = nil
	return sum, c.lefts
}

// add adds r to the present sum, unless it is in it. mu and r are locked.
func (c *counters) add(r *relay) {
	if c.sum != nil && r.summed != c.round {
		r.summed = c.round
		c.sum.Add(&r.core.Stats)
	}
}

// retire takes what a session has counted. Its relay is locked, and will count no more.
func (c *counters) retire(r *relay) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(r) // the present sum has not come to it, and it is about to leave the list
	c.over.Add(&r.core.Stats)
	c.lefts[r.core.Reason()]++
}
