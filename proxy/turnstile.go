package proxy

import "runtime"

// A turnstile lets so many handshakes work at a time as leave processors for the event loops:
// those who only wait, for a client or an upstream, are not counted, so that slow ones keep nobody
// out. Thousands of handshakes that are ready to go on then queue here, and not before the loops.
type turnstile chan struct{}

func newTurnstile() turnstile { return make(turnstile, max(1, runtime.GOMAXPROCS(0)/2)) }

// A pass is one handshake's at a turnstile; the zero value is always let through. It belongs to
// the handshake's goroutine.
type pass struct {
	at     turnstile
	inside bool
}

// enter waits until there is room to work; leave comes before anything that may wait for others.
func (p *pass) enter() {
	if p.at != nil && !p.inside {
		p.at <- struct{}{}
		p.inside = true
	}
}

func (p *pass) leave() {
	if p.inside {
		p.inside = false
		<-p.at
	}
}
