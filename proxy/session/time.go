package session

import (
	"time"

	"github.com/tideover/tideover/proxy/frame"
)

// A beat watches whether the peer of one leg lives.
type beat struct {
	at       Time   // the next heartbeat
	sent     uint64 // bytes of control frames since acked was looked at
	acked    uint64 // what the peer's TCP had acknowledged at the first miss
	missed   uint16 // in a row, since the last sign of life
	silent   uint16 // in a row, since the last byte came; max_missed is far below what fits
	heard    bool   // anything came since the last one
	awaiting bool   // since the last one, a sign of life is owed: a pong, or the rest of a frame
	known    bool   // acked is: the system can tell
}

// start begins at a random moment of the interval, so that a storm of connections does not
// become a storm of pings.
func (b *beat) start(h *Heartbeat, now Time, random uint64) {
	if h.Interval > 0 {
		b.at = now.add(time.Duration(random % uint64(h.Interval)))
	}
}

// tick is one heartbeat; it reports whether the leg's peer must be looked at closer.
func (b *beat) tick(h *Heartbeat, now Time, alive bool) (missed bool) {
	b.at = now.add(h.Interval)
	b.heard = false
	if alive || !b.awaiting {
		b.missed, b.silent, b.known = 0, 0, false
	} else {
		b.missed++
		b.silent++
	}
	b.awaiting = true
	return b.missed > 0
}

// dead takes what the peer's TCP has acknowledged and decides. Missed pongs alone don't prove
// death: a browser stops answering while a page that does not read has filled its pipe. But
// only data counts: a kernel acknowledges a few small pings whatever becomes of the program
// behind it. And it counts for no more than as long again: a kernel, or a tunnel that froze,
// may acknowledge for hours what nobody will ever read. But a backlog that goes down is as good
// as a word: what froze takes nothing once its buffers are full, while a slow link needs
// minutes for a large message, and pings wait behind it.
func (b *beat) dead(h *Heartbeat, acked uint64, known, backlog bool) bool {
	if b.missed == 0 {
		return false
	}
	took := acked - b.acked
	progress := known && b.known && took > b.sent
	if b.missed == 1 || progress {
		b.acked, b.known, b.sent = acked, known, 0
	}
	switch {
	case progress && backlog && took >= slowestLink:
		b.missed, b.silent = 0, 0
	case progress && int(b.silent) < 2*h.MaxMissed:
		b.missed = 0
	}
	enough := h.MaxMissed
	if known {
		enough = max(enough, 2) // progress shows only from one look to the next
	}
	return int(b.missed) >= enough || int(b.silent) >= 2*h.MaxMissed
}

// slowestLink is what a leg with a backlog must take from one heartbeat to the next, in bytes.
const slowestLink = 4 << 10

// Probed answers the effect Probe: how many bytes of leg the peer's TCP has acknowledged
// since the leg began; known is false if the system can't tell.
func (s *Session) Probed(now Time, leg Leg, acked uint64, known bool, fx *Effects) {
	switch {
	case leg == Upstream && !s.up.ended:
		if s.up.beat.dead(&s.cfg.Upstream, acked, known, s.up.blocked) {
			s.up.gone = true
			fx.do(Abort, Upstream)
			s.upstreamBroke(now, fx)
			s.finish(now, fx)
		}
	case leg == s.client.id && leg != 0:
		if s.client.beat.dead(&s.cfg.Client, acked, known, s.client.blocked) {
			fx.do(Abort, leg)
			s.drop(now, Unheard, fx)
			s.finish(now, fx)
		}
	}
}

// Next is when Advance must be called; never (0) if nothing waits for the time.
func (s *Session) Next() Time {
	t := s.up.closeAt
	soonest := func(at Time) {
		if at != 0 && (t == 0 || at < t) {
			t = at
		}
	}
	soonest(s.graceAt)
	soonest(s.awayAt)
	if !s.up.ended && !s.up.closing {
		soonest(s.up.beat.at)
	}
	if c := &s.client; c.id != 0 {
		soonest(c.closeAt)
		soonest(c.receiptAt)
		if c.counted != nil {
			soonest(c.counted.ackAt)
		}
		if !c.closing {
			soonest(c.beat.at)
		}
	}
	return t
}

// Advance does what has become due.
func (s *Session) Advance(now Time, fx *Effects) {
	due := func(at Time) bool { return at != 0 && at <= now }
	if due(s.awayAt) {
		s.awayAt, s.awayTold = 0, true
		fx.emit(Away)
	}
	if due(s.graceAt) {
		s.leave(now, GraceOver, fx)
		s.sayGoodbye(now, frame.CodeGoingAway, "session left: its client did not come back in time", fx)
	}
	if due(s.up.closeAt) {
		s.closeUpstream(fx)
	}
	if u := &s.up; !u.ended && !u.closing && due(u.beat.at) {
		// A leg that is not being read can't be heard. But one that takes nothing either must show by
		// its TCP that it lives.
		if u.beat.tick(&s.cfg.Upstream, now, u.beat.heard || u.paused && !u.blocked) {
			s.Stats.Missed++
			fx.do(Probe, Upstream)
		}
		u.pingDue = true
		u.beat.awaiting = u.blocked || s.upAtFrame() || u.rx.owes()
	}
	if c := &s.client; c.id != 0 {
		s.advanceClient(now, fx)
		if k := c.counted; k != nil && due(k.ackAt) {
			k.ackAt, k.ackDue = 0, true
		}
	}
	s.finish(now, fx)
}

func (s *Session) advanceClient(now Time, fx *Effects) {
	c := &s.client
	if c.closeAt != 0 && c.closeAt <= now {
		// No Close, or no receipt, in time: it may come back for what it did not get.
		fx.do(Close, c.id)
		s.drop(now, Broken, fx)
		return
	}
	if c.closing || c.beat.at == 0 || c.beat.at > now {
		return
	}
	// While the window is full, other signs of life don't count: a client that talks but never
	// answers pings would hold its upstream up forever.
	stuck := s.up.stalled && s.mode != Relay && !c.paused
	alive := c.paused || c.beat.heard && (!stuck || !c.stuck || c.moved)
	c.moved, c.stuck = false, stuck
	if c.beat.tick(&s.cfg.Client, now, alive) {
		s.Stats.Missed++
		fx.do(Probe, c.id)
	}
	c.pingDue = true
	c.beat.awaiting = c.blocked || s.win.atFrame() || c.rx.owes()
	if len(s.cfg.BeatMessage) > 0 && s.mode != Counted && !c.blocked && s.win.atMessage() {
		fx.sendNew(c.id, func(dst []byte) []byte { return frame.Append(dst, frame.Text, s.cfg.BeatMessage, nil) })
	}
}
