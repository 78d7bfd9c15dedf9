package session

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/dedup"
)

// A rig is a session with the simplest shell that keeps the bargain: effects are carried out at
// once and written down, legs take everything. The scenarios, the transition table and the
// tests of this package's files run on it.
type rig struct {
	t     testing.TB
	cfg   Config
	s     *Session
	fx    Effects
	now   Time
	cache *ids

	log     []string
	legs    map[Leg]*rigLeg
	open    map[Leg]bool
	nonce   uint64
	acked   uint64 // what Probe answers
	known   bool
	blocked map[Leg]bool   // legs whose next Send leaves a backlog
	waiting map[Leg][]byte // what was not consumed
	resumed []Leg
}

// rigLeg is the far end of one leg: it reads strictly.
type rigLeg struct {
	in    wireReader
	pings [][]byte // not answered yet
}

// ids is a Deduper over the real cache.
type ids struct {
	path  dedup.Path
	cache *dedup.Cache
}

func newIDs(t testing.TB, ttl time.Duration) *ids {
	path, err := dedup.ParsePath("id")
	if err != nil {
		t.Fatal(err)
	}
	return &ids{path, dedup.New(1000, ttl)}
}

func (d *ids) Find(json []byte) (dedup.ID, bool) { return d.path.Find(json) }
func (d *ids) Seen(session uint64, id dedup.ID, now Time) bool {
	return d.cache.Seen(session, id, int64(now))
}

// testConfig is what tests start from: heartbeats off, so that only what a test is about happens.
func testConfig() Config {
	return Config{
		Grace:           30 * time.Second,
		ReceiptInterval: 250 * time.Millisecond,
		CloseTimeout:    5 * time.Second,
		MaxMessages:     1000,
		MaxBytes:        1 << 20,
		MaxMessageBytes: 16 << 20,
		EndOnClose:      []uint16{1000},
	}
}

func newRig(t testing.TB, mode Mode, cfg Config) *rig {
	r := &rig{t: t, cfg: cfg, now: Time(time.Hour), legs: map[Leg]*rigLeg{}, open: map[Leg]bool{Upstream: true}, blocked: map[Leg]bool{}, waiting: map[Leg][]byte{}}
	r.legs[Upstream] = &rigLeg{in: wireReader{fromClient: true}}
	if cfg.Dedup != nil {
		r.cache = cfg.Dedup.(*ids)
	}
	r.s = New(&r.cfg, mode, 1, 42, r.now)
	return r
}

// run carries out what an input has led to and returns it as text.
func (r *rig) run() []string {
	r.t.Helper()
	start := len(r.log)
	for {
		for i := 0; i < len(r.fx.List); i++ {
			r.effect(&r.fx.List[i])
		}
		r.s.Executed()
		r.fx.Release()
		if !r.s.More() {
			break
		}
		r.s.Continue(r.now, &r.fx)
	}
	for len(r.resumed) > 0 {
		leg := r.resumed[0]
		r.resumed = r.resumed[1:]
		r.handOver(leg)
	}
	return r.log[start:]
}

// handOver gives the session what a leg has received, as long as it takes it.
func (r *rig) handOver(leg Leg) {
	r.t.Helper()
	for len(r.waiting[leg]) > 0 && !r.s.Paused(leg) {
		b := r.waiting[leg]
		var n int
		if leg == Upstream {
			n = r.s.UpstreamBytes(r.now, b, &r.fx)
		} else {
			n = r.s.ClientBytes(r.now, leg, b, &r.fx)
		}
		r.waiting[leg] = b[n:]
		r.run()
	}
	if n := len(r.waiting[leg]); n > 0 {
		r.note("%d bytes of %s wait", n, legName(leg))
	}
}

func (r *rig) note(format string, args ...any) { r.log = append(r.log, fmt.Sprintf(format, args...)) }

func legName(leg Leg) string {
	if leg == Upstream {
		return "upstream"
	}
	return fmt.Sprintf("client %d", leg)
}

func (r *rig) effect(e *Effect) {
	r.t.Helper()
	name := legName(e.Leg)
	switch e.Kind {
	case Send:
		r.sent(e.Leg, e.Data)
		if r.blocked[e.Leg] {
			r.s.Blocked(e.Leg)
		}
	case Close, Abort:
		if !r.open[e.Leg] {
			r.t.Errorf("%v of %s, which is closed", e.Kind, name)
		}
		r.open[e.Leg] = false
		r.note("%v %s", e.Kind, name)
	case Emit:
		r.note("emit %v", e.Event)
	case Mark:
		r.note("mark id")
		if r.cache != nil {
			r.cache.cache.Mark(1, e.ID, int64(r.now))
		}
	case Probe:
		r.note("probe %s", name)
		r.s.Probed(r.now, e.Leg, r.acked, r.known, &r.fx)
	case Forget:
		r.note("forget")
	default:
		r.note("%v %s", e.Kind, name)
		if e.Kind == Resume {
			r.resumed = append(r.resumed, e.Leg)
		}
	}
}

// sent lets the far end of a leg read data.
func (r *rig) sent(leg Leg, data []byte) {
	r.t.Helper()
	far := r.legs[leg]
	if far == nil || !r.open[leg] {
		r.t.Errorf("%d bytes sent to %s, which is closed", len(data), legName(leg))
		return
	}
	frames, err := far.in.feed(data)
	for _, f := range frames {
		switch {
		case f.op == 9 && leg != Upstream && len(f.payload) == 16:
			far.pings = append(far.pings, f.payload)
			r.note("to %s: ping #%d", legName(leg), binary.BigEndian.Uint64(f.payload[8:]))
		default:
			r.note("to %s: %s", legName(leg), f.String())
		}
	}
	if len(far.in.buf) > 0 {
		r.note("to %s: %d bytes of a frame", legName(leg), len(far.in.buf))
	}
	if err != nil {
		r.t.Errorf("what %s was sent is no valid WebSocket: %v", legName(leg), err)
	}
}

// The inputs. Each returns what it led to.

func (r *rig) attach(received uint64) []string {
	r.t.Helper()
	start := len(r.log)
	r.nonce++
	// The shell adds the leg before it carries the effects out.
	next := r.s.legs + 1
	r.legs[next], r.open[next] = &rigLeg{}, true
	leg, err := r.s.Attach(r.now, Attachment{Nonce: r.nonce, Received: received, Session: "s", Token: fmt.Sprint("t", r.nonce), Protocol: "chat"}, &r.fx)
	switch {
	case err != nil:
		r.note("refused: %v", err)
	case leg == 0:
		r.note("refused")
	case leg != next:
		r.t.Fatalf("attached leg %d, want %d", leg, next)
	}
	r.run()
	return r.log[start:]
}

// client is the latest client leg.
func (r *rig) client() Leg { return max(1, r.s.legs) }

func (r *rig) fromClient(b []byte) []string {
	r.t.Helper()
	return r.fromLeg(r.client(), b)
}

func (r *rig) fromLeg(leg Leg, b []byte) []string {
	r.t.Helper()
	start := len(r.log)
	r.waiting[leg] = append(r.waiting[leg], b...)
	r.handOver(leg)
	return r.log[start:]
}

func (r *rig) fromUpstream(b []byte) []string { r.t.Helper(); return r.fromLeg(Upstream, b) }

var testKey = []byte{0x11, 0x22, 0x33, 0x44}

// say sends whole text messages from the client.
func (r *rig) say(texts ...string) []string {
	r.t.Helper()
	var b []byte
	for _, text := range texts {
		b = append(b, build(1, true, text, testKey)...)
	}
	return r.fromClient(b)
}

// hear sends whole text messages from the upstream.
func (r *rig) hear(texts ...string) []string {
	r.t.Helper()
	var b []byte
	for _, text := range texts {
		b = append(b, build(1, true, text, nil)...)
	}
	return r.fromUpstream(b)
}

// pong lets the current client leg answer its oldest unanswered ping.
func (r *rig) pong() []string {
	r.t.Helper()
	far := r.legs[r.client()]
	if len(far.pings) == 0 {
		r.t.Fatal("no ping to answer")
	}
	p := far.pings[0]
	far.pings = far.pings[1:]
	return r.fromClient(build(10, true, string(p), testKey))
}

func (r *rig) drop() []string {
	r.t.Helper()
	r.open[r.client()] = false
	r.s.ClientLost(r.now, r.client(), Broken, &r.fx)
	return r.run()
}

func (r *rig) dropUpstream() []string {
	r.t.Helper()
	r.open[Upstream] = false
	r.s.UpstreamLost(r.now, &r.fx)
	return r.run()
}

// advance lets time pass, waking the session whenever it asked for that.
func (r *rig) advance(d time.Duration) []string {
	r.t.Helper()
	start, until := len(r.log), r.now.add(d)
	for wakes := 0; ; wakes++ {
		at := r.s.Next()
		if at == 0 || at > until {
			break
		}
		if wakes > 10000 {
			r.t.Fatalf("woken %d times in %v", wakes, d)
		}
		if at > r.now {
			r.now = at
		}
		r.s.Advance(r.now, &r.fx)
		r.run()
	}
	r.now = until
	return r.log[start:]
}

// receipts answers receipt pings until nothing is unreceived.
func (r *rig) receipts() {
	r.t.Helper()
	for i := 0; ; i++ {
		if n, _ := r.s.Window(); n == 0 {
			return
		}
		if i > 10 {
			r.t.Fatal("ten pongs, and messages are still without receipt")
		}
		r.advance(time.Second)
		r.pong()
	}
}

// texts are the whole messages that a leg has got so far.
func (r *rig) texts(leg Leg) (all []string) {
	for _, m := range r.legs[leg].in.messages {
		all = append(all, m.body)
	}
	return all
}

func wantTexts(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func wantLines(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got\n\t%s\n want\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func wantState(t testing.TB, s *Session, want State, reason Reason) {
	t.Helper()
	if s.State() != want || s.Reason() != reason {
		t.Errorf("state is %v (%v), want %v (%v)", s.State(), s.Reason(), want, reason)
	}
}
