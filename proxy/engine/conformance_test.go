package engine

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testConformance holds an engine to the contract of engine.go, sentence by sentence,
// over the kind of connection that pair makes: one end for the engine, one for the peer.
func testConformance(t *testing.T, mk func(Options) Engine, pair func(*testing.T) (ours, peer net.Conn)) {
	n := network{mk, pair}
	for _, c := range []struct {
		name string
		test func(*testing.T, network)
	}{
		{"a leg starts paused", testStartsPaused},
		{"a loss before the first Resume waits for it", testLossBeforeResume},
		{"Close before the first Resume is told", testCloseBeforeResume},
		{"Write works before the first Resume", testWriteBeforeResume},
		{"deadlines of before Add are gone", testOldDeadlines},
		{"early bytes come first", testEarlyFirst},
		{"what is not consumed is kept and comes first", testRestIsKept},
		{"what a leg keeps stays when others are read", testRestOfMany},
		{"Resume within Data hands the rest over again", testResumeWithinData},
		{"consuming less without Pause costs the leg", testUnpausedRest},
		{"Pause stops reading", testPauseStopsReading},
		{"Pause from outside keeps the order", testPauseResumeOrder},
		{"Writable comes once an episode", testWritableOnce},
		{"the buffers are the caller's after Write", testBuffersReusable},
		{"a Write of many buffers keeps their order", testManyBuffers},
		{"Writes stay whole and in order", testConcurrentWrites},
		{"calls for one leg never overlap", testNoOverlap},
		{"FIN is told after the data it came with", testFINWithData},
		{"FIN on a paused leg waits for Resume", testFINWhilePaused},
		{"FIN on a leg paused while idle waits for Resume", testFINWhileIdlePaused},
		{"reset is told as an error", testReset},
		{"reset on a paused leg waits for Resume", testResetWhilePaused},
		{"a failing write is told although paused", testFailingWritePaused},
		{"a failing write lets received bytes through first", testFailingWriteDrains},
		{"a half-open peer is lost after UserTimeout", testHalfOpen},
		{"a slow reader is not a lost one", testSlowReader},
		{"a graceful Close delivers all against a sending peer", testGracefulAgainstSender},
		{"a graceful Close tells of itself at its end", testGracefulEnd},
		{"a graceful Close without backlog", testGracefulIdle},
		{"a graceful Close is bounded by Linger", testGracefulLinger},
		{"an abort ends at once", testAbort},
		{"an abort cuts a graceful Close short", testAbortDuringGraceful},
		{"the socket is closed only when Lost returned", testOpenDuringLost},
		{"a leg that ended does nothing", testAfterEnd},
		{"no Data begins after Close", testNoDataAfterClose},
		{"Stat tells what is held and acknowledged", testStat},
		{"methods never call back nor block", testNoSynchronousCall},
		{"two legs under one lock relay", testRelayUnderOneLock},
		{"Engine.Close ends all and waits", testEngineClose},
		{"a closed engine takes no leg", testAddAfterClose},
		{"Lost comes exactly once", testLostOnce},
		{"the timer ticks once for the latest Wake", testWake},
		{"no Tick after Engine.Close", testWakeClosed},
		{"Over comes last, and once", testOver},
		{"Over waits for a Tick", testOverWaitsForTick},
		{"after Over the engine knows nothing of the room", testRoomIsFree},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, n) })
	}
}

type network struct {
	mk   func(Options) Engine
	pair func(*testing.T) (ours, peer net.Conn)
}

// An owner is a Handler that records, and that checks what holds for every call.
type owner struct {
	t    *testing.T
	busy atomic.Bool

	mu        sync.Mutex
	got       []byte
	calls     int
	writables int
	ticks     int
	overs     int
	lost      []error
	closed    bool // no Data or Writable may come

	onData     func(Leg, []byte) int // instead of recording; nil = record all
	onWritable func(Leg)
	onLost     func(Leg)
}

func (o *owner) enter(what string) {
	if !o.busy.CompareAndSwap(false, true) {
		o.t.Errorf("%s overlaps another call for the same leg", what)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	if o.overs > 0 {
		o.t.Errorf("%s after Over", what)
	}
	if len(o.lost) > 0 {
		o.t.Errorf("%s after Lost(%v)", what, o.lost[0])
	}
	if o.closed && what != "Lost" {
		o.t.Errorf("%s began after Close had returned", what)
	}
}

func (o *owner) Data(l Leg, b []byte) int {
	o.enter("Data")
	defer o.busy.Store(false)
	if len(b) == 0 {
		o.t.Error("Data with no bytes")
	}
	o.mu.Lock()
	onData := o.onData
	o.mu.Unlock()
	if onData != nil {
		return onData(l, b)
	}
	o.record(b)
	return len(b)
}

// handle sets onData while the leg may be read.
func (o *owner) handle(onData func(Leg, []byte) int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.onData = onData
}

func (o *owner) record(b []byte) {
	o.mu.Lock()
	o.got = append(o.got, b...)
	o.mu.Unlock()
	for i := range b {
		b[i] = 0xEE // the Handler may change the contents in place
	}
}

func (o *owner) Writable(l Leg) {
	o.enter("Writable")
	defer o.busy.Store(false)
	o.mu.Lock()
	o.writables++
	o.mu.Unlock()
	if o.onWritable != nil {
		o.onWritable(l)
	}
}

func (o *owner) Lost(l Leg, err error) {
	o.enter("Lost")
	defer o.busy.Store(false)
	if err == nil {
		o.t.Error("Lost without an error")
	}
	o.mu.Lock()
	o.lost = append(o.lost, err)
	o.mu.Unlock()
	if o.onLost != nil {
		o.onLost(l)
	}
}

func (*owner) Expect(Leg, int) {}
func (o *owner) Over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.overs++; o.overs > 1 {
		o.t.Error("Over is called twice")
	}
}

func (o *owner) Tick() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.overs > 0 {
		o.t.Error("Tick after Over")
	}
	o.ticks++
}

func (o *owner) received() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.got)
}

func (o *owner) count() (calls, writables, lost int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.calls, o.writables, len(o.lost)
}

func (o *owner) isLost() bool { _, _, n := o.count(); return n > 0 }

func (o *owner) loss() error {
	o.t.Helper()
	eventually(o.t, "Lost is called", o.isLost)
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost[0]
}

// A rig is one leg with its owner and its peer. When the test ends, the leg must have
// been lost exactly once.
type rig struct {
	*owner
	e    Engine
	leg  Leg
	peer net.Conn
}

func (n network) rig(t *testing.T, o Options, early string) *rig {
	t.Helper()
	ours, peer := n.pair(t)
	r := &rig{owner: &owner{t: t}, e: n.mk(o), peer: peer}
	r.leg = r.e.Group(r.owner, nil).Add(ours, []byte(early))
	t.Cleanup(func() {
		within(t, "Engine.Close", r.e.Close)
		_ = hardClose(peer)
		if _, _, lost := r.count(); lost != 1 {
			t.Errorf("Lost was called %d times, want once", lost)
		}
	})
	return r
}

// eventually waits for cond, for so long that only a hang fails.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// never gives what must not happen a moment to happen.
func never(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 15 {
		if cond() {
			t.Fatalf("%s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

// pattern is n bytes of an endless stream, from offset off.
func pattern(off, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		k := off + i
		b[i] = byte(k ^ k>>8*31 ^ k>>16*7)
	}
	return b
}

func wantPattern(t *testing.T, what string, got []byte, n int) {
	t.Helper()
	want := pattern(0, n)
	if bytes.Equal(got, want) {
		return
	}
	for i := range min(len(got), n) {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %d of %d differs (%d arrived)", what, i, n, len(got))
		}
	}
	t.Fatalf("%s: %d bytes arrived, want %d", what, len(got), n)
}

func send(t *testing.T, peer net.Conn, b []byte) {
	t.Helper()
	within(t, "the peer's write", func() {
		if _, err := peer.Write(b); err != nil {
			t.Errorf("the peer's write: %v", err)
		}
	})
}

func read(t *testing.T, peer net.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_ = peer.SetReadDeadline(time.Now().Add(60 * time.Second))
	if got, err := io.ReadFull(peer, b); err != nil {
		t.Fatalf("the peer read %d of %d bytes: %v", got, n, err)
	}
	return b
}

// hardClose closes the peer's socket with a reset where it is TCP.
func hardClose(c net.Conn) error {
	if w, ok := c.(wrapped); ok {
		c = w.Conn
	}
	if tcp := tcpOf(c); tcp != nil {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
	}
	return c.Close()
}

func isTCP(c net.Conn) bool {
	if w, ok := c.(wrapped); ok {
		c = w.Conn
	}
	return tcpOf(c) != nil
}

// buffers tells whether the connection holds bytes between the two ends.
func buffers(c net.Conn) bool { return c.LocalAddr().Network() != "pipe" }

func closesOneSide(c net.Conn) bool {
	_, ok := c.(interface{ CloseWrite() error })
	return ok
}

const huge = 8 << 20 // more than fits into the buffers of any connection here

// A stream writes pattern bytes from the peer until total are out or an error comes.
type stream struct {
	sent atomic.Int64
	done chan struct{}
}

func startStream(peer net.Conn, total int) *stream {
	s := &stream{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for off := 0; off < total; {
			n, err := peer.Write(pattern(off, min(32<<10, total-off)))
			off += n
			s.sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	return s
}

// stalls waits until the stream gets nothing out any more, and tells how much it did.
func (s *stream) stalls() int64 {
	last, since := s.sent.Load(), 0
	for since < 50 {
		time.Sleep(4 * time.Millisecond)
		if now := s.sent.Load(); now != last {
			last, since = now, 0
		} else {
			since++
		}
	}
	return last
}

func (o *owner) reads() int { o.mu.Lock(); defer o.mu.Unlock(); return len(o.got) }
