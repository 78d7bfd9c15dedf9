package engine

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"
)

func testFINWithData(t *testing.T, n network) {
	for i := range 50 {
		r := n.rig(t, Options{}, "")
		if i%2 == 0 {
			r.leg.Resume()
		}
		go func() {
			_, _ = r.peer.Write([]byte("bye"))
			if c, ok := r.peer.(interface{ CloseWrite() error }); ok && i%3 == 0 {
				_ = c.CloseWrite()
			} else {
				_ = r.peer.Close()
			}
		}()
		r.leg.Resume()
		if err := r.loss(); err != io.EOF {
			t.Fatalf("round %d: Lost(%v), want io.EOF", i, err)
		}
		if got := r.received(); got != "bye" {
			t.Fatalf("round %d: handed over %q before the loss", i, got)
		}
	}
}

func testFINWhilePaused(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	r.onData = func(l Leg, b []byte) int { l.Pause(); r.record(b[:1]); return 1 }
	r.leg.Resume()
	send(t, r.peer, []byte("ab"))
	eventually(t, "the first byte is consumed", func() bool { return r.received() == "a" })
	_ = r.peer.Close()
	never(t, "Lost on a paused leg", r.isLost)
	r.leg.Resume()
	eventually(t, "the rest is handed over", func() bool { return r.received() == "ab" })
	never(t, "Lost on a paused leg", r.isLost) // Data paused it once more
	r.leg.Resume()
	if err := r.loss(); err != io.EOF {
		t.Errorf("Lost(%v), want io.EOF", err)
	}
}

func testFINWhileIdlePaused(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	r.leg.Resume()
	send(t, r.peer, []byte("a"))
	eventually(t, "the first byte is consumed", func() bool { return r.received() == "a" })
	time.Sleep(5 * time.Millisecond) // the engine waits for more by now
	r.leg.Pause()
	_ = r.peer.Close()
	never(t, "Lost on a paused leg", r.isLost)
	r.leg.Resume()
	if err := r.loss(); err != io.EOF {
		t.Errorf("Lost(%v), want io.EOF", err)
	}
}

func testReset(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	if !isTCP(r.peer) {
		t.Skip("only TCP has resets")
	}
	r.leg.Resume()
	send(t, r.peer, []byte("last words"))
	_ = hardClose(r.peer)
	if err := r.loss(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Lost(%v), want ECONNRESET", err)
	}
	if got := r.received(); got != "last words" {
		t.Errorf("handed over %q before the reset", got)
	}
}

func testResetWhilePaused(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	if !isTCP(r.peer) {
		t.Skip("only TCP has resets")
	}
	r.leg.Resume()
	r.leg.Pause()
	send(t, r.peer, []byte("last words"))
	_ = hardClose(r.peer)
	never(t, "a call on a paused leg", func() bool { c, _, _ := r.count(); return c > 0 })
	r.leg.Resume()
	if err := r.loss(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Lost(%v), want ECONNRESET", err)
	}
	if got := r.received(); got != "last words" {
		t.Errorf("handed over %q before the reset", got)
	}
}

func testFailingWritePaused(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	r.onData = func(l Leg, b []byte) int { l.Pause(); return 0 }
	r.leg.Resume()
	send(t, r.peer, []byte("kept"))
	eventually(t, "the leg is paused", func() bool { c, _, _ := r.count(); return c > 0 })
	_ = hardClose(r.peer)
	eventually(t, "a failing write is told", func() bool { r.leg.Write([][]byte{[]byte("x")}); return r.isLost() })
	if err := r.loss(); err == io.EOF || err == ErrAborted {
		t.Errorf("Lost(%v), want the write's error", err)
	}
}

func testFailingWriteDrains(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	if !buffers(r.peer) {
		t.Skip("nothing can be on its way")
	}
	hold := make(chan struct{})
	r.onData = func(l Leg, b []byte) int {
		r.record(b)
		if b[0] == 0xEE && r.reads() == 1 {
			<-hold
		}
		return len(b)
	}
	r.leg.Resume()
	send(t, r.peer, []byte("1"))
	eventually(t, "Data runs", func() bool { return r.reads() == 1 })
	send(t, r.peer, []byte("2345"))
	_ = r.peer.Close()
	for range 20 { // the peer's system answers the first with a reset, then they fail
		r.leg.Write([][]byte{[]byte("x")})
		time.Sleep(time.Millisecond)
	}
	never(t, "Lost during Data", r.isLost)
	close(hold)
	r.loss()
	if got := r.received(); got != "12345" {
		t.Errorf("handed over %q before the loss, want %q", got, "12345")
	}
}

func testHalfOpen(t *testing.T, n network) {
	// The peer's host is gone: nothing is acknowledged.
	r := n.rig(t, Options{UserTimeout: 300 * time.Millisecond}, "")
	if silence(r.peer) {
		r.leg.Resume()
		r.leg.Write([][]byte{[]byte("anybody there?")})
		if err := r.loss(); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("Lost(%v), want ETIMEDOUT", err)
		}
	}
	// The peer is there, but takes nothing; whether the leg reads or not.
	for _, paused := range []bool{false, true} {
		r := n.rig(t, Options{UserTimeout: 300 * time.Millisecond}, "")
		r.leg.Resume()
		if paused {
			r.leg.Pause()
		}
		r.leg.Write([][]byte{make([]byte, huge)})
		if err := r.loss(); !errors.Is(err, ErrWriteTimeout) && !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("paused %v: Lost(%v), want ErrWriteTimeout or ETIMEDOUT", paused, err)
		}
	}
}

func testGracefulAgainstSender(t *testing.T, n network) {
	r := n.rig(t, Options{Linger: 30 * time.Second}, "")
	if !closesOneSide(r.peer) {
		t.Skip("the conn can't be shut down on one side")
	}
	r.leg.Resume()
	s := startStream(r.peer, 1<<40) // never stops by itself
	eventually(t, "the peer's bytes arrive", func() bool { return r.reads() > 0 })
	r.leg.Write([][]byte{pattern(0, huge)})
	r.leg.Close(true)
	r.mu.Lock()
	got := make([]byte, 0, huge)
	r.mu.Unlock()
	chunk := make([]byte, 100_000)
	for {
		k, err := r.peer.Read(chunk)
		got = append(got, chunk[:k]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("after %d of %d bytes the peer got: %v", len(got), huge, err)
		}
	}
	wantPattern(t, "bytes before a graceful Close", got, huge)
	if r.isLost() {
		t.Error("Lost before the peer has closed")
	}
	_ = r.peer.Close()
	if err := r.loss(); err != ErrAborted {
		t.Errorf("Lost(%v), want ErrAborted", err)
	}
	<-s.done
}

func testGracefulEnd(t *testing.T, n network) {
	r := n.rig(t, Options{Linger: 30 * time.Second}, "")
	r.leg.Resume()
	if r.leg.Write([][]byte{pattern(0, huge)}) == 0 {
		t.Fatal("no backlog")
	}
	r.leg.Close(true)
	r.leg.Close(true)
	if b := r.leg.Write([][]byte{[]byte("too late")}); b != Refused {
		t.Errorf("Write after Close returned %d, want Refused", b)
	}
	never(t, "Lost before the backlog is written", r.isLost)
	wantPattern(t, "bytes before a graceful Close", read(t, r.peer, huge), huge)
	if k, err := r.peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the last byte the peer got %d bytes and %v, want io.EOF", k, err)
	}
	if closesOneSide(r.peer) {
		never(t, "Lost before the peer has closed", r.isLost)
	}
	_ = r.peer.Close()
	if err := r.loss(); err != ErrAborted {
		t.Errorf("Lost(%v), want ErrAborted", err)
	}
	if _, w, _ := r.count(); w != 0 {
		t.Error("Writable after Close")
	}
}

func testGracefulIdle(t *testing.T, n network) {
	r := n.rig(t, Options{Linger: 30 * time.Second}, "dropped")
	r.leg.Close(true) // before any Resume
	if _, err := r.peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer got %v, want io.EOF", err)
	}
	_ = r.peer.Close()
	if err := r.loss(); err != ErrAborted {
		t.Errorf("Lost(%v), want ErrAborted", err)
	}
}

func testGracefulLinger(t *testing.T, n network) {
	for _, backlog := range []int{0, huge} {
		r := n.rig(t, Options{Linger: 50 * time.Millisecond}, "")
		r.leg.Resume()
		if backlog > 0 && r.leg.Write([][]byte{make([]byte, backlog)}) == 0 {
			t.Fatal("no backlog")
		}
		r.leg.Close(true) // and the peer neither reads nor closes
		if err := r.loss(); err != ErrAborted {
			t.Errorf("Lost(%v), want ErrAborted", err)
		}
	}
}

func testAbort(t *testing.T, n network) {
	r := n.rig(t, Options{Linger: time.Hour}, "")
	r.leg.Resume()
	r.leg.Pause()
	if r.leg.Write([][]byte{make([]byte, huge)}) == 0 {
		t.Fatal("no backlog")
	}
	r.leg.Close(false)
	r.leg.Close(true)
	if err := r.loss(); err != ErrAborted {
		t.Errorf("Lost(%v), want ErrAborted", err)
	}
	got, err := io.Copy(io.Discard, r.peer)
	if got == huge {
		t.Error("the backlog was delivered")
	}
	if isTCP(r.peer) && !isWrapped(r.peer) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer got %v, want a reset", err)
	}
}

func testAbortDuringGraceful(t *testing.T, n network) {
	r := n.rig(t, Options{Linger: time.Hour}, "")
	r.leg.Resume()
	if r.leg.Write([][]byte{make([]byte, huge)}) == 0 {
		t.Fatal("no backlog")
	}
	r.leg.Close(true)
	never(t, "Lost before the backlog is written", r.isLost)
	r.leg.Close(false)
	if err := r.loss(); err != ErrAborted {
		t.Errorf("Lost(%v), want ErrAborted", err)
	}
}

func testOpenDuringLost(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	hold := make(chan struct{})
	r.onLost = func(Leg) { <-hold }
	r.leg.Resume()
	r.leg.Close(false)
	r.loss()
	ended := make(chan struct{})
	go func() { _, _ = r.peer.Read(make([]byte, 1)); close(ended) }()
	never(t, "the socket was closed before Lost returned", func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	close(hold)
	within(t, "the peer's read", func() { <-ended })
}

func testAfterEnd(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	r.leg.Resume()
	if r.leg.Write([][]byte{make([]byte, huge)}) == 0 {
		t.Fatal("no backlog")
	}
	_ = r.peer.Close()
	r.loss()
	for range 3 {
		if b := r.leg.Write([][]byte{make([]byte, huge)}); b != Refused {
			t.Errorf("Write on a lost leg returned %d, want Refused", b)
		}
		r.leg.Pause()
		r.leg.Resume()
		r.leg.Close(true)
		r.leg.Close(false)
	}
	eventually(t, "nothing is held for a lost leg", func() bool { return r.leg.Stat() == Stat{} })
	never(t, "a call after Lost", func() bool { c, _, _ := r.count(); return c > 1 })
}

func testNoDataAfterClose(t *testing.T, n network) {
	for _, graceful := range []bool{false, true} {
		r := n.rig(t, Options{Linger: 50 * time.Millisecond}, "")
		hold := make(chan struct{})
		r.onData = func(_ Leg, b []byte) int { r.record(b); <-hold; return len(b) }
		r.leg.Resume()
		go func() { _, _ = r.peer.Write(pattern(0, 1<<20)) }()
		eventually(t, "Data runs", func() bool { return r.reads() > 0 })
		r.leg.Close(graceful)
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		close(hold)
		if err := r.loss(); err != ErrAborted {
			t.Errorf("Lost(%v), want ErrAborted", err)
		}
	}
}
