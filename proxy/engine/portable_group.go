package engine

import (
	"net"
	"sync"
	"time"
)

// A portableGroup keeps the owner's timer; its legs know nothing of each other.
type portableGroup struct {
	e *portableEngine
	h Handler

	mu    sync.Mutex
	timer *time.Timer // nil before the first Wake
}

func (g *portableGroup) Add(conn net.Conn, early []byte) Leg { return g.e.add(conn, early, g.h) }

func (g *portableGroup) Wake(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer == nil {
		g.timer = time.AfterFunc(d, g.tick)
	} else {
		g.timer.Reset(d)
	}
}

func (g *portableGroup) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
	}
}

// tick runs in a goroutine of the timer's own. Engine.Close waits for a Tick that has begun
// and lets none begin after it.
func (g *portableGroup) tick() {
	if g.e.enter() {
		defer g.e.exit()
		g.h.Tick()
	}
}
