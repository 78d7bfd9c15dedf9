package engine

import (
	"net"
	"sync"
	"time"
)

// A portableGroup keeps the owner's timer, and notices when nothing of it will call the owner any more; its legs know
// nothing of each other.
type portableGroup struct {
	e    *portableEngine
	h    Handler
	over func() // called last

	mu       sync.Mutex
	timer    *time.Timer // nil before the first Wake
	users    int         // legs, and Tick calls that run
	released bool
}

func (e *portableEngine) group(h Handler, over func()) *portableGroup {
	return &portableGroup{e: e, h: h, over: over}
}

func (g *portableGroup) Add(conn net.Conn, early []byte) Leg {
	g.mu.Lock()
	g.users++
	g.mu.Unlock()
	return g.e.add(g, conn, early)
}

func (g *portableGroup) Wake(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer == nil {
		g.timer = time.AfterFunc(d, g.tick)
	} else {
		g.timer.Reset(d)
	}
}

func (g *portableGroup) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.released = true
	if g.timer != nil {
		g.timer.Stop()
	}
	if g.users == 0 && g.e.enter() {
		go func() { // the owner may hold its lock
			defer g.e.exit()
			g.over()
		}()
	}
}

// enter counts a Tick that runs, unless the group is released.
func (g *portableGroup) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.released {
		g.users++
	}
	return !g.released
}

// leave is the end of a user; the last one says so.
func (g *portableGroup) leave() {
	g.mu.Lock()
	g.users--
	last := g.released && g.users == 0
	g.mu.Unlock()
	if last {
		g.over()
	}
}

// tick runs in a goroutine of the timer's own. Engine.Close waits for a Tick that has begun
// and lets none begin after it.
func (g *portableGroup) tick() {
	if !g.e.enter() {
		return
	}
	defer g.e.exit()
	if g.enter() {
		defer g.leave()
		g.h.Tick()
	}
}
