package session

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// This file is what a tideover.v1 client does: it counts, acknowledges, and sends again what was not
// acknowledged. (And what no client may do.)

// flush sends what a tideover.v1 client has kept and not sent on this leg.
func (c *simClient) flush() {
	for c.welcomed && c.sent < len(c.kept) {
		m := c.kept[c.sent]
		if c.sent++; m.text && strings.HasPrefix(m.body, "\x1e") {
			m.body = "\x1e" + m.body
		}
		c.write(m)
	}
}

func (c *simClient) acknowledge() {
	if c.acking {
		return
	}
	c.acking = true
	c.after(c.sim.between(0, 250*time.Millisecond), func() {
		c.acking = false
		if c.conn != nil && c.welcomed {
			c.write(simMessage{true, fmt.Sprintf("\x1e"+`{"type":"ack","received":%d}`, c.got)})
		}
	})
}

// told takes a control message of tideover.v1.
func (c *simClient) told(text string) {
	s := c.sim
	var m struct {
		Type     string
		Received int
		Resumed  bool
		From, To int
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		s.fail("control message %q: %v", text, err)
	}
	if (m.Type == "welcome") == c.welcomed {
		s.fail("%s when welcomed is %v", m.Type, c.welcomed)
	}
	switch m.Type {
	case "welcome":
		if m.Resumed == c.first {
			s.fail("resumed is %v, the first time is %v", m.Resumed, c.first)
		}
		c.first, c.welcomed = false, true
		c.trim(m.Received)
		c.sent = 0
		c.flush()
	case "ack":
		c.trim(m.Received)
	case "pong":
	case "gap":
		if m.From != c.got+1 || m.To < m.From {
			s.fail("gap from %d to %d, the client has %d", m.From, m.To, c.got)
		}
		c.got = m.To
		c.skipped(m.From, m.To)
		c.acknowledge()
	default:
		s.fail("control message %q", text)
	}
}

// trim lets go what the proxy has taken responsibility for.
func (c *simClient) trim(n int) {
	if n < c.acked || n > c.acked+len(c.kept) {
		c.sim.fail("acknowledged are %d messages, of %d…%d", n, c.acked, c.acked+len(c.kept))
	}
	c.kept = c.kept[n-c.acked:]
	c.sent = max(0, c.sent-(n-c.acked))
	c.acked = n
}

// misbehave sends what no client may send.
func (c *simClient) misbehave() {
	s := c.sim
	bad := [][]byte{
		build(3, true, "unknown opcode", s.key()),
		build(1, true, "not masked", nil),
		build(0, true, "continues nothing", s.key()),
		build(9, false, "fragmented ping", s.key()),
		build(8, true, closePayload(1006, ""), s.key()),
		build(8, true, "\x03\xe8\xff", s.key()),
		build(2, true, strings.Repeat("x", int(s.limit.MaxMessageBytes)+1), s.key()),
	}
	if s.mode == Counted {
		bad = append(bad, build(1, true, "\x1enonsense", s.key()),
			build(1, true, fmt.Sprintf("\x1e"+`{"type":"ack","received":%d}`, len(s.up.said)+1000000), s.key()))
	}
	b := bad[s.rng.IntN(len(bad))]
	s.note("client: breaks the protocol with %.40q", b)
	c.conn.send(b)
}
