package engine

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

func testStat(t *testing.T, n network) {
	r := n.rig(t, Options{}, "0123456789")
	if held := r.leg.Stat().Held; held < 10 || held > 4096 {
		t.Errorf("Held %d for 10 early bytes", held)
	}
	r.leg.Resume()
	eventually(t, "nothing is held", func() bool { return r.leg.Stat().Held == 0 })

	// A paused leg keeps no large buffer for a few bytes.
	r.handle(func(l Leg, b []byte) int { l.Pause(); r.record(b[:1]); return 1 })
	send(t, r.peer, make([]byte, 100))
	eventually(t, "the leg is paused", func() bool { return r.reads() == 11 })
	eventually(t, "the rest is kept", func() bool { h := r.leg.Stat().Held; return h >= 99 && h <= 4096 })
	r.handle(nil)
	r.leg.Resume()
	eventually(t, "nothing is held", func() bool { return r.leg.Stat().Held == 0 })

	before := r.leg.Stat()
	backlog := r.leg.Write([][]byte{make([]byte, huge)})
	if held := r.leg.Stat().Held; held < backlog/2 || held > huge+maxClass { // the flusher may get some out in between
		t.Errorf("Held %d for a backlog of %d", held, backlog)
	}
	read(t, r.peer, huge)
	eventually(t, "nothing is held", func() bool { return r.leg.Stat().Held == 0 })
	if !before.AckedKnown {
		if acksKnown && isTCP(r.peer) && !isWrapped(r.peer) {
			t.Error("Acked is not known on TCP")
		}
		return
	}
	eventually(t, "all is acknowledged", func() bool { return r.leg.Stat().Acked >= before.Acked+huge })
	if grown := r.leg.Stat().Acked - before.Acked; grown > huge+huge/100 { // TLS adds some
		t.Errorf("Acked grew by %d for %d bytes", grown, huge)
	}
}

func testNoSynchronousCall(t *testing.T, n network) {
	// The owner holds its lock during every method, and takes it in every call: a call from
	// within a method, or a method that waits for a call, hangs.
	var lock sync.Mutex
	locked := func(f func()) { lock.Lock(); defer lock.Unlock(); f() }
	r := n.rig(t, Options{Linger: 50 * time.Millisecond}, "early")
	r.onData = func(_ Leg, b []byte) int { locked(func() {}); r.record(b); return len(b) }
	r.onWritable = func(Leg) { locked(func() {}) }
	r.onLost = func(Leg) { locked(func() {}) }
	within(t, "a method under the owner's lock", func() {
		locked(func() {
			r.leg.Resume()
			time.Sleep(5 * time.Millisecond) // Data waits for the lock by now
			r.leg.Write([][]byte{make([]byte, huge)})
			r.leg.Write([][]byte{make([]byte, 10)})
			r.leg.Pause()
			r.leg.Resume()
			r.leg.Stat()
		})
		locked(func() {
			r.leg.Close(true)
			r.leg.Write([][]byte{make([]byte, 10)})
		})
		locked(func() {
			r.leg.Close(false)
			time.Sleep(5 * time.Millisecond) // Lost waits for the lock by now
			r.leg.Close(false)
			r.leg.Resume()
			r.leg.Write([][]byte{make([]byte, 10)})
		})
	})
	r.loss()
}

// A relayer joins two legs as a session does: one lock, backpressure both ways.
type relayer struct {
	mu   sync.Mutex
	legs [2]Leg
	lost [2]error
	bufs [1][]byte // kept here, for a slice passed to an interface's method is allocated
}

func (s *relayer) other(l Leg) Leg {
	if l == s.legs[0] {
		return s.legs[1]
	}
	return s.legs[0]
}

func (s *relayer) Data(l Leg, b []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bufs[0] = b
	if s.other(l).Write(s.bufs[:]) > 0 {
		l.Pause()
	}
	return len(b)
}

func (s *relayer) Writable(l Leg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.other(l).Resume()
}

func (s *relayer) Lost(l Leg, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.legs {
		if s.legs[i] == l {
			s.lost[i] = err
		}
	}
	s.other(l).Close(true)
}

func (*relayer) Expect(Leg, int) {}
func (*relayer) Over()           {}
func (s *relayer) Tick()         {}

func (s *relayer) join(e Engine, a, b net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := e.Group(s, nil)
	s.legs = [2]Leg{g.Add(a, nil), g.Add(b, nil)}
	s.legs[0].Resume()
	s.legs[1].Resume()
}

func testRelayUnderOneLock(t *testing.T, n network) {
	e := n.mk(Options{ReadBuffer: 8192})
	defer within(t, "Engine.Close", e.Close)
	a, left := n.pair(t)
	b, right := n.pair(t)
	s := new(relayer)
	s.join(e, a, b)
	const size = 4 << 20
	var wg sync.WaitGroup
	for _, ends := range [][2]net.Conn{{left, right}, {right, left}} {
		wg.Go(func() { startStream(ends[0], size) })
		wg.Go(func() {
			got := make([]byte, size)
			_ = ends[1].SetReadDeadline(time.Now().Add(60 * time.Second))
			if k, err := io.ReadFull(ends[1], got); err != nil {
				t.Errorf("relayed %d of %d bytes: %v", k, size, err)
				return
			}
			if !bytes.Equal(got, pattern(0, size)) {
				t.Error("the relayed bytes differ")
			}
		})
	}
	wg.Wait()
	_ = left.Close()
	if k, err := right.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other side got %d bytes and %v, want io.EOF", k, err)
	}
	_ = right.Close()
	eventually(t, "both legs are lost", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.lost[0] != nil && s.lost[1] != nil
	})
	if s.lost[0] != io.EOF || s.lost[1] != ErrAborted {
		t.Errorf("lost with %v and %v, want io.EOF and ErrAborted", s.lost[0], s.lost[1])
	}
}

func testEngineClose(t *testing.T, n network) {
	e := n.mk(Options{})
	hold := make(chan struct{})
	var owners []*owner
	for i := range 8 {
		ours, peer := n.pair(t)
		o := &owner{t: t}
		if i == 0 {
			o.onLost = func(Leg) { <-hold }
		}
		l := e.Group(o, nil).Add(ours, []byte("early"))
		switch i % 4 {
		case 1:
			l.Resume()
		case 2:
			l.Resume()
			l.Write([][]byte{make([]byte, huge)})
		case 3:
			l.Resume()
			l.Write([][]byte{make([]byte, huge)})
			l.Close(true)
		}
		owners = append(owners, o)
		defer peer.Close()
	}
	closed := make(chan struct{})
	go func() { e.Close(); close(closed) }()
	never(t, "Engine.Close returned while a call runs", func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	})
	close(hold)
	within(t, "Engine.Close", func() { <-closed })
	for i, o := range owners {
		if _, _, lost := o.count(); lost != 1 {
			t.Errorf("leg %d heard %d losses by the time Engine.Close returned, want one", i, lost)
		} else if o.loss() != ErrAborted {
			t.Errorf("leg %d: Lost(%v), want ErrAborted", i, o.loss())
		}
	}
	within(t, "a second Engine.Close", e.Close)
}

func testAddAfterClose(t *testing.T, n network) {
	e := n.mk(Options{})
	e.Close()
	ours, peer := n.pair(t)
	defer peer.Close()
	o := &owner{t: t}
	l := e.Group(o, nil).Add(ours, []byte("early"))
	if b := l.Write([][]byte{make([]byte, huge)}); b != Refused {
		t.Errorf("Write returned %d, want Refused", b)
	}
	never(t, "a call before Resume", func() bool { c, _, _ := o.count(); return c > 0 })
	l.Resume()
	if err := o.loss(); err != ErrAborted {
		t.Errorf("Lost(%v), want ErrAborted", err)
	}
	if _, err := peer.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the peer's read: %v, want the end", err)
	}
}

func testLostOnce(t *testing.T, n network) {
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	for i := range rounds {
		ours, peer := n.pair(t)
		e := n.mk(Options{Linger: time.Millisecond, ReadBuffer: 4096})
		o := &owner{t: t}
		l := e.Group(o, nil).Add(ours, nil)
		l.Resume()
		acts := []func(){
			func() { _, _ = peer.Write(pattern(0, 10_000)); _ = peer.Close() },
			func() { _ = hardClose(peer) },
			func() { l.Close(true) },
			func() { l.Close(false) },
			func() { l.Write([][]byte{make([]byte, 1<<20)}); l.Close(true) },
			func() { e.Close() },
			func() { l.Pause(); l.Write([][]byte{make([]byte, 100)}); l.Resume() },
			func() { _, _ = io.Copy(io.Discard, peer) },
			func() { l.Stat(); l.Close(true); l.Close(false) },
		}
		var wg sync.WaitGroup
		for _, k := range []int{i % len(acts), i / len(acts) % len(acts), i * 7 % len(acts)} {
			wg.Go(acts[k])
		}
		within(t, "a leg's methods", func() { e.Close(); _ = peer.Close(); wg.Wait() })
		e.Close()
		if _, _, lost := o.count(); lost != 1 {
			t.Fatalf("round %d: Lost was called %d times, want once", i, lost)
		}
	}
}
