package proxy

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// calm gives memory back to the system after a storm of handshakes: what they leave behind is
// garbage, several times what their sessions keep, and nothing else allocates enough for Go's
// collector to come by and for the runtime to return it soon.
type calm struct {
	handshakes atomic.Uint64

	last uint64 // handshakes at the last look
	peak uint64 // the most between two looks since memory was given back
}

const (
	calmLook  = 3 * time.Second
	calmStorm = 1000 // handshakes between two looks that are worth a collection when they are over
)

// watch looks every calmLook until ctx is done. It tells rest how many handshakes there were since the last
// look: nothing for more than so many need wait for the next ones.
func (c *calm) watch(ctx context.Context, rest func(handshakes uint64)) {
	tick := time.NewTicker(calmLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n, over := c.look()
			rest(n)
			if over {
				runtime.GC() // what lies in pools lives through one collection
				debug.FreeOSMemory()
			}
		}
	}
}

// look counts the handshakes since the last look, and tells whether a storm has ended: these are few beside what
// came.
func (c *calm) look() (n uint64, over bool) {
	now := c.handshakes.Load()
	n = now - c.last
	c.last = now
	c.peak = max(c.peak, n)
	if c.peak < calmStorm || n > c.peak/20 {
		return n, false
	}
	c.peak = 0
	return n, true
}
