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

// watch looks every calmLook until ctx is done.
func (c *calm) watch(ctx context.Context) {
	tick := time.NewTicker(calmLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if c.over() {
				runtime.GC() // what lies in pools lives through one collection
				debug.FreeOSMemory()
			}
		}
	}
}

// over tells whether a storm has ended: what comes now is little beside what came.
func (c *calm) over() bool {
	now := c.handshakes.Load()
	n := now - c.last
	c.last = now
	c.peak = max(c.peak, n)
	if c.peak < calmStorm || n > c.peak/20 {
		return false
	}
	c.peak = 0
	return true
}
