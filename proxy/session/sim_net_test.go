package session

import "time"

// A simConn is one connection between the proxy and a peer: two pipes, which deliver in order,
// in pieces, after a while, and may lose whatever has not been delivered.
type simConn struct {
	sim  *sim
	peer simPeer
	leg  *simLeg // the proxy's end

	toPeer, toProxy simPipe
	deaf            bool // the peer does not read
	reset           bool // the proxy's writes fail
}

// A simPeer is the far end of a connection.
type simPeer interface {
	received(c *simConn, b []byte)
	lost(c *simConn)
}

// A simPipe is one direction.
type simPipe struct {
	data      []byte
	since     Time   // when the first of data was written, about
	delivered uint64 // bytes
	fin       bool   // nothing follows data
	hole      bool   // nothing comes out any more, and nobody is told
	busy      bool   // a delivery is planned
	over      bool   // the end has been told
}

// A simLeg is what the engine holds of a leg: the model of package engine's contract.
type simLeg struct {
	conn    *simConn
	id      Leg
	name    string
	backlog []byte
	rest    []byte // read, and not consumed
	episode bool   // a backlog was reported, and its end was not
	reading bool
	late    bool // one more batch is on its way although reading has been paused
	closing bool // to be finished once the backlog is written
	closed  bool // by the session: it must not hear of it again
	lost    bool
	failed  bool // the loss may be told although reading is paused
}

func (s *sim) connect(peer simPeer, name string) *simConn {
	c := &simConn{sim: s, peer: peer}
	c.leg = &simLeg{conn: c, name: name}
	return c
}

// deliverToPeer plans the next delivery.
func (c *simConn) deliverToPeer() {
	p := &c.toPeer
	if p.busy || p.hole || p.over || c.deaf || len(p.data) == 0 && !p.fin {
		return
	}
	p.busy = true
	c.sim.after(c.sim.delay(), func() {
		p.busy = false
		switch {
		case p.hole || p.over || c.deaf:
			return
		case len(p.data) == 0:
			if p.fin {
				p.over = true
				c.peer.lost(c)
			}
			return
		}
		b := p.take(c.sim.piece(len(p.data)))
		c.leg.refill()
		c.peer.received(c, b)
		c.deliverToPeer()
	})
}

// deliverToProxy plans the next read of the engine.
func (c *simConn) deliverToProxy() {
	p, l := &c.toProxy, c.leg
	if p.busy || p.over || l.closed || !l.reading && !l.late && !l.failed || len(p.data)+len(l.rest) == 0 && !p.fin || p.hole && len(l.rest) == 0 {
		return
	}
	p.busy = true
	c.sim.after(c.sim.delay(), func() {
		p.busy = false
		switch {
		case p.over || l.closed || !l.reading && !l.late && !l.failed || p.hole && len(l.rest) == 0:
			return
		case l.failed && !l.reading || len(p.data)+len(l.rest) == 0:
			if p.fin {
				p.over, l.lost = true, true
				c.sim.shell.lost(l)
			}
			return
		}
		l.late = false
		b := l.rest
		l.rest = nil
		if len(b) == 0 {
			b = p.take(c.sim.piece(len(p.data)))
		}
		used := c.sim.shell.data(l, b)
		if used < len(b) && !l.closed {
			l.rest = b[used:]
		}
		c.deliverToProxy()
	})
}

// delay is how long bytes are under way. Calm networks are fast: nobody is given up for being slow.
func (s *sim) delay() time.Duration {
	if s.calm {
		return s.between(0, time.Millisecond)
	}
	return s.between(0, s.latency+1)
}

// piece is how much of n bytes arrives at once: all of it or little.
func (s *sim) piece(n int) int {
	switch s.rng.IntN(4) {
	case 0:
		return n
	case 1:
		return 1 + s.rng.IntN(min(n, 3))
	}
	return 1 + s.rng.IntN(n)
}

func (p *simPipe) take(n int) []byte {
	b := append([]byte(nil), p.data[:n]...)
	p.data = p.data[n:]
	p.delivered += uint64(n)
	if len(p.data) == 0 {
		p.data = nil
	}
	return b
}

func (c *simConn) put(p *simPipe, b []byte) {
	if len(p.data) == 0 {
		p.since = c.sim.now
	}
	if !p.fin {
		p.data = append(p.data, b...)
	}
}

// send is the peer's write.
func (c *simConn) send(b []byte) {
	c.put(&c.toProxy, b)
	c.deliverToProxy()
}

// finish is the peer's end of sending (FIN).
func (c *simConn) finish() {
	c.toProxy.fin = true
	c.deliverToProxy()
}

// listen lets the peer read or stop reading.
func (c *simConn) listen(yes bool) {
	c.deaf = !yes
	c.deliverToPeer()
}

// cut breaks the connection: of what is under way, any suffix is lost. A side that is not told
// sees nothing but silence.
func (c *simConn) cut(tellProxy, tellPeer bool) {
	lose := func(p *simPipe, tell bool) {
		if !tell {
			p.hole = true
			return
		}
		p.data = p.data[:c.sim.rng.IntN(len(p.data)+1)]
		p.fin = true
	}
	lose(&c.toProxy, tellProxy)
	lose(&c.toPeer, tellPeer)
	if tellProxy {
		c.reset = true
		c.leg.failed = len(c.leg.backlog) > 0 || c.sim.chance(0.2) // a backlog is being written
		c.leg.backlog = nil
	}
	c.deliverToProxy()
	c.deliverToPeer()
}

// write is Leg.Write of the engine.
func (l *simLeg) write(b []byte) (backlog int) {
	p := &l.conn.toPeer
	if l.conn.reset {
		l.failed = true
		l.conn.deliverToProxy()
	}
	if l.lost || p.fin || l.failed {
		return 0
	}
	l.backlog = append(l.backlog, b...)
	if !l.conn.sim.shell.slowEngine {
		l.flush()
	}
	if len(l.backlog) > 0 {
		l.episode = true
		l.conn.sim.after(0, l.refill)
	}
	return len(l.backlog)
}

func (l *simLeg) flush() {
	p := &l.conn.toPeer
	if room := l.conn.sim.capacity - len(p.data); room > 0 {
		n := min(room, len(l.backlog))
		l.conn.put(p, l.backlog[:n])
		l.backlog = l.backlog[n:]
		l.conn.deliverToPeer()
	}
}

// refill goes on writing when there is room.
func (l *simLeg) refill() {
	l.flush()
	if len(l.backlog) > 0 {
		return
	}
	if l.closing && !l.conn.toPeer.fin {
		l.conn.toPeer.fin = true
		l.conn.deliverToPeer()
	}
	if l.episode {
		l.conn.sim.after(l.conn.sim.between(0, time.Millisecond), func() {
			if l.episode && len(l.backlog) == 0 && !l.closed && !l.lost {
				l.episode = false
				l.conn.sim.shell.writable(l)
			}
		})
	}
}

func (l *simLeg) pause() {
	l.late = l.reading && l.conn.toProxy.busy && l.conn.sim.chance(0.2)
	l.reading = false
}

func (l *simLeg) resume() {
	l.reading = true
	l.conn.deliverToProxy()
}

// close is Leg.Close of the engine; a graceful one lingers.
func (l *simLeg) close(graceful bool) {
	l.closed = true
	s := l.conn.sim
	if !graceful {
		l.conn.cut(true, !l.conn.toPeer.hole)
		return
	}
	l.closing = true
	l.refill()
	s.after(5*time.Second, func() {
		if len(l.backlog) > 0 {
			l.conn.cut(true, !l.conn.toPeer.hole)
		}
	})
}

// acked is what the peer's system has acknowledged: what was delivered, and what its buffer holds.
func (l *simLeg) acked() uint64 {
	p := &l.conn.toPeer
	if p.hole {
		return p.delivered
	}
	return p.delivered + uint64(min(len(p.data), l.conn.sim.capacity/2))
}
