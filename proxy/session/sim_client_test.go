package session

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// A simClient is the model of a client: plain, or speaking tideover.v1. It knows nothing of the
// session but what comes over its connections.
//
// A plain one is a browser as measured: frames are answered when they are parsed, and its page gets
// the messages later. All that is certain is that a page has had what came before a ping whose pong was
// back with the proxy before the ping that is being answered now was sent.
type simClient struct {
	sim  *sim
	conn *simConn
	in   wireReader
	gone bool // never comes back

	made    int          // messages
	withID  []string     // the latest messages that bear an id
	missing map[int]bool // messages that it was told, or noticed, to have lost
	silent  bool         // answers no pings
	pings   [][]byte     // not answered yet

	// A plain client's page.
	page    int            // the highest message number that it has
	queue   []int          // messages of this leg, parsed
	paged   int            // how many of queue the page has
	last    int            // the latest number on this leg
	pingPos map[uint64]int // how many of queue had been parsed before a ping

	// A tideover.v1 client.
	welcomed bool
	first    bool
	got      int          // messages that it has
	kept     []simMessage // without acknowledgement
	acked    int          // messages before kept
	sent     int          // of kept, on this leg
	acking   bool
}

type simMessage struct {
	text bool
	body string
}

func newSimClient(s *sim) *simClient { return &simClient{sim: s, first: true, missing: map[int]bool{}} }

// after plans by the client's clock.
func (c *simClient) after(d time.Duration, do func()) { c.sim.plan(d, c, do) }

// count is how many of the upstream's messages are safe with the client.
func (c *simClient) count() int {
	if c.sim.mode == Counted {
		return c.got
	}
	return c.page
}

// connect comes back, or for the first time. A connection that is still there is left alone: the
// session supersedes it.
func (c *simClient) connect() {
	if c.gone {
		return
	}
	if n := c.sim.shell.current; n > 0 && (c.sim.mode == Relay || c.sim.mode == Counted && c.first) {
		// There is nothing to come back to, or it has no token.
		if c.gone = true; c.conn != nil {
			c.conn.finish()
			c.leave()
		}
		return
	}
	c.leave()
	c.conn = c.sim.shell.attach(c, uint64(c.got))
	if c.conn == nil {
		c.gone = true
		return
	}
	c.in = wireReader{}
	c.pings, c.queue, c.paged, c.last, c.pingPos = nil, nil, 0, 0, map[uint64]int{}
	c.welcomed, c.sent = false, 0
	c.plan()
}

// leave ends the use of a connection. Of what the browser has parsed, the page may get a part.
func (c *simClient) leave() {
	if c.conn == nil {
		return
	}
	c.read(c.paged + c.sim.rng.IntN(len(c.queue)-c.paged+1))
	c.conn = nil
}

// read lets the page have the first n messages of this leg.
func (c *simClient) read(n int) {
	for ; c.paged < n; c.paged++ {
		c.page = max(c.page, c.queue[c.paged])
	}
}

func (c *simClient) plan() {
	conn := c.conn
	c.after(c.sim.between(0, 400*time.Millisecond), func() {
		if c.conn == conn && conn != nil {
			c.act()
			if c.conn == conn {
				c.plan()
			}
		}
	})
}

// later comes back after a while, sometimes after too long.
func (c *simClient) later() {
	s := c.sim
	d := s.between(0, 2*time.Second)
	if s.chance(0.3) {
		d = s.between(0, s.cfg.Grace*5/4+time.Second)
	}
	if s.calm {
		d = s.between(0, 100*time.Millisecond)
	}
	c.after(d, func() {
		if c.conn == nil {
			c.connect()
		}
	})
}

// act is what clients, and what the network does to them, at random.
func (c *simClient) act() {
	s := c.sim
	if s.calm {
		return
	}
	conn := c.conn
	switch n := s.rng.IntN(1000); {
	case n < 500:
		for range 1 + s.rng.IntN(6) {
			c.say()
		}
	case n < 560:
		c.post()
	case n < 600: // it reads nothing for a while
		conn.listen(false)
		c.after(s.between(0, 20*time.Second), func() { conn.listen(true) })
	case n < 630: // its script is blocked
		c.silent = true
		c.after(s.between(0, 20*time.Second), func() { c.silent = false; c.answer() })
	case n < 660:
		s.note("network: cut, both sides hear of it")
		conn.cut(true, true)
	case n < 675 && s.cfg.Client.Interval > 0:
		s.note("network: cut, the proxy is not told")
		conn.cut(false, true)
	case n < 690 && s.cfg.Client.Interval > 0:
		s.note("network: silent both ways")
		conn.cut(false, false)
		c.suspect(conn)
	case n < 705:
		s.note("network: cut, the client is not told")
		conn.cut(true, false)
		c.suspect(conn)
	case n < 725:
		s.note("client: a new connection beside the old one")
		c.connect()
	case n < 732:
		code := []int{1000, 1001, 0, 3000}[s.rng.IntN(4)]
		s.note("client: close %d", code)
		conn.send(build(8, true, closePayload(code, "bye"), s.key()))
		c.leave()
		if !s.chance(0.2) {
			c.later()
		}
	case n < 740:
		s.note("client: end of file")
		conn.finish()
		c.leave()
		c.later()
	case n < 745:
		c.misbehave()
		c.leave()
		c.later()
	case n < 750 && s.mode == Counted && c.welcomed:
		c.write(simMessage{true, "\x1e" + []string{`{"type":"ping"}`, `{"type":"from the future"}`}[s.rng.IntN(2)]})
	case n < 752 && s.mode == Counted && !c.first:
		s.shell.lie()
	case n < 760:
		s.jump(c, s.someJump())
	case n < 770 && s.cfg.Client.Interval > 0 && (s.mode == Keyed || s.mode == Counted && !c.first):
		c.haunt()
	}
}

// haunt is the network's doing: a connection that the client has asked for, and given up, long ago reaches the proxy
// after all, behind those that came later. Somebody on the way holds it open for a while, and nobody answers.
func (c *simClient) haunt() {
	s := c.sim
	s.note("network: an old connection of the client arrives")
	conn := s.shell.attach(nobody{}, uint64(s.rng.IntN(c.got+1)))
	if conn != nil {
		conn.deaf = s.chance(0.5)
		s.after(s.between(0, 20*time.Second), func() { conn.cut(true, true) })
	}
}

// nobody is the far end of a connection that has been forgotten there.
type nobody struct{}

func (nobody) received(*simConn, []byte) {}
func (nobody) lost(*simConn)             {}

// suspect gives a connection up that nothing comes from.
func (c *simClient) suspect(conn *simConn) {
	c.after(c.sim.between(0, 20*time.Second), func() {
		if c.conn == conn {
			c.connect()
		}
	})
}

func (s *sim) key() []byte {
	n := s.rng.Uint32()
	return []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
}

// pad is some text; now and then a lot.
func (s *sim) pad() string {
	n := s.rng.IntN(40)
	switch s.rng.IntN(20) {
	case 0:
		n = s.rng.IntN(300)
	case 1:
		n = s.rng.IntN(min(s.limit.MaxBytes*2, int(s.limit.MaxMessageBytes)*2/3))
	}
	b := []byte(strings.Repeat("x", n))
	for n > 0 && s.chance(0.2) {
		b[s.rng.IntN(n)] = 0x1E // means something only at the start of a text message
	}
	return string(b)
}

// odd makes a message binary, or begin with the escape of tideover.v1, or both.
func (s *sim) odd(m simMessage) simMessage {
	m.text = s.chance(0.5)
	if s.chance(0.5) {
		m.body = "\x1e" + m.body
	}
	return m
}

// say makes a message and sends it; now and then an old one with its id once more.
func (c *simClient) say() {
	s := c.sim
	if len(c.conn.toProxy.data) > 20000 || len(c.kept) > 200 {
		return
	}
	c.made++
	m := simMessage{true, fmt.Sprintf("c%d:%s", c.made, s.pad())}
	switch n := s.rng.IntN(20); {
	case n < 8 && s.shell.ids != nil:
		key := fmt.Sprintf("k%d", c.made)
		s.shell.ids.name(key)
		m.body = fmt.Sprintf(`{"id":%q,"n":%d,"pad":"%s"}`, key, c.made, strings.ReplaceAll(s.pad(), "\x1e", "y"))
		if c.withID = append(c.withID, m.body); len(c.withID) > 8 {
			c.withID = c.withID[1:]
		}
	case n < 11 && len(c.withID) > 0:
		m.body = c.withID[s.rng.IntN(len(c.withID))]
	case n < 14:
		m = s.odd(m)
	}
	if s.mode == Counted {
		c.kept = append(c.kept, m)
		c.flush()
		return
	}
	c.write(m)
}

// write sends a message, perhaps in fragments with pings between them.
func (c *simClient) write(m simMessage) {
	s := c.sim
	op := byte(2)
	if m.text {
		op = 1
	}
	for s.chance(0.15) {
		n := s.rng.IntN(len(m.body)+1) * s.rng.IntN(2) // half of them are empty
		c.conn.send(build(op, false, m.body[:n], s.key()))
		op, m.body = 0, m.body[n:]
		if s.chance(0.3) {
			c.post()
		}
	}
	c.conn.send(build(op, true, m.body, s.key()))
}

// post sends a ping of the client's own.
func (c *simClient) post() {
	payload := fmt.Sprintf("ping %d", c.sim.rng.Uint32())
	c.conn.send(build(9, true, payload, c.sim.key()))
}

// received is what the connection brings.
func (c *simClient) received(conn *simConn, b []byte) {
	if conn != c.conn {
		return
	}
	frames, err := c.in.feed(b)
	for _, f := range frames {
		switch {
		case f.op == 9:
			if c.pings = append(c.pings, f.payload); len(f.payload) == 16 {
				c.pingPos[binary.BigEndian.Uint64(f.payload[8:])] = len(c.queue)
			}
			c.answerLater()
		case f.op == 8:
			c.closed(f.payload)
		case f.op < 8 && f.fin:
			m := c.in.messages[0]
			c.in.messages = c.in.messages[1:]
			c.heard(m)
		}
		if c.conn != conn {
			return
		}
	}
	if err != nil {
		c.sim.fail("what the client receives is no valid WebSocket: %v", err)
	}
	if c.sim.calm || c.sim.chance(0.3) { // the page runs
		n := len(c.queue)
		c.after(c.sim.between(0, 100*time.Millisecond), func() {
			if c.conn == conn {
				c.read(n)
			}
		})
	}
}

// closed answers a Close and goes.
func (c *simClient) closed(payload []byte) {
	s := c.sim
	conn := c.conn
	if u := &s.shell.core.up; u.end == UpstreamClosed && bytes.HasSuffix(u.closeMsg.bytes(), payload) && s.shell.core.Stats.Dropped == 0 {
		if n := max(c.got, c.page, c.last); n != s.shell.down {
			s.fail("the client hears the upstream's Close and has %d messages of %d", n, s.shell.down)
		}
	}
	if s.calm || s.chance(0.8) {
		conn.send(build(8, true, string(payload), s.key()))
		c.after(s.between(0, 100*time.Millisecond), conn.finish)
		if s.mode != Counted {
			c.read(len(c.queue)) // the page gets its close event after all messages
		}
		superseded := bytes.HasPrefix(payload, []byte(closePayload(4409, "")))
		c.gone = !superseded && (s.calm || s.chance(0.5)) // most take it for the end, some come back all the same
	} else {
		conn.cut(true, true)
	}
	c.leave()
	c.later()
}

func (c *simClient) lost(conn *simConn) {
	if conn == c.conn {
		c.sim.note("client: its connection is lost")
		c.leave()
		c.later()
	}
}

func (c *simClient) answerLater() {
	d := c.sim.between(0, 50*time.Millisecond)
	if !c.sim.calm && c.sim.chance(0.1) {
		d = c.sim.between(0, 3*time.Second)
	}
	c.after(d, c.answer)
}

// answer sends pongs: one for each ping or one for all (RFC 6455, section 5.5.3).
func (c *simClient) answer() {
	if c.silent || c.conn == nil {
		return
	}
	if len(c.pings) > 1 && c.sim.chance(0.4) {
		c.pings = c.pings[len(c.pings)-1:]
	}
	leg := c.sim.shell.legs[c.conn.leg.id]
	for _, p := range c.pings {
		if len(p) == 16 {
			if n := leg.asked[binary.BigEndian.Uint64(p[8:])-1]; n > 0 {
				c.read(c.pingPos[n])
			}
		}
		c.conn.send(build(10, true, string(p), c.sim.key()))
	}
	c.pings = nil
}

// heard takes a whole message.
func (c *simClient) heard(m wireMessage) {
	s := c.sim
	body := m.body
	if s.mode == Counted && m.text && strings.HasPrefix(body, "\x1e") {
		if body = body[1:]; !strings.HasPrefix(body, "\x1e") {
			c.told(body)
			return
		}
	}
	if s.mode != Counted && m.text && body == string(s.limit.BeatMessage) {
		return
	}
	n := number(body)
	if n < 1 || n > len(s.up.said) || s.up.said[n-1] != (simMessage{m.text, body}) {
		s.fail("the client receives %.60q, which the upstream never said", body)
	}
	if s.mode == Counted {
		if !c.welcomed {
			s.fail("data before the welcome")
		}
		if c.got++; n != c.got {
			s.fail("message %d reaches the client as number %d", n, c.got)
		}
		c.acknowledge()
		return
	}
	before := c.last
	if before == 0 { // the first on this leg
		if before = n - 1; c.page < before {
			before = c.page
		}
	}
	if n <= before {
		s.fail("message %d after message %d on one leg", n, before)
	}
	c.skipped(before+1, n-1)
	c.last = n
	c.queue = append(c.queue, n)
}

// skipped notes lost messages: only drop_oldest may lose any, and it counts them.
func (c *simClient) skipped(from, to int) {
	for n := from; n <= to; n++ {
		c.missing[n] = true
	}
	if dropped := c.sim.shell.core.Stats.Dropped; from <= to && len(c.missing) > int(dropped) {
		c.sim.fail("messages %d to %d do not reach the client; %d are missing by now, dropped were %d", from, to, len(c.missing), dropped)
	}
}

// calm ends all bad manners.
func (c *simClient) calm() {
	c.silent = false
	if c.conn == nil {
		c.later()
		return
	}
	c.read(len(c.queue))
	c.conn.listen(true)
	if c.conn.toPeer.hole || c.conn.toProxy.hole || c.conn.toProxy.fin {
		c.connect()
		return
	}
	c.answer()
}

// complete is checked at the end of a calm phase.
func (c *simClient) complete() {
	if c.conn == nil {
		c.sim.fail("the client is not connected")
	}
	if len(c.kept) > 0 {
		c.sim.fail("%d messages of the client are not acknowledged", len(c.kept))
	}
}

// number reads the number of a message.
func number(body string) (n int) {
	body = strings.TrimLeft(body, "\x1e")
	if i := strings.IndexByte(body, ':'); i > 0 {
		_, _ = fmt.Sscanf(body[:i], "u%d", &n)
	}
	return n
}
