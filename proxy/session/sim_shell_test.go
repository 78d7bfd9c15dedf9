package session

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/tideover/tideover/proxy/dedup"
)

// simShell is the shell's model: it does what package proxy's relay does, and checks on the
// way that every effect makes sense where it stands.
type simShell struct {
	sim  *sim
	core *Session
	fx   Effects

	slowEngine bool // every write leaves a backlog, as with TLS
	ids        *simIDs
	legs       map[Leg]*shellLeg
	current    Leg
	timer      int // generation
	events     []Event
	forgotten  bool

	consumed wireReader // what the session took from the upstream
	want     []string   // messages that the upstream must have been handed
	received uint64     // client messages that the session is responsible for
	handed   int        // messages handed to the upstream, events not counted
	toMark   []dedup.ID // handed over in this input, not marked yet
	batch    int        // bytes handed to a blocked upstream
	full     []Leg      // legs that have got a backlog in this input
	pressure bool       // all buffers together are over their limit
	held     int        // what the house counts for this session
	down     int        // upstream messages that the session took

	duplicates, resumes, supersedes uint64
}

// shellLeg is what the shell knows of a leg.
type shellLeg struct {
	*simLeg
	taken   wireReader // what the session took from it
	stopped bool       // it took the leg's last word
	handed  wireReader // what the session sent to it
	blocked bool       // Blocked was told
	pongs   uint64     // the highest ping that it answered
	asked   []uint64   // of each ping, the value of pongs when it was sent
	nonce   uint64
	pings   []string // payloads of its own pings, not answered yet
}

func newShell(s *sim) *simShell {
	h := &simShell{sim: s, legs: map[Leg]*shellLeg{}, slowEngine: s.chance(0.2)}
	if s.mode != Relay && s.chance(0.7) {
		if h.ids = s.house.ids; h.ids == nil {
			h.ids = newSimIDs(s)
		}
		s.cfg.Dedup = h.ids
	}
	return h
}

// begin makes the session: its upstream has accepted.
func (h *simShell) begin() {
	s := h.sim
	s.up.conn = s.connect(s.up, "upstream")
	h.legs[Upstream] = &shellLeg{simLeg: s.up.conn.leg, handed: wireReader{fromClient: true}}
	h.consumed.limit = int(s.limit.MaxMessageBytes)
	h.core = New(&s.cfg, s.mode, s.number, s.rng.Uint64(), s.now)
	h.settle()
}

// attach binds a client's connection. It is nil if the session can't be had.
func (h *simShell) attach(peer simPeer, received uint64) *simConn {
	s := h.sim
	a := Attachment{Nonce: s.rng.Uint64(), Received: received, Session: "session", Token: "token", Protocol: "chat"}
	h.enter("attach, received %d", received)
	if s.bug != nil && s.bug.attach != nil {
		s.bug.attach(s)
	}
	switch h.core.State() {
	case StateAttached:
		h.supersedes++
	case StateAway:
		h.resumes++
	}
	id, err := h.core.Attach(s.now, a, &h.fx)
	if err != nil || id == 0 {
		s.note("  refused: %v, session is %v", err, h.core.State())
		if err != nil || h.core.State() != StateLeft {
			s.fail("an honest client was refused: %v, state %v", err, h.core.State())
		}
		h.leave()
		return nil
	}
	c := s.connect(peer, "client "+string('0'+rune(id%10)))
	c.leg.id = id
	h.legs[id] = &shellLeg{simLeg: c.leg, taken: wireReader{fromClient: true, limit: int(s.limit.MaxMessageBytes)}, nonce: a.Nonce}
	h.current = id
	h.leave()
	return c
}

// lie tries to resume with more messages than were ever sent: it must be refused without a trace.
func (h *simShell) lie() {
	s := h.sim
	h.enter("a resume that lies")
	state, legs := h.core.State(), h.core.legs
	if state == StateLeft {
		return
	}
	leg, err := h.core.Attach(s.now, Attachment{Received: uint64(len(s.up.said)) + 1}, &h.fx)
	if err != ErrReceived || leg != 0 || len(h.fx.List) > 0 || h.core.State() != state || h.core.legs != legs {
		s.fail("a resume that lies led to leg %d, error %v, state %v", leg, err, h.core.State())
	}
	h.leave()
}

// enter begins an input, leave ends it.
func (h *simShell) enter(format string, args ...any) {
	s := h.sim
	s.steps++
	s.note(format, args...)
	h.pressure = !s.calm && (s.rng.IntN(50) == 0 || s.house.pressed())
	h.fx.Pressure = h.pressure && (s.bug == nil || !s.bug.mutePressure)
}

func (h *simShell) leave() {
	s := h.sim
	if s.bug != nil && s.bug.after != nil {
		s.bug.after(s)
	}
	h.execute()
	h.settle()
	s.house.account(h)
}

// execute carries effects out as the real shell does.
func (h *simShell) execute() {
	s := h.sim
	for rounds := 0; ; rounds++ {
		if s.rng.IntN(16) == 0 {
			stealBuffers()
		}
		if s.bug != nil && s.bug.effects != nil {
			s.bug.effects(s)
		}
		for i := 0; i < len(h.fx.List); i++ {
			h.effect(&h.fx.List[i])
		}
		if len(h.toMark) > 0 {
			s.fail("the input has been carried out, and %d ids that were handed over are not marked", len(h.toMark))
		}
		h.tellBlocked()
		h.core.Executed()
		h.fx.Release()
		if !h.core.More() {
			return
		}
		if rounds > 100 {
			s.fail("Continue goes on forever")
		}
		h.core.Continue(s.now, &h.fx)
	}
}

// stealBuffers does to the pooled buffers what other sessions would do.
func stealBuffers() {
	for n := minBuffer; n <= 16<<10; n *= 2 {
		b := getBuffer(n)
		b = b[:cap(b)]
		for i := 0; i < len(b); i += 16 {
			b[i] = 0xFF
		}
		putBuffer(b)
	}
}

func (h *simShell) effect(e *Effect) {
	s := h.sim
	leg := h.legs[e.Leg]
	if e.Kind != Emit && e.Kind != Mark && e.Kind != Forget && (leg == nil || leg.closed || leg.lost) {
		s.fail("%v for %s, which is closed", e.Kind, legName(e.Leg))
	}
	switch e.Kind {
	case Send:
		h.send(e.Leg, leg, e.Data)
	case Close, Abort:
		s.note("  %v %s", e.Kind, legName(e.Leg))
		if p := &leg.conn.toProxy; e.Kind == Abort && !leg.reading && !leg.blocked && len(p.data) > 0 && !p.hole && s.now-p.since > 2*Time(s.latency) {
			s.fail("%s is given up for dead while %d bytes of it wait to be read", legName(e.Leg), len(p.data))
		}
		leg.close(e.Kind == Close)
		if e.Leg != Upstream && s.chance(0.3) {
			s.after(s.between(0, 5*time.Second), func() { h.stale(leg) })
		}
	case Pause:
		s.note("  pause %s", legName(e.Leg))
		leg.pause()
	case Resume:
		s.note("  resume %s", legName(e.Leg))
		leg.resume()
	case Emit:
		h.emit(e.Event)
	case Mark:
		i := slices.Index(h.toMark, e.ID)
		if i < 0 {
			s.fail("an id is marked whose message has not been handed over")
		}
		h.toMark = slices.Delete(h.toMark, i, i+1)
		h.ids.mark(s.number, e.ID, s.now)
	case Probe:
		acked, known := leg.acked(), !h.slowEngine
		s.note("  probe %s: %d, %v", legName(e.Leg), acked, known)
		h.core.Probed(s.now, e.Leg, acked, known, &h.fx)
	case Forget:
		if h.forgotten {
			s.fail("forgotten twice")
		}
		h.forgotten = true
	}
}

// send writes to a leg and reads along.
func (h *simShell) send(id Leg, leg *shellLeg, data []byte) {
	s := h.sim
	frames, err := leg.handed.feed(data)
	for _, f := range frames {
		s.note("  to %s: %v", legName(id), f)
		h.framed(id, leg, f)
	}
	if err != nil {
		s.fail("what %s is sent is no valid WebSocket: %v", legName(id), err)
	}
	if id == Upstream {
		h.handedUp(leg)
		if leg.blocked {
			if h.batch += len(data); h.batch > s.limit.MaxBytes+2*batchSize+int(s.limit.MaxMessageBytes)+maxReplies+4096 {
				s.fail("%d bytes sent to the upstream although it has a backlog", h.batch)
			}
		}
	} else if closes := len(frames) == 1 && frames[0].op == 8; leg.blocked && !closes {
		s.fail("%d bytes sent to %s although it has a backlog", len(data), legName(id))
	}
	if leg.write(data) > 0 {
		h.full = append(h.full, id)
	}
}

// tellBlocked tells of backlogs, as the real shell does: after the input's last send.
func (h *simShell) tellBlocked() {
	for _, id := range h.full {
		if leg := h.legs[id]; !leg.closed && len(leg.backlog) > 0 {
			leg.blocked = true
			if b := h.sim.bug; b == nil || !b.muteBlocked {
				h.core.Blocked(id)
			}
		}
	}
	h.full = h.full[:0]
}

// framed looks at a frame that a leg was handed.
func (h *simShell) framed(id Leg, leg *shellLeg, f wireFrame) {
	s := h.sim
	switch {
	case f.op == 9 && id != Upstream:
		if len(f.payload) != 16 || binary.BigEndian.Uint64(f.payload) != leg.nonce || binary.BigEndian.Uint64(f.payload[8:]) != uint64(len(leg.asked)+1) {
			s.fail("ping %d of %s is %x", len(leg.asked)+1, legName(id), f.payload)
		}
		leg.asked = append(leg.asked, leg.pongs)
	case f.op == 10:
		i := slices.Index(leg.pings, string(f.payload))
		if i < 0 {
			s.fail("a pong to %s that answers no ping of its own: %q", legName(id), f.payload)
		}
		leg.pings = leg.pings[i+1:]
	}
}

// handedUp compares what the upstream has been handed with what it must have been.
func (h *simShell) handedUp(leg *shellLeg) {
	s := h.sim
	for _, m := range leg.handed.messages {
		if strings.HasPrefix(m.body, "event:") {
			continue
		}
		if h.handed >= len(h.want) {
			s.fail("the upstream is handed %.60q, which it should not get", m.body)
		}
		if m.body != h.want[h.handed] {
			s.fail("the upstream is handed %.60q, want %.60q", m.body, h.want[h.handed])
		}
		h.handed++
		if h.ids == nil || !m.text {
			continue
		}
		if id, ok := h.ids.Find([]byte(m.body)); ok {
			key := h.ids.key(s.number, id)
			if at, again := h.ids.carried[key]; again && s.now-at < Time(h.ids.ttl) {
				s.fail("the upstream is handed id %s a second time after %v", key, s.now-at)
			}
			h.ids.carried[key] = s.now
			h.toMark = append(h.toMark, id)
		}
	}
	leg.handed.messages = leg.handed.messages[:0]
}

// emit checks that events are balanced, and tells the upstream.
func (h *simShell) emit(ev Event) {
	s := h.sim
	s.note("  emit %v", ev)
	last := Left + 1
	if n := len(h.events); n > 0 {
		last = h.events[n-1]
	}
	if follows := map[Event][]Event{
		Joined: {Left + 1}, Away: {Joined, Reconnected}, Reconnected: {Away}, Left: {Joined, Away, Reconnected},
	}; s.mode == Relay || !slices.Contains(follows[ev], last) {
		s.fail("%v after %v", ev, h.events)
	}
	h.events = append(h.events, ev)
	if up := h.legs[Upstream]; !up.closed && !up.lost {
		h.send(Upstream, up, build(1, true, "event:"+ev.String(), testKey))
	}
}

// batchSize is the most that one read brings.
const batchSize = 4096

// data is Handler.Data.
func (h *simShell) data(l *simLeg, b []byte) (used int) {
	s := h.sim
	leg := h.legs[l.id]
	b = b[:min(len(b), batchSize)]
	for used < len(b) {
		h.enter("%s: %d bytes", legName(l.id), len(b)-used)
		given := bytes.Clone(b[used:])
		most, unsent := h.core.win.messages(), h.core.win.len()-h.core.win.sent
		if h.core.win.partial() {
			most++
		}
		alive := h.upstreamTakes()
		var n int
		if l.id == Upstream {
			n = h.core.UpstreamBytes(s.now, b[used:], &h.fx)
		} else {
			n = h.core.ClientBytes(s.now, l.id, b[used:], &h.fx)
		}
		h.took(leg, given[:n], alive)
		used += n
		h.leave()
		if h.pressure && h.core.state == StateAttached {
			if n := h.core.win.messages(); s.mode != Relay && n > max(most, 1) {
				s.fail("%d messages wait for a client under pressure, there were %d", n, most)
			}
			if n := h.core.win.len() - h.core.win.sent; s.mode == Relay && unsent > 0 && n > unsent {
				s.fail("%d bytes are in transit under pressure, there were %d", n, unsent)
			}
		}
		if h.pressure && l.id != Upstream && len(h.core.hold) > holdUnderPressure {
			s.fail("%d bytes of an unfinished message held under pressure", len(h.core.hold))
		}
		if leg.closed || used < len(b) && h.core.Paused(l.id) {
			break
		}
		if n == 0 {
			s.fail("nothing consumed of %s although it is not paused", legName(l.id))
		}
	}
	return used
}

// upstreamTakes reports whether messages can still go up.
func (h *simShell) upstreamTakes() bool { return !h.core.up.ended && !h.core.up.closing }

// lost is Handler.Lost.
func (h *simShell) lost(l *simLeg) {
	s := h.sim
	h.enter("%s lost", legName(l.id))
	switch {
	case l.id == Upstream:
		h.core.UpstreamLost(s.now, &h.fx)
	case s.bug != nil && s.bug.lost != nil:
		s.bug.lost(s, l.id)
	default:
		h.core.ClientLost(s.now, l.id, Broken, &h.fx)
	}
	h.leave()
}

// writable is Handler.Writable.
func (h *simShell) writable(l *simLeg) {
	s := h.sim
	leg := h.legs[l.id]
	h.enter("%s writable", legName(l.id))
	leg.blocked = false
	if l.id == Upstream {
		h.batch = 0
	}
	if s.bug == nil || !s.bug.muteWritable {
		h.core.Writable(s.now, l.id, &h.fx)
	}
	h.leave()
}

// end is the proxy's own decision to end the session.
func (h *simShell) end(reason Reason) {
	h.enter("ended by the proxy: %v", reason)
	h.core.End(h.sim.now, reason, 1013, 1013, "", &h.fx)
	h.leave()
}

// settle sets the timer, after the checks that follow each input.
func (h *simShell) settle() {
	s := h.sim
	h.check()
	next := h.core.Next()
	if next == 0 {
		return
	}
	h.timer++
	mine := h.timer
	s.after(max(0, time.Duration(next-s.now))+s.between(0, 2*time.Millisecond), func() {
		if mine != h.timer || h.core.Next() == 0 || h.core.Next() > s.now {
			return
		}
		h.enter("time")
		h.core.Advance(s.now, &h.fx)
		h.leave()
		if next := h.core.Next(); next != 0 && next <= s.now {
			s.fail("after Advance at %d, Next is %d: it would be called forever", s.now, next)
		}
	})
}
