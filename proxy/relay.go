package proxy

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/engine"
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/prefetch"
	"github.com/tideover/tideover/proxy/presence"
	"github.com/tideover/tideover/proxy/session"
)

// A relay is the shell of one session: its lock, and its legs and its timer in the engine. It turns
// what the engine tells into inputs of the core and carries out the effects in their order.
// It implements engine.Handler.
//
// A relay's memory is used again, for another session, as soon as nobody holds it. The registry holds it while it can be
// found there, who found it until release, and the engine until Over; whatever runs on behalf of none of them must not know it.
type relay struct {
	holders atomic.Int32

	// Set once, before the first leg is added.
	p        *Proxy
	set      *settings
	id       sessionID // public, names the session in the API, the logs and tokens
	summed   uint8     // the round of counters.totals that r is in; guarded by mu, it stands here because there is room
	key      string    // the value of session.key; empty for sessions that are found by token only
	bind     bindDigest
	protocol string // the application's subprotocol, as the upstream chose it
	who      presence.Identity

	mu       sync.Mutex
	core     session.Session
	group    engine.Group // nil once the session is retired
	upstream engine.Leg   // nil once it is the engine's to close
	client   clientRef
	remote   string  // address of the latest client
	tokens   *tokens // Counted sessions have some
	timerAt  session.Time
	held     int64 // what p.buffered counts for this session

	room engine.Room // the engine's
}

// hold is called by a holder for another one, or by who finds r in the registry, with its shard locked.
func (r *relay) hold() { r.holders.Add(1) }

// release is a holder's last use of r. r is not locked by it.
func (r *relay) release() {
	switch n := r.holders.Add(-1); {
	case n == 0:
		r.p.relays.Put(r)
	case n < 0:
		panic("a session was released that nobody holds") // going on could show one user's messages to another
	}
}

// Over is called by the engine when it holds r no more.
func (r *relay) Over() { r.release() }

// newRelay returns a relay that the caller holds.
func (p *Proxy) newRelay(set *settings) *relay {
	r := p.relays.Get()
	r.hold()
	r.p, r.set, r.id = p, set, newID()
	return r
}

// clientRef is a client leg by both its names.
type clientRef struct {
	leg engine.Leg
	id  session.Leg
}

// A turn is what one goroutine needs to run one input. Turns are pooled.
type turn struct {
	fx   session.Effects
	up   [][]byte  // gathered for one write to the upstream leg
	lost bool      // what was written to the upstream leg last was not taken
	down [][]byte  // and to the client leg
	old  clientRef // a leg that a new one supersedes
	text []byte    // event messages
}

var turns = sync.Pool{New: func() any { return new(turn) }}

// begin locks the relay for one input.
func (r *relay) begin() (*turn, session.Time) {
	t := turns.Get().(*turn)
	t.fx.Pressure, t.lost = r.p.underPressure(), false
	r.mu.Lock()
	return t, r.p.now() // after waiting for the lock: to the core, time never goes back
}

// done carries out what an input led to, and unlocks.
func (r *relay) done(now session.Time, t *turn) {
	r.execute(now, t)
	r.settle(now)
	r.mu.Unlock()
	turns.Put(t)
}

// Expect is called by the engine before Data. What is far away in memory is first r, and then the end of its window.
func (r *relay) Expect(leg engine.Leg, before int) {
	switch {
	case before > 0:
		prefetch.Lines(uintptr(unsafe.Pointer(r)), relayLines)
	case r.mu.TryLock():
		if leg == r.upstream {
			room := r.core.Room()
			prefetch.Lines(uintptr(unsafe.Pointer(unsafe.SliceData(room))), 1+min(len(room), roomFetched)/prefetch.Line)
		}
		r.mu.Unlock()
	}
}

const (
	relayLines = (int(unsafe.Offsetof(relay{}.room)) + prefetch.Line - 1) / prefetch.Line // the engine sees to its own
	// roomFetched is how much of a window is fetched before a message is written into it, in bytes: for longer
	// ones the processor sees by itself what comes next.
	roomFetched = 256
)

// Data is called by the engine with what one read of a leg brought.
func (r *relay) Data(leg engine.Leg, b []byte) int {
	t, now := r.begin()
	used := 0
	for used < len(b) {
		var name session.Leg
		switch leg {
		case r.upstream:
			used += r.core.UpstreamBytes(now, b[used:], &t.fx)
		case r.client.leg:
			name = r.client.id
			used += r.core.ClientBytes(now, name, b[used:], &t.fx)
		default: // superseded, or being closed
			used = len(b)
		}
		if used == len(b) || r.core.Paused(name) {
			break
		}
		r.execute(now, t)
	}
	r.done(now, t)
	return used
}

// Writable is called by the engine when a leg's backlog is gone.
func (r *relay) Writable(leg engine.Leg) {
	t, now := r.begin()
	switch leg {
	case r.upstream:
		r.core.Writable(now, session.Upstream, &t.fx)
	case r.client.leg:
		r.core.Writable(now, r.client.id, &t.fx)
	}
	r.done(now, t)
}

// Lost is called by the engine when a leg is over.
func (r *relay) Lost(leg engine.Leg, err error) {
	t, now := r.begin()
	switch leg {
	case r.upstream:
		r.upstream = nil
		r.core.UpstreamLost(now, &t.fx)
	case r.client.leg:
		id := r.client.id
		r.client = clientRef{}
		r.core.ClientLost(now, id, session.Broken, &t.fx)
	}
	r.done(now, t)
}

// Tick is called by the engine when the timer's time has come.
func (r *relay) Tick() {
	t, now := r.begin()
	r.timerAt = 0
	if at := r.core.Next(); at != 0 && at <= now {
		r.core.Advance(now, &t.fx)
	}
	r.done(now, t)
}

// evict ends a session that has been away since the given moment; one that has been resumed
// meanwhile is left alone.
func (r *relay) evict(since session.Time) (ended bool) {
	t, now := r.begin()
	if ended = r.core.State() == session.StateAway && r.core.Since() == since; ended {
		r.core.End(now, session.Evicted, frame.CodeTryAgainLater, frame.CodeTryAgainLater, "all buffers together were over their limit", &t.fx)
	}
	r.done(now, t)
	return ended
}

// end ends the session for a reason of the proxy's own.
func (r *relay) end(reason session.Reason, code, upCode uint16, text string) {
	t, now := r.begin()
	r.core.End(now, reason, code, upCode, text, &t.fx)
	r.done(now, t)
}

// Why a client could not be attached.
var (
	errLeft    = errors.New("session has left")
	errToken   = errors.New("resume token is not the session's")
	errClaimed = errors.New("session is attached to another client, and session.on_conflict is reject")
)

// A claim is what a client brings to be attached.
type claim struct {
	presented *secret // the token's, for a resume by token
	fresh     secret  // of the token that a Counted session's client gets; attach makes it
	nonce     uint64
	received  uint64
	remote    string // the client's address
}

// open gives a new relay its upstream leg and its first client, and makes it findable. All of
// it happens under one lock: whoever finds the session by its key supersedes this client,
// and never the other way round, and an engine that is being closed finds it whole.
func (r *relay) open(up *upstreamConn, mine *place, conn net.Conn, early, answer []byte, c claim) {
	t, now := r.begin()
	r.hold()
	r.group = r.p.engine.Group(r, &r.room)
	r.upstream = r.group.Add(up.Conn, up.Early)
	r.p.sessions.fill(mine, r)
	_ = r.attach(now, t, conn, early, answer, c) // nothing can be wrong with the first claim
	r.done(now, t)
}

// resume binds conn, whose first unread bytes are early, as client leg. answer is the HTTP
// response that opens the WebSocket; it goes out first. On an error conn is still the
// caller's and the session is as it was.
func (r *relay) resume(conn net.Conn, early, answer []byte, c claim) error {
	t, now := r.begin()
	defer func() { r.done(now, t) }()
	if err := r.admits(c); err != nil {
		return err
	}
	return r.attach(now, t, conn, early, answer, c)
}

func (r *relay) attach(now session.Time, t *turn, conn net.Conn, early, answer []byte, c claim) error {
	attachment := session.Attachment{Nonce: c.nonce, Received: c.received, Protocol: r.protocol}
	counted := r.core.Mode() == session.Counted
	if counted {
		c.fresh = newSecret()
		attachment.Session, attachment.Token = r.id.String(), tokenOf(r.id, c.fresh)
	}
	old := r.client
	id, err := r.core.Attach(now, attachment, &t.fx)
	if err != nil {
		return err
	}
	if counted {
		if r.tokens == nil {
			r.tokens = new(tokens)
		}
		r.tokens.rotate(c)
	}
	r.remote = c.remote
	leg := r.group.Add(conn, early)
	if leg.Write([][]byte{answer}) > 0 {
		r.core.Blocked(id)
	}
	t.old, r.client = old, clientRef{leg, id}
	return nil
}

// admits checks a claim. Callers that only want to know early ask mayResume.
func (r *relay) admits(c claim) error {
	switch {
	case r.core.State() == session.StateLeft:
		return errLeft
	case c.presented != nil && (r.core.Mode() != session.Counted || !r.tokens.good(c.presented)):
		return errToken // no other session has given out any
	case r.set.cfg.Session.OnConflict == config.ConflictReject && c.presented == nil && r.core.State() == session.StateAttached:
		return errClaimed
	}
	return nil
}

// mayResume tells, before anything is answered, whether resume would refuse c. It can change its
// mind meanwhile.
func (r *relay) mayResume(c claim) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.admits(c)
}

// execute carries out the effects of an input, and of what it continues into.
func (r *relay) execute(now session.Time, t *turn) {
	for {
		for i := 0; i < len(t.fx.List); i++ { // effects may lead to more of them
			r.effect(now, t, &t.fx.List[i])
		}
		r.flushUpstream(t)
		r.flushClient(t)
		r.core.Executed()
		t.fx.Release()
		t.text = t.text[:0]
		if !r.core.More() {
			return
		}
		r.core.Continue(now, &t.fx)
	}
}

func (r *relay) effect(now session.Time, t *turn, e *session.Effect) {
	switch e.Kind {
	case session.Send:
		switch e.Leg {
		case session.Upstream:
			t.up = append(t.up, e.Data)
		case r.client.id:
			t.down = append(t.down, e.Data)
		case t.old.id:
			t.old.leg.Write([][]byte{e.Data})
		}
	case session.Close, session.Abort:
		r.closeLeg(t, e.Leg, e.Kind == session.Close)
	case session.Pause:
		if leg := r.leg(t, e.Leg); leg != nil {
			leg.Pause()
		}
	case session.Resume:
		if leg := r.leg(t, e.Leg); leg != nil {
			leg.Resume()
		}
	case session.Emit:
		r.emit(t, e.Event)
	case session.Mark:
		if r.flushUpstream(t); !t.lost { // else a retry, in whatever session, must pass
			r.set.dedup.mark(r.core.Number(), e.ID, now)
		}
	case session.Probe:
		if leg := r.leg(t, e.Leg); leg != nil {
			stat := leg.Stat()
			r.core.Probed(now, e.Leg, stat.Acked, stat.AckedKnown, &t.fx)
		}
	case session.Forget:
		if r.core.Mode() == session.Counted {
			r.p.departed.add(r.id, departure{*r.tokens, r.bind, r.core.Received()})
		}
		r.p.sessions.forget(r)
	}
}

func (r *relay) leg(t *turn, id session.Leg) engine.Leg {
	switch id {
	case session.Upstream:
		return r.upstream
	case r.client.id:
		return r.client.leg
	case t.old.id:
		return t.old.leg
	}
	return nil
}

func (r *relay) closeLeg(t *turn, id session.Leg, graceful bool) {
	leg := r.leg(t, id)
	if leg == nil {
		return
	}
	switch id {
	case session.Upstream:
		r.flushUpstream(t)
		r.upstream = nil
	case r.client.id:
		r.flushClient(t)
		r.client = clientRef{}
	default:
		t.old = clientRef{}
	}
	leg.Close(graceful)
}

func (r *relay) flushUpstream(t *turn) {
	if len(t.up) > 0 {
		backlog := engine.Refused
		if r.upstream != nil {
			backlog = r.upstream.Write(t.up)
		}
		if t.lost = backlog == engine.Refused; backlog > 0 {
			r.core.Blocked(session.Upstream)
		}
		clear(t.up)
		t.up = t.up[:0]
	}
}

func (r *relay) flushClient(t *turn) {
	if len(t.down) > 0 {
		if r.client.leg != nil && r.client.leg.Write(t.down) > 0 {
			r.core.Blocked(r.client.id)
		}
		clear(t.down)
		t.down = t.down[:0]
	}
}

// settle sets the timer and the accounts after an input.
func (r *relay) settle(now session.Time) {
	if held := int64(r.core.Held()); held != r.held {
		r.p.account(held - r.held)
		r.held = held
	}
	if r.core.Over() {
		r.retire()
		return
	}
	// A timer that fires too early is cheaper than one that is moved with every message.
	if next := r.core.Next(); next != 0 && (r.timerAt == 0 || next < r.timerAt) {
		r.timerAt = next
		r.group.Wake(max(time.Duration(next-now), minTimer))
	}
}

// minTimer keeps a core that is due at once from spinning.
const minTimer = time.Millisecond

// retire is the last thing that happens to a relay: nothing will come of it again.
func (r *relay) retire() {
	if r.retired() {
		return
	}
	r.group.Release()
	r.group = nil
	r.p.retired(r)
}

func (r *relay) retired() bool { return r.group == nil }

// emit tells an event to the upstream, as configured, and to the log.
func (r *relay) emit(t *turn, event session.Event) {
	if log := r.p.log; log.Core().Enabled(zap.DebugLevel) {
		log.Debug("session event", zap.Stringer("session", r.id), zap.Stringer("event", event))
	}
	if r.upstream == nil || !r.set.events.Emits(event) {
		return
	}
	at := len(t.text)
	t.text = r.set.events.Append(t.text, event, &r.who, r.id.String(), r.key, time.Now())
	if text := t.text[at:]; len(text) > 0 {
		t.up = append(t.up, r.p.clientFrame(text))
	}
}
