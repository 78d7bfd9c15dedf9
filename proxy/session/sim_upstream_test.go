package session

import (
	"fmt"
	"strings"
	"time"
)

// A simUpstream is the model of a backend: it talks, floods, stalls, closes and falls silent.
type simUpstream struct {
	sim    *sim
	conn   *simConn
	in     wireReader
	said   []simMessage
	silent bool
	pings  [][]byte
	over   bool
}

func newSimUpstream(s *sim) *simUpstream {
	return &simUpstream{sim: s, in: wireReader{fromClient: true}}
}

// after plans by the upstream's clock.
func (u *simUpstream) after(d time.Duration, do func()) { u.sim.plan(d, u, do) }

func (u *simUpstream) start() {
	u.after(u.sim.between(0, time.Second), func() {
		if !u.over && !u.sim.calm {
			u.act()
			u.start()
		}
	})
}

// act is what backends do at random.
func (u *simUpstream) act() {
	s := u.sim
	switch n := s.rng.IntN(1000); {
	case n < 500:
		u.say(1 + s.rng.IntN(5))
	case n < 530:
		u.say(60)
	case n < 590:
		u.post()
	case n < 620: // it reads nothing for a while
		u.conn.listen(false)
		u.after(s.between(0, 20*time.Second), func() { u.conn.listen(true) })
	case n < 630:
		u.silent = true
		u.after(s.between(0, 20*time.Second), func() { u.silent = false; u.answer() })
	case n < 634:
		code := []int{1000, 1001, 0, 4000}[s.rng.IntN(4)]
		s.note("upstream: close %d", code)
		u.conn.send(build(8, true, closePayload(code, "done"), nil))
		u.over = true
	case n < 636:
		bad := [][]byte{
			build(0, true, "continues nothing", nil),
			build(1, true, "masked", s.key()),
			build(8, true, "x", nil),
			build(2, true, strings.Repeat("x", int(s.limit.MaxMessageBytes)+1), nil),
		}
		s.note("upstream: breaks the protocol")
		u.conn.send(bad[s.rng.IntN(len(bad))])
		u.over = true
	case n < 639:
		s.note("upstream: cut")
		u.conn.cut(true, s.chance(0.5))
		u.over = true
	case n < 641 && s.cfg.Upstream.Interval > 0:
		s.note("upstream: silent for good")
		u.conn.cut(false, false)
		u.over = true
	case n < 650 && n > 644:
		s.jump(u, s.someJump())
	case n == 642:
		s.shell.end([]Reason{Evicted, Stopped}[s.rng.IntN(2)])
	}
}

// say sends n messages, some in fragments with pings between them.
func (u *simUpstream) say(n int) {
	s := u.sim
	for range n {
		if len(u.conn.toProxy.data) > 30000 {
			return
		}
		m := simMessage{true, fmt.Sprintf("u%d:%s", len(u.said)+1, s.pad())}
		if s.chance(0.2) {
			m = s.odd(m)
		}
		u.said = append(u.said, m)
		op := byte(2)
		if m.text {
			op = 1
		}
		for s.chance(0.15) {
			n := s.rng.IntN(len(m.body)+1) * s.rng.IntN(2) // half of them are empty
			u.conn.send(build(op, false, m.body[:n], nil))
			op, m.body = 0, m.body[n:]
			if s.chance(0.3) {
				u.post()
			}
		}
		u.conn.send(build(op, true, m.body, nil))
	}
}

// post sends a ping of its own, with any bytes in it.
func (u *simUpstream) post() {
	payload := fmt.Sprintf("%x", u.sim.rng.Uint64())[:u.sim.rng.IntN(9)] + fmt.Sprint(u.sim.rng.Uint32())
	u.conn.send(build(9, true, payload, nil))
}

func (u *simUpstream) received(conn *simConn, b []byte) {
	frames, err := u.in.feed(b)
	u.in.messages = nil
	for _, f := range frames {
		switch {
		case f.op == 9:
			u.pings = append(u.pings, f.payload)
			u.after(u.sim.between(0, 100*time.Millisecond), u.answer)
		case f.op == 8:
			if u.sim.chance(0.8) && !u.over {
				u.conn.send(build(8, true, string(f.payload), nil))
				u.conn.finish()
			}
			u.over = true
		case f.op == 1 && !u.over && !u.sim.calm && u.sim.chance(0.3):
			u.say(1)
		}
	}
	if err != nil {
		u.sim.fail("what the upstream receives is no valid WebSocket: %v", err)
	}
}

func (u *simUpstream) lost(*simConn) {
	u.over = true
	u.conn.finish()
}

func (u *simUpstream) answer() {
	if u.silent || u.over {
		return
	}
	if len(u.pings) > 1 && u.sim.chance(0.4) {
		u.pings = u.pings[len(u.pings)-1:]
	}
	for _, p := range u.pings {
		u.conn.send(build(10, true, string(p), nil))
	}
	u.pings = nil
}

func (u *simUpstream) calm() {
	u.silent = false
	u.conn.listen(true)
	u.answer()
}

// stop ends everything but the proxy, in one of the ways in which things end.
func (s *sim) stop() {
	s.user.gone = true
	if conn := s.user.conn; conn != nil {
		s.user.leave()
		switch n := s.rng.IntN(4); {
		case n == 0:
			conn.send(build(8, true, closePayload(1000, ""), s.key()))
		case n == 1:
			conn.finish()
		case n == 2 && s.limit.Client.Interval > 0:
			conn.cut(false, false)
		default:
			conn.cut(true, true)
		}
	}
	if s.chance(0.5) {
		s.up.over = true
		s.up.conn.cut(false, false)
	}
}
