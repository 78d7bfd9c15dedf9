package proxy

import (
	"errors"
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

// counters sum up what happened. Sessions count for themselves, so that no message touches
// anything shared; harvest takes over what is new when somebody asks, and at the end.
type counters struct {
	refused    [refusedKinds]atomic.Uint64
	opened     [3]atomic.Uint64 // by session.Mode
	dialFailed [len(dialFailures)]atomic.Uint64

	mu    sync.Mutex
	total session.Stats // harvested
	lefts [session.Reasons]uint64
}

// harvest adds what a session has counted since it was harvested last. Its relay is locked.
func (c *counters) harvest(r *relay) {
	news := r.core.Stats
	if r.harvested == nil {
		r.harvested = new(session.Stats)
	}
	news.Sub(r.harvested)
	*r.harvested = r.core.Stats
	c.mu.Lock()
	c.total.Add(&news)
	c.mu.Unlock()
}

// retire takes what a session has counted for the last time. Its relay is locked.
func (c *counters) retire(r *relay) {
	c.harvest(r)
	c.mu.Lock()
	c.lefts[r.core.Reason()]++
	c.mu.Unlock()
}
