package proxy

import (
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
	refusedKinds
)

func (w refusedBecause) String() string {
	return [...]string{"malformed", "origin", "bind", "token", "conflict", "limit", "stopping", "by_upstream", "no_upstream"}[w]
}

// counters sum up what happened. What sessions count for themselves is added when they
// retire, so that no message touches a shared counter.
type counters struct {
	refused [refusedKinds]atomic.Uint64
	opened  [3]atomic.Uint64 // by session.Mode

	mu    sync.Mutex
	past  session.Stats // of retired sessions
	lefts [session.Reasons]uint64
}

// retire takes over what a session has counted. Its relay is locked.
func (c *counters) retire(r *relay) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past.Add(&r.core.Stats)
	c.lefts[r.core.Reason()]++
}
