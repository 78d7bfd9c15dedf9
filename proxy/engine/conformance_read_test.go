package engine

import (
	"io"
	"testing"
	"time"
)

func testStartsPaused(t *testing.T, n network) {
	r := n.rig(t, Options{}, "early")
	if buffers(r.peer) {
		send(t, r.peer, []byte("late"))
	}
	never(t, "a call before the first Resume", func() bool { c, _, _ := r.count(); return c > 0 })
	r.leg.Resume()
	eventually(t, "the early bytes are handed over", func() bool { return len(r.received()) >= 5 })
}

func testLossBeforeResume(t *testing.T, n network) {
	r := n.rig(t, Options{}, "early")
	_ = r.peer.Close()
	for range 10 { // the writes fail too, sooner or later
		r.leg.Write([][]byte{[]byte("x")})
		time.Sleep(time.Millisecond)
	}
	never(t, "a call before the first Resume", func() bool { c, _, _ := r.count(); return c > 0 })
	r.leg.Resume()
	r.loss()
	if got := r.received(); got != "early" {
		t.Errorf("handed over %q before the loss, want %q", got, "early")
	}
}

func testCloseBeforeResume(t *testing.T, n network) {
	r := n.rig(t, Options{}, "early")
	r.leg.Close(false)
	if err := r.loss(); err != ErrAborted {
		t.Errorf("Lost(%v), want ErrAborted", err)
	}
	if r.received() != "" {
		t.Error("Data after Close")
	}
}

func testWriteBeforeResume(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	go r.leg.Write([][]byte{[]byte("hello")})
	if got := read(t, r.peer, 5); string(got) != "hello" {
		t.Errorf("the peer got %q", got)
	}
	never(t, "a call before the first Resume", func() bool { c, _, _ := r.count(); return c > 0 })
}

func testOldDeadlines(t *testing.T, n network) {
	ours, peer := n.pair(t)
	defer peer.Close()
	_ = ours.SetDeadline(time.Now().Add(20 * time.Millisecond)) // as a handshake does
	e := n.mk(Options{})
	defer e.Close()
	o := &owner{t: t}
	l := e.Group(o, nil).Add(ours, nil)
	l.Resume()
	time.Sleep(30 * time.Millisecond)
	send(t, peer, []byte("late"))
	eventually(t, "bytes arrive after the old deadline", func() bool { return o.received() == "late" })
	l.Write([][]byte{[]byte("too")})
	if got := read(t, peer, 3); string(got) != "too" {
		t.Errorf("the peer got %q", got)
	}
}

func testEarlyFirst(t *testing.T, n network) {
	early := pattern(0, 100_000)
	r := n.rig(t, Options{ReadBuffer: 4096}, string(early))
	go func() { _, _ = r.peer.Write(pattern(100_000, 50_000)) }()
	r.leg.Resume()
	eventually(t, "all bytes arrive", func() bool { return len(r.received()) >= 150_000 })
	wantPattern(t, "early bytes, then the rest", []byte(r.received()), 150_000)
}

func testRestIsKept(t *testing.T, n network) {
	r := n.rig(t, Options{ReadBuffer: 8192}, "0123456789")
	turn := 0
	r.onData = func(l Leg, b []byte) int {
		turn++
		if turn%3 == 0 {
			r.record(b)
			return len(b)
		}
		k := turn * 7919 % (len(b) + 1) // often nothing, sometimes all
		r.record(b[:k])
		l.Pause()
		go l.Resume()
		return k
	}
	go func() { _, _ = r.peer.Write(pattern(0, 300_000)) }()
	r.leg.Resume()
	eventually(t, "all bytes arrive", func() bool { return len(r.received()) >= 300_010 })
	if got := r.received(); got[:10] != "0123456789" {
		t.Fatalf("the early bytes came as %q", got[:10])
	}
	wantPattern(t, "the rest after Resume", []byte(r.received()[10:]), 300_000)
}

// Legs that share what they are read into don't share what they keep.
func testRestOfMany(t *testing.T, n network) {
	const size = 6000
	e := n.mk(Options{Loops: 1, ReadBuffer: 8192})
	defer within(t, "Engine.Close", e.Close)
	owners := make([]*owner, 4)
	legs := make([]Leg, len(owners))
	for i := range owners {
		o := &owner{t: t}
		o.handle(func(l Leg, b []byte) int {
			l.Pause()
			k := min(i, len(b))
			o.record(b[:k])
			return k
		})
		ours, peer := n.pair(t)
		defer peer.Close()
		owners[i], legs[i] = o, e.Group(o, nil).Add(ours, nil)
		legs[i].Resume()
		go func() { _, _ = peer.Write(pattern(i*size, size)) }()
		eventually(t, "a leg has something to keep", func() bool { return legs[i].Stat().Held > 0 })
	}
	for i, o := range owners {
		o.handle(nil)
		legs[i].Resume()
		eventually(t, "all bytes arrive", func() bool { return len(o.received()) >= size })
		if got := o.received(); got != string(pattern(i*size, size)) {
			t.Errorf("leg %d was handed something else than what came", i)
		}
	}
}

func testResumeWithinData(t *testing.T, n network) {
	r := n.rig(t, Options{}, "abcdef")
	turn := 0
	r.onData = func(l Leg, b []byte) int {
		if turn++; turn > 1 {
			r.record(b)
			return len(b)
		}
		r.record(b[:2])
		l.Pause()
		l.Resume()
		return 2
	}
	r.leg.Resume()
	eventually(t, "the rest comes again", func() bool { return len(r.received()) == 6 })
	if got := r.received(); got != "abcdef" {
		t.Errorf("handed over %q", got)
	}
}

func testUnpausedRest(t *testing.T, n network) {
	for _, k := range []int{-1, 2, 7} {
		r := n.rig(t, Options{}, "abcdef")
		r.onData = func(Leg, []byte) int { return k }
		r.leg.Resume()
		if err := r.loss(); err == io.EOF || err == ErrAborted {
			t.Errorf("consuming %d of 6: Lost(%v), want an error that tells of it", k, err)
		}
	}
}

func testPauseStopsReading(t *testing.T, n network) {
	r := n.rig(t, Options{ReadBuffer: 16 << 10}, "")
	r.onData = func(l Leg, b []byte) int { // the first bytes pause it
		r.record(b)
		if r.reads() == len(b) {
			l.Pause()
		}
		return len(b)
	}
	r.leg.Resume()
	s := startStream(r.peer, huge)
	if out := s.stalls(); out == huge {
		t.Fatalf("the peer wrote all %d bytes to a paused leg", huge)
	}
	if held := r.leg.Stat().Held; held > 16<<10 {
		t.Errorf("a paused leg holds %d bytes, want at most one read's worth (%d)", held, 16<<10)
	}
	before := r.reads()
	never(t, "Data on a paused leg", func() bool { return r.reads() != before })
	r.leg.Pause() // idempotent
	r.leg.Resume()
	r.leg.Resume()
	eventually(t, "all bytes arrive after Resume", func() bool { return r.reads() == huge })
	wantPattern(t, "bytes around a pause", []byte(r.received()), huge)
	<-s.done
}

func testPauseResumeOrder(t *testing.T, n network) {
	r := n.rig(t, Options{ReadBuffer: 4096}, "")
	r.leg.Resume()
	s := startStream(r.peer, 1<<20)
	for r.reads() < 1<<20 && !r.isLost() {
		r.leg.Pause()
		r.leg.Resume()
		time.Sleep(50 * time.Microsecond)
	}
	wantPattern(t, "bytes through many pauses", []byte(r.received()), 1<<20)
	<-s.done
}
