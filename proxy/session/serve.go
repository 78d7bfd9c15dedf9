package session

import (
	"encoding/binary"
	"time"

	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/resume"
)

// finish ends every input: whatever can be sent now is, whatever has to wait is paused.
func (s *Session) finish(now Time, fx *Effects) {
	u := &s.up
	s.serve(now, fx)
	if u.stalled && s.room(now, u.need, u.first, fx) && u.rx.stash != nil {
		s.arrive(now, nil, fx) // the header that waited for room is in the stash
		u.rx.settle()
		s.serve(now, fx)
	}
	if !u.ended && !u.closing && !u.blocked && s.upAtFrame() {
		if !u.replies.empty() {
			u.beat.sent += uint64(len(fx.sendBox(Upstream, &u.replies)))
		}
		if u.pingDue {
			u.pingDue = false
			mask := s.maskKey()
			at := len(fx.scratch)
			fx.sendNew(Upstream, func(dst []byte) []byte { return frame.Append(dst, frame.Ping, nil, &mask) })
			u.beat.sent += uint64(len(fx.scratch) - at)
		}
	}
	if want := u.stalled && !u.ended; want != u.paused && !u.gone {
		u.paused = want
		u.beat.heard = true // what it said meanwhile could not be heard
		fx.do(pauseOrResume(want), Upstream)
	}
	if c := &s.client; c.id != 0 {
		// While the window waits for receipts, they must be heard, or a backend that writes before
		// it reads on would wait forever: some more is read then.
		waits := u.stalled && s.mode != Relay && !fx.Pressure && s.Stats.UpBytes-u.queuedFrom < uint64(s.cfg.MaxBytes)
		if want := u.blocked && !u.ended && !waits; want != c.paused {
			c.paused = want
			c.beat.heard, c.stuck = true, false
			fx.do(pauseOrResume(want), c.id)
		}
	}
}

func pauseOrResume(pause bool) Kind {
	if pause {
		return Pause
	}
	return Resume
}

// serve hands the client leg what there is for it: the window in order, and control
// frames and messages where the boundaries allow them.
func (s *Session) serve(now Time, fx *Effects) {
	c, w, sent, before := &s.client, &s.win, false, s.win.sentMsgs
	if c.id == 0 {
		return
	}
	if k := c.counted; k != nil && s.received > k.acked && k.ackAt == 0 && !k.ackDue {
		k.ackAt = now.add(ackInterval)
	}
	if !c.blocked && !c.closing {
		if s.mode == Counted {
			s.sendControls(fx) // before data: the welcome comes first
		}
		if w.unsent() {
			fx.send(c.id, w.next(pumpBytes))
			sent = true
		}
	}
	if s.mode == Keyed {
		s.askReceipt(now, sent, w.sentMsgs > before && before == c.snap)
	}
	if c.blocked || c.closing {
		return
	}
	if s.mode == Counted {
		s.sendControls(fx)
	}
	if w.atFrame() {
		if !c.replies.empty() {
			c.beat.sent += uint64(len(fx.sendBox(c.id, &c.replies)))
		}
		if c.pingDue {
			c.pingDue = false
			s.ping(fx)
		}
	}
	if s.up.ended && !w.unsent() {
		s.finishClient(now, fx)
	}
}

// sendControls sends the control messages that are due, if the client is between two
// messages.
func (s *Session) sendControls(fx *Effects) {
	c, k := &s.client, s.client.counted
	if !s.win.atMessage() {
		return
	}
	fx.sendBox(c.id, &k.welcome)
	text := func(build func([]byte) []byte) {
		var b [64]byte
		p := build(b[:0])
		fx.sendNew(c.id, func(dst []byte) []byte { return frame.Append(dst, frame.Text, p, nil) })
		c.beat.sent += uint64(len(p) + 2)
	}
	if k.gap != 0 {
		n := k.gap
		k.gap = 0
		s.win.high = max(s.win.high, n)
		s.Stats.Gaps++
		text(func(dst []byte) []byte { return resume.AppendGap(dst, n, n) })
	}
	if k.pongDue {
		k.pongDue = false
		text(resume.AppendPong)
	}
	if s.received > k.acked && (k.ackDue || k.unacked >= ackBytes) {
		k.acked, k.unacked, k.ackAt, k.ackDue = s.received, 0, 0, false
		text(func(dst []byte) []byte { return resume.AppendAck(dst, s.received) })
	}
}

// lastAck goes before a Close, unless there is a backlog: the client, which hears nothing after it, must not take for
// lost, or send into another session, what was accepted.
func (s *Session) lastAck(fx *Effects) {
	if s.mode == Counted && !s.client.blocked {
		s.client.counted.ackDue = true
		s.sendControls(fx)
	}
}

// ackInterval is how long a client waits for an acknowledgement at most.
const ackInterval = 250 * time.Millisecond

// welcome prepares the first message to a tideover.v1 client.
func (s *Session) welcome(a Attachment, resumed bool) {
	k := s.client.counted
	k.acked = s.received
	p := resume.AppendWelcome(nil, resume.Welcome{
		Session: a.Session, Token: a.Token, Resumed: resumed,
		Received: s.received, Protocol: a.Protocol, GraceMS: s.cfg.Grace.Milliseconds(),
	})
	hello := frame.Append(nil, frame.Text, p, nil)
	if resumed && a.Received < s.win.base {
		p = resume.AppendGap(p[:0], a.Received+1, s.win.base)
		hello = frame.Append(hello, frame.Text, p, nil)
		s.win.high = max(s.win.high, s.win.base) // the client counts what it is told to be lost
		s.Stats.Gaps++
	}
	k.welcome.set(hello)
}

// receipt takes the proof that the client has the first n messages.
func (s *Session) receipt(n uint64) {
	if n > s.win.base {
		s.Stats.Receipts += n - s.win.base
		s.client.moved, s.refused = true, false
		s.win.trim(n)
	}
}

// askReceipt decides whether a ping is to ask for a receipt. One goes at a time: the answer to
// a ping proves what had been sent before the previous one, if it was sent after the answer
// to that had come. (A browser answers pings before its page has run; only the second
// round trip shows that what came before the first one has been read.)
//
// The interval begins with the first message since the last ping, or without one, for the second round trip, with the
// answer. Data that goes out takes the ping along once receiptBytes wait, or if by the pace so far the next
// message would come too late for that: on a leg with some traffic no ping has to go by itself, and few go.
func (s *Session) askReceipt(now Time, sent, first bool) {
	c, w := &s.client, &s.win
	if !w.unreceived() || c.pings > c.pongs || c.pingDue {
		c.receiptAt = 0
		return
	}
	interval := s.receiptInterval()
	if c.receiptAt == 0 || first {
		c.receiptAt = now.add(interval)
	}
	last := s.up.ended && s.up.closeMsg.empty() // without a Close whose answer would prove it
	urgent := s.up.stalled || last || 2*w.len() >= s.cfg.MaxBytes || 2*w.messages() >= s.cfg.MaxMessages ||
		sent && w.len() >= receiptBytes
	left := time.Duration(c.receiptAt - now)
	pace := (interval - left) / time.Duration(max(2, w.sentMsgs-c.snap)-1)
	if urgent || left <= 0 || sent && left <= pace {
		c.receiptAt, c.pingDue = 0, true
	}
}

// receiptInterval is a random part of the configured one for a leg's first ping, and all of it later: legs that began
// together, or hear the same broadcasts, are not to ask and answer all at once for ever.
func (s *Session) receiptInterval() time.Duration {
	d := s.cfg.ReceiptInterval
	if c := &s.client; c.pings == 0 {
		d -= d / 256 * time.Duration(c.nonce>>56)
	}
	return d
}

// pingPayload is a nonce and the ping's number, 8 bytes each.
const pingPayload = 16

func (s *Session) ping(fx *Effects) {
	c := &s.client
	if c.pings++; c.pings == c.pongs+1 {
		c.oldSnap = s.win.sentMsgs
	}
	c.snap = s.win.sentMsgs
	var p [pingPayload]byte
	binary.BigEndian.PutUint64(p[:], c.nonce)
	binary.BigEndian.PutUint64(p[8:], c.pings)
	fx.sendNew(c.id, func(dst []byte) []byte { return frame.Append(dst, frame.Ping, p[:], nil) })
	c.beat.sent += pingPayload + 2
}

// ponged takes a pong of the client. Pongs may be coalesced (RFC 6455, section 5.5.3): one
// answers all pings up to its own. Any other payload is only a sign of life.
func (s *Session) ponged(p []byte) {
	c := &s.client
	if len(p) != pingPayload || binary.BigEndian.Uint64(p) != c.nonce {
		return
	}
	n := binary.BigEndian.Uint64(p[8:])
	if n <= c.pongs || n > c.pings {
		return
	}
	if s.mode == Keyed && c.provenBy != 0 && n >= c.provenBy {
		s.receipt(c.proven)
	}
	c.proven = c.oldSnap
	if n == c.pings {
		c.proven = c.snap
	}
	c.pongs, c.provenBy = n, c.pings+1
}

// finishClient closes the client leg of a session whose upstream has ended, once it has all.
func (s *Session) finishClient(now Time, fx *Effects) {
	c := &s.client
	switch {
	case !s.up.closeMsg.empty() && s.win.atFrame():
		s.lastAck(fx)
		fx.send(c.id, s.up.closeMsg.bytes())
		c.closing = true
		c.closeAt = now.add(s.cfg.CloseTimeout)
	case s.mode == Relay || s.win.messages() == 0:
		// Without a Close, as the client would see it without a proxy.
		fx.do(Close, c.id)
		s.forgetLeg(fx)
		s.leave(now, s.up.end, fx)
	case !s.win.atFrame(): // the upstream went in the middle of one: there is no way to go on
		fx.do(Close, c.id)
		s.drop(now, Broken, fx)
	case c.closeAt == 0:
		c.closeAt = now.add(s.cfg.CloseTimeout) // for the receipts
	}
}
