// Package session is the core of the proxy: the state machine of one session, pure and
// single-threaded. It takes inputs (bytes of a leg, a lost leg, the time) and appends
// effects (send, close, emit, forget …) that its shell carries out in their order. It does no I/O,
// starts no goroutine, reads no clock and logs nothing; what is random comes in with New and Attach.
//
// The shell's side of the bargain: it serialises all calls for a session; after each input it
// executes the effects in order, calls Executed, and then Effects.Release; it calls Advance
// at the time that Next names.
package session

import (
	"errors"

	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/resume"
)

// Leg names one socket of a session: Upstream, or a client leg by its number. A number
// is never used twice in a session, so that news of a superseded leg can be told from news of
// the current one.
type Leg uint32

// Upstream is the upstream leg. Client legs count from 1.
const Upstream Leg = 0

const (
	// pumpBytes is how much of the window one Send holds at most, so that a slow client's
	// backlog in the engine stays small: the window is the buffer.
	pumpBytes = 256 << 10
	// transitBytes is when a Relay session stops reading a side whose other side is slow.
	transitBytes = 64 << 10
	// maxReplies bounds the pongs that one input may lead to, in bytes; of more pings, only the
	// latest is answered (RFC 6455, section 5.5.3, allows that).
	maxReplies = 8 << 10
	// maxMarks bounds the ids that one input may mark: finding one among them is linear.
	maxMarks = 64
	// largeFrame is from how many bytes on a frame finds its room in the window at once.
	largeFrame = 8 << 10
	// receiptBytes of window are worth a ping with whatever is sent next: windows that stay in
	// the processor's caches make large messages cheaper.
	receiptBytes = 32 << 10
	// ackBytes is after how many bytes a tideover.v1 client hears of them at once.
	ackBytes = 64 << 10
)

// ErrReceived refuses a resume that claims more messages than were ever sent.
var ErrReceived = errors.New("resume claims messages that were never sent")

// Session is one session. What there is a million of should be small: fields stand in the
// order that leaves no gaps, and what a session has only now and then is behind a pointer.
type Session struct {
	cfg    *Config
	number uint64
	rng    uint64

	mode     Mode
	state    State
	reason   Reason
	awayTold bool // Away has been emitted and neither Reconnected nor Left since
	refused  bool // a client leg was closed for what was sent to it, and no receipt has come since
	legs     Leg  // client legs so far

	client clientLeg
	up     upstreamLeg
	win    window // upstream to client
	hold   []byte // client to upstream: the beginning of a message, until the rest has come

	received uint64 // client messages that the session has taken responsibility for

	graceAt Time
	awayAt  Time // when a held-back Away is due
	since   Time // when the state began

	Stats Stats
}

// clientLeg is the current client leg; the zero value means none.
type clientLeg struct {
	rx      receiver
	beat    beat
	replies box // pongs that wait for a frame boundary or for a backlog to go

	nonce    uint64 // of this leg's pings
	pings    uint64 // sent
	pongs    uint64 // the highest ping that was answered
	snap     uint64 // window.sentMsgs when the latest ping was sent
	oldSnap  uint64 // the same for the oldest unanswered ping
	proven   uint64 // sentMsgs when the ping that was answered last was sent
	provenBy uint64 // the first ping that was sent after that answer had come; 0: none yet

	receiptAt Time // when a receipt is to be asked for
	closeAt   Time // when to stop waiting for receipts or for the client's Close

	counted *countedLeg // Counted: what other sessions need no room for

	id      Leg
	blocked bool // the engine has a backlog
	paused  bool // it is not being read
	closing bool // a Close was sent: nothing more is
	pingDue bool
	moved   bool // a receipt has come since the last heartbeat
	stuck   bool // the window was full at the last heartbeat
}

// countedLeg is the part of a client leg that is about messages of tideover.v1.
type countedLeg struct {
	ackAt   Time   // when what was received is to be acknowledged
	acked   uint64 // what has been acknowledged
	unacked int    // bytes received since then
	gap     uint64 // a message that was lost and is to be told
	welcome box    // goes first; with news of a gap behind it
	ackDue  bool
	pongDue bool // a ping message is to be answered
}

// upstreamLeg is the upstream leg.
type upstreamLeg struct {
	rx       receiver
	beat     beat
	replies  box
	closeMsg box  // the upstream's Close frame, to be passed on
	closeAt  Time // when to stop waiting for its Close

	queuedFrom uint64 // Stats.UpBytes when it became blocked

	end      Reason // why it has ended
	blocked  bool
	paused   bool
	closing  bool // we sent a Close
	ended    bool // nothing more comes from it, nothing goes to it
	gone     bool // the leg is lost or was given to the engine to close
	pingDue  bool
	midFrame bool // Relay: the client went in the middle of a frame

	skip    bool // the message under way is being thrown away
	stalled bool // a frame waits for room in the window:
	first   bool // the first of its message,
	need    int  // this many bytes
}

// New returns the session of an upstream that has just accepted. number tells sessions apart
// (for the scope of ids), seed makes heartbeats begin at different moments.
func New(cfg *Config, mode Mode, number, seed uint64, now Time) *Session {
	s := Make(cfg, mode, number, seed, now)
	return &s
}

// Make is New for a shell that holds the session in itself. Once it is in use it must not be
// copied.
func Make(cfg *Config, mode Mode, number, seed uint64, now Time) Session {
	s := Session{cfg: cfg, mode: mode, number: number, rng: seed, since: now}
	s.up.beat.start(&cfg.Upstream, now, s.random())
	return s
}

// random is a step of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
// Generators, 2014): spread, not secrecy.
func (s *Session) random() uint64 {
	s.rng += 0x9e3779b97f4a7c15
	z := s.rng
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Attachment describes a client leg that is to be attached.
type Attachment struct {
	Nonce uint64 // unguessable, for this leg's pings

	// For Counted sessions:
	Received uint64 // how many of the session's messages the client has
	Session  string // for the welcome
	Token    string
	Protocol string // the application's subprotocol
}

// Attach binds a client leg: the first one, one that resumes, or one that supersedes another.
// It returns the leg's number. ErrReceived leaves the session as it was. So does a session that can't be
// had, in StateLeft or a Relay session that has had its client: then the number is 0.
func (s *Session) Attach(now Time, a Attachment, fx *Effects) (Leg, error) {
	if s.state == StateLeft || s.mode == Relay && s.state != StateFresh {
		return 0, nil
	}
	if s.mode == Counted && a.Received > s.win.high {
		return 0, ErrReceived
	}
	old := s.state
	if old == StateAttached {
		s.dismiss(resume.CodeSuperseded, "superseded by a new connection", fx)
		s.Stats.Supersedes++
	}
	s.legs++
	s.client = clientLeg{id: s.legs, nonce: a.Nonce}
	s.client.beat.start(&s.cfg.Client, now, s.random())
	s.setState(StateAttached, now)
	s.graceAt, s.awayAt = 0, 0

	if s.mode == Counted {
		s.client.counted = new(countedLeg)
		s.receipt(a.Received)
		s.welcome(a, old != StateFresh)
	}
	s.win.rewind()
	s.client.proven, s.client.snap = s.win.base, s.win.base

	switch {
	case old == StateFresh:
		if s.mode != Relay {
			fx.emit(Joined)
		}
	default:
		if old == StateAway {
			s.Stats.Resumes++
		}
		s.Stats.Replayed += uint32(s.win.complete - s.win.base)
		if s.awayTold {
			s.awayTold = false
			fx.emit(Reconnected)
		}
	}
	fx.do(Resume, s.client.id)
	if old == StateFresh {
		fx.do(Resume, Upstream)
	}
	leg := s.client.id // finish may end it: the upstream has gone, and there is nothing to replay
	s.finish(now, fx)
	return leg, nil
}

// ClientLost tells that a client leg is over. News of a superseded leg mean nothing.
func (s *Session) ClientLost(now Time, leg Leg, loss Loss, fx *Effects) {
	if leg != s.client.id || leg == 0 {
		return
	}
	s.drop(now, loss, fx)
	s.finish(now, fx)
}

// drop is what every loss of the current client leg leads to.
func (s *Session) drop(now Time, loss Loss, fx *Effects) {
	s.Stats.Losses[loss]++
	s.forgetLeg(fx)
	switch {
	case s.state != StateAttached:
		return
	case s.mode == Relay:
		s.leave(now, ClientClosed, fx)
		s.closeUpstream(fx)
		return
	case s.up.ended && s.up.closeMsg.empty() && s.win.len() == 0:
		s.leave(now, s.up.end, fx)
		return
	}
	if s.cfg.Grace <= 0 {
		s.leave(now, GraceOver, fx)
		s.sayGoodbye(now, frame.CodeGoingAway, "", fx)
		return
	}
	s.setState(StateAway, now)
	s.graceAt = now.add(s.cfg.Grace)
	if s.cfg.AwayAfter > 0 {
		s.awayAt = now.add(s.cfg.AwayAfter)
		return
	}
	s.awayTold = true
	fx.emit(Away)
}

// forgetLeg takes the current client leg out of the session. Half a message that it left
// behind can't be completed by another leg.
func (s *Session) forgetLeg(fx *Effects) {
	s.up.midFrame = s.up.midFrame || s.mode == Relay && s.client.rx.remain > 0
	s.client.rx.release()
	if s.hold != nil {
		fx.spent = append(fx.spent, s.hold)
		s.hold = nil
	}
	s.client = clientLeg{}
	s.win.rewind()
}

// dismiss closes the current client leg with a Close frame, if one can be put there, and
// forgets it: it is the engine's to close.
func (s *Session) dismiss(code uint16, reason string, fx *Effects) {
	c := &s.client
	if !c.closing && s.win.atFrame() {
		s.lastAck(fx)
		fx.sendNew(c.id, func(dst []byte) []byte { return frame.AppendClose(dst, code, reason, nil) })
	}
	fx.do(Close, c.id)
	s.forgetLeg(fx)
}

// End ends the session for a reason of the proxy's own: what the client hears is code, what
// the upstream hears upCode.
func (s *Session) End(now Time, reason Reason, code, upCode uint16, text string, fx *Effects) {
	if s.state == StateLeft {
		return
	}
	s.end(now, reason, code, upCode, text, fx)
	s.finish(now, fx)
}

func (s *Session) end(now Time, reason Reason, code, upCode uint16, text string, fx *Effects) {
	if s.client.id != 0 {
		s.dismiss(code, text, fx)
	}
	s.leave(now, reason, fx)
	s.sayGoodbye(now, upCode, text, fx)
}

// leave ends the session's life: Left is emitted, nobody finds it any more.
func (s *Session) leave(now Time, reason Reason, fx *Effects) {
	if s.mode != Relay && s.state != StateFresh {
		s.awayTold = false
		fx.emit(Left)
	}
	s.reason = reason
	s.setState(StateLeft, now)
	s.graceAt, s.awayAt = 0, 0
	s.win.clear()
	s.up.stalled = false
	fx.do(Forget, Upstream)
}

// sayGoodbye begins the closing handshake with the upstream.
func (s *Session) sayGoodbye(now Time, code uint16, text string, fx *Effects) {
	u := &s.up
	if u.ended || u.closing {
		return
	}
	if !s.upAtFrame() { // half a frame has gone up: no Close can follow it
		s.closeUpstream(fx)
		return
	}
	mask := s.maskKey()
	fx.sendNew(Upstream, func(dst []byte) []byte { return frame.AppendClose(dst, code, text, &mask) })
	u.closing = true
	u.closeAt = now.add(s.cfg.CloseTimeout)
}

// closeUpstream hands the upstream leg to the engine to close.
func (s *Session) closeUpstream(fx *Effects) {
	s.up.ended, s.up.closeAt = true, 0
	if !s.up.gone {
		s.up.gone = true
		fx.do(Close, Upstream)
	}
	s.up.rx.release()
}

// upAtFrame reports whether a control frame can be put upstream: only Relay sessions send
// parts of messages.
func (s *Session) upAtFrame() bool {
	return !s.up.midFrame && (s.mode != Relay || s.client.rx.remain == 0)
}

func (s *Session) maskKey() [4]byte {
	r := s.random()
	return [4]byte{byte(r), byte(r >> 8), byte(r >> 16), byte(r >> 24)}
}

func (s *Session) setState(to State, now Time) { s.state, s.since = to, now }

// Blocked tells that a Send left a backlog with the engine.
func (s *Session) Blocked(leg Leg) {
	switch leg {
	case Upstream:
		if !s.up.blocked {
			s.up.blocked, s.up.queuedFrom = true, s.Stats.UpBytes
		}
	case s.client.id:
		s.client.blocked = true
	}
}

// Writable tells that the backlog of a leg is gone.
func (s *Session) Writable(now Time, leg Leg, fx *Effects) {
	switch leg {
	case Upstream:
		s.up.blocked = false
	case s.client.id:
		s.client.blocked = false
	default:
		return
	}
	s.finish(now, fx)
}

// More reports whether the client leg could be handed more of the window at once; the shell
// then calls Continue until it can't.
func (s *Session) More() bool {
	return s.state == StateAttached && !s.client.blocked && !s.client.closing && s.win.unsent()
}

// Continue goes on where an input stopped so that no single Send gets too large.
func (s *Session) Continue(now Time, fx *Effects) { s.finish(now, fx) }

// Executed tells that the effects of the last input have been carried out.
func (s *Session) Executed() {
	s.win.lent = false
	if s.mode == Relay {
		s.win.trimSent()
	}
}

// State, Reason, Since, Mode and Paused are for whoever looks at a session from outside.
func (s *Session) State() State { return s.state }

// Reason says why the session is in StateLeft.
func (s *Session) Reason() Reason { return s.reason }

// Since is when the current state began.
func (s *Session) Since() Time { return s.since }

// Number tells sessions apart, as New was told.
func (s *Session) Number() uint64 { return s.number }

// Mode is the session's mode.
func (s *Session) Mode() Mode { return s.mode }

// Received is how many messages of the client the session has taken responsibility for.
func (s *Session) Received() uint64 { return s.received }

// GraceAt is when the grace of an away session is over.
func (s *Session) GraceAt() Time { return s.graceAt }

// Paused reports whether the session wants no bytes of leg for now.
func (s *Session) Paused(leg Leg) bool {
	if leg == Upstream {
		return s.up.paused
	}
	return leg == s.client.id && s.client.paused
}

// Window reports how many messages and bytes wait for their receipt.
func (s *Session) Window() (messages, bytes int) { return s.win.messages(), s.win.len() }

// Room is the memory that the next message of the upstream will be written to, or some of it, as it stands.
func (s *Session) Room() []byte { return s.win.buf[len(s.win.buf):cap(s.win.buf)] }

// Held is the memory, in bytes, of all the buffers that the session holds.
func (s *Session) Held() int {
	return s.win.held() + cap(s.hold) + s.client.rx.held() + s.up.rx.held()
}

// Over reports whether the session has left and both its legs are closed or being closed by
// the engine: nothing will ever come of it again.
func (s *Session) Over() bool {
	return s.state == StateLeft && s.client.id == 0 && s.up.gone
}
