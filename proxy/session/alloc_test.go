package session

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/dedup"
)

// A quiet shell carries effects out without looking at them, as cheaply as can be.
type quiet struct {
	s   *Session
	fx  Effects
	now Time

	marks int
	ping  []byte // the latest receipt ping
}

func newQuiet(mode Mode, cfg Config) *quiet {
	q := &quiet{now: Time(time.Hour)}
	q.s = New(&cfg, mode, 1, 1, q.now)
	if _, err := q.s.Attach(q.now, Attachment{Nonce: 7}, &q.fx); err != nil {
		panic(err)
	}
	q.done()
	return q
}

func (q *quiet) done() {
	for i := range q.fx.List {
		switch e := &q.fx.List[i]; {
		case e.Kind == Mark:
			q.marks++
		case e.Kind == Send && e.Leg != Upstream && len(e.Data) == 18 && e.Data[0] == 0x89:
			q.ping = append(q.ping[:0], e.Data[2:]...)
		}
	}
	q.s.Executed()
	q.fx.Release()
}

// up gives the session a batch of the client.
func (q *quiet) up(b []byte) {
	for len(b) > 0 {
		b = b[q.s.ClientBytes(q.now, 1, b, &q.fx):]
		q.done()
	}
}

// down gives it a batch of the upstream, lets the receipt interval pass and answers its ping.
func (q *quiet) down(b, pong []byte) {
	q.s.UpstreamBytes(q.now, b, &q.fx)
	q.done()
	q.now += Time(250 * time.Millisecond)
	q.s.Advance(q.now, &q.fx)
	q.done()
	if len(q.ping) > 0 {
		copy(pong[6:], q.ping) // masked with zeros
		q.ping = q.ping[:0]
		q.up(pong)
	}
}

func allocConfig() Config {
	cfg := testConfig()
	cfg.Client = Heartbeat{30 * time.Second, 2}
	cfg.Upstream = Heartbeat{30 * time.Second, 2}
	return cfg
}

func zeroPong() []byte { return build(10, true, strings.Repeat("\x00", 16), make([]byte, 4)) }

// Relayed messages allocate nothing: not upward, not downward with receipts, not in pieces.
func TestRelayingAllocatesNothing(t *testing.T) {
	message := strings.Repeat("payload ", 30)
	for name, c := range map[string]struct {
		mode Mode
		run  func(q *quiet) func()
	}{
		"up": {Keyed, func(q *quiet) func() {
			b := bytes.Repeat(build(1, true, message, testKey), 4)
			return func() { q.up(b) }
		}},
		"up, cut through": {Relay, func(q *quiet) func() {
			b := build(1, true, message, testKey)
			return func() { q.up(b[:100]); q.up(b[100:]) }
		}},
		"up, in pieces and fragments": {Keyed, func(q *quiet) func() {
			b := append(build(1, false, message, testKey), build(0, true, message, testKey)...)
			return func() { q.up(b[:3]); q.up(b[3:100]); q.up(b[100:]) }
		}},
		"down, with receipts": {Keyed, func(q *quiet) func() {
			b := bytes.Repeat(build(1, true, message, nil), 4)
			pong := zeroPong()
			return func() { q.down(b, pong) }
		}},
		"down, in pieces": {Keyed, func(q *quiet) func() {
			b := build(1, true, message, nil)
			pong := zeroPong()
			return func() { q.down(b[:1], pong); q.down(b[1:50], pong); q.down(b[50:], pong) }
		}},
		"down, relayed": {Relay, func(q *quiet) func() {
			b := build(1, true, message, nil)
			pong := zeroPong()
			return func() { q.down(b, pong) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuiet(c.mode, allocConfig())
			run := c.run(q)
			for range 100 {
				run() // the buffers find their size
			}
			if n := testing.AllocsPerRun(1000, run); n != 0 && !raceDetector {
				t.Errorf("%v allocations", n)
			}
			if q.s.State() != StateAttached {
				t.Fatalf("session is %v, this measured nothing", q.s.State())
			}
		})
	}
}

// Looking for ids costs no allocation, a known id neither. (A new one costs one: the cache's entry.)
func TestDuplicatesAllocateNothing(t *testing.T) {
	cfg := allocConfig()
	d := newIDs(t, time.Hour)
	cfg.Dedup = d
	q := newQuiet(Keyed, cfg)
	fresh := build(1, true, `{"id":"fresh","text":"`+strings.Repeat("x", 200)+`"}`, testKey)
	without := build(1, true, `{"text":"`+strings.Repeat("x", 200)+`"}`, testKey)
	if n := testing.AllocsPerRun(1000, func() { q.up(fresh) }); n != 0 && !raceDetector {
		t.Errorf("a new id: %v allocations in the core", n)
	}
	if n := testing.AllocsPerRun(1000, func() { q.up(without) }); n != 0 && !raceDetector {
		t.Errorf("a message without id: %v allocations", n)
	}
	if q.marks < 1000 {
		t.Fatalf("%d marks, this measured nothing", q.marks)
	}
	id, ok := d.Find([]byte(`{"id":"fresh"}`))
	if !ok {
		t.Fatal("no id found")
	}
	d.cache.Mark(1, id, int64(q.now))
	before := q.s.Stats.Duplicates
	if n := testing.AllocsPerRun(1000, func() { q.up(fresh) }); n != 0 && !raceDetector {
		t.Errorf("a duplicate: %v allocations", n)
	}
	if q.s.Stats.Duplicates-before < 1000 {
		t.Error("duplicates were not found, this measured nothing")
	}
}

// An idle session holds no buffer, whatever it has been through.
func TestIdleHoldsNothing(t *testing.T) {
	r := newRig(t, Keyed, testConfig())
	r.attach(0)
	b := build(1, true, strings.Repeat("x", 100000), testKey)
	r.fromClient(b[:50000])
	if r.s.Held() < 50000 {
		t.Errorf("half a message of 50000 bytes is accounted with %d", r.s.Held())
	}
	r.fromClient(b[50000:])
	r.hear(strings.Repeat("y", 100000))
	r.receipts()
	if r.s.Held() != 0 {
		t.Errorf("idle, and it holds %d bytes", r.s.Held())
	}
	for _, leg := range []Leg{1, Upstream} {
		before := r.s.Held()
		r.fromLeg(leg, []byte{0x81}) // half a header
		if r.s.Held() <= before {
			t.Errorf("half a header of %s is not accounted", legName(leg))
		}
	}
}

// What effects refer to must not be given to others before they are executed.
func TestBuffersStayUntilExecuted(t *testing.T) {
	r := newRig(t, Relay, testConfig())
	r.attach(0)
	r.s.Blocked(1)
	r.hear("held back because the client is slow")
	r.dropUpstream()
	r.s.Writable(r.now, 1, &r.fx) // sends the rest and ends the session
	stealBuffers()
	r.run()
	wantTexts(t, "client", r.texts(1), "held back because the client is slow")
	wantState(t, r.s, StateLeft, UpstreamLost)
}

func BenchmarkUp(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("%d in a batch", n), func(b *testing.B) {
			q := newQuiet(Keyed, allocConfig())
			batch := bytes.Repeat(build(1, true, strings.Repeat("x", 128), testKey), n)
			b.ReportAllocs()
			for b.Loop() {
				q.up(batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/message")
		})
	}
}

func BenchmarkUpWithID(b *testing.B) {
	cfg := allocConfig()
	path, err := dedup.ParsePath("id")
	if err != nil {
		b.Fatal(err)
	}
	cfg.Dedup = &ids{path, dedup.New(100000, time.Minute)}
	q := newQuiet(Keyed, cfg)
	batch := build(1, true, `{"type":"message","id":"0123456789","text":"`+strings.Repeat("x", 90)+`"}`, testKey)
	b.ReportAllocs()
	for b.Loop() {
		q.up(batch)
	}
}

func BenchmarkDown(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("%d in a batch", n), func(b *testing.B) {
			q := newQuiet(Keyed, allocConfig())
			batch := bytes.Repeat(build(1, true, strings.Repeat("x", 256), nil), n)
			pong := zeroPong()
			b.ReportAllocs()
			for b.Loop() {
				q.down(batch, pong)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/message")
		})
	}
}

func BenchmarkResume(b *testing.B) {
	q := newQuiet(Keyed, allocConfig())
	batch := bytes.Repeat(build(1, true, strings.Repeat("x", 256), nil), 500)
	q.s.UpstreamBytes(q.now, batch, &q.fx)
	q.done()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := q.s.Attach(q.now, Attachment{Nonce: 8}, &q.fx); err != nil {
			b.Fatal(err)
		}
		q.done()
	}
}
