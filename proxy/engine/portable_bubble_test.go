package engine

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// The portable engine over in-memory conns must live in a testing/synctest bubble, where
// only channels, conds and timers let the fake clock move.

func TestPortableInBubbleRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewPortable(Options{})
		defer e.Close()
		a, left := net.Pipe()
		b, right := net.Pipe()
		s := new(relayer)
		s.join(e, a, b)
		startStream(left, 1<<20)
		wantPattern(t, "relayed in a bubble", read(t, right, 1<<20), 1<<20)
		synctest.Wait() // all goroutines of the engine wait durably
		_ = left.Close()
		if _, err := right.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the other side got %v, want io.EOF", err)
		}
		synctest.Wait()
		if s.lost[0] != io.EOF || s.lost[1] != ErrAborted {
			t.Errorf("lost with %v and %v, want io.EOF and ErrAborted", s.lost[0], s.lost[1])
		}
	})
}

func TestPortableInBubbleWaitsForSlowHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewPortable(Options{})
		a, peer := net.Pipe()
		defer peer.Close()
		o := &owner{t: t}
		// While one call sleeps on the fake clock, Writable, Lost and Engine.Close wait for it.
		o.onData = func(_ Leg, b []byte) int { time.Sleep(time.Hour); return len(b) }
		l := e.Group(o, nil).Add(a, []byte("early"))
		l.Resume()
		synctest.Wait()
		l.Write([][]byte{[]byte("x")})
		read(t, peer, 1)
		begin := time.Now()
		e.Close()
		if waited := time.Since(begin); waited != time.Hour {
			t.Errorf("Engine.Close waited %v for a call of an hour", waited)
		}
		if _, _, lost := o.count(); lost != 1 {
			t.Errorf("Lost was called %d times", lost)
		}
	})
}

func TestPortableInBubbleTimes(t *testing.T) {
	for _, c := range []struct {
		name     string
		act      func(l Leg, peer net.Conn)
		from, to time.Duration // when it is lost
		err      error
	}{
		{"a graceful Close takes Linger and no longer", func(l Leg, _ net.Conn) {
			l.Write([][]byte{make([]byte, 100)})
			l.Close(true)
		}, 3 * time.Second, 3 * time.Second, ErrAborted},
		{"a backlog without progress is lost after UserTimeout", func(l Leg, _ net.Conn) {
			l.Write([][]byte{make([]byte, 100)})
		}, 10*time.Second + drainTime, 10*time.Second + drainTime, ErrWriteTimeout},
		{"on a paused leg at once", func(l Leg, _ net.Conn) {
			l.Pause()
			l.Write([][]byte{make([]byte, 100)})
		}, 10 * time.Second, 10 * time.Second, ErrWriteTimeout},
		{"on a leg paused meanwhile when it is paused", func(l Leg, _ net.Conn) {
			l.Write([][]byte{make([]byte, 100)})
			time.Sleep(10*time.Second + drainTime/2)
			l.Pause()
		}, 10*time.Second + drainTime/2, 10*time.Second + drainTime/2, ErrWriteTimeout},
		{"slow progress is progress", func(l Leg, peer net.Conn) {
			l.Pause()
			l.Write([][]byte{make([]byte, 100_000)})
			for range 30 { // every 5 s a little
				time.Sleep(5 * time.Second)
				_, _ = peer.Read(make([]byte, 1000))
			}
		}, 160 * time.Second, 170 * time.Second, ErrWriteTimeout}, // when within its turn a blocking write got on is not known
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := NewPortable(Options{Linger: 3 * time.Second, UserTimeout: 10 * time.Second})
				defer e.Close()
				a, peer := net.Pipe()
				defer peer.Close()
				o := &owner{t: t}
				begin := time.Now()
				var at time.Duration
				o.onLost = func(Leg) { at = time.Since(begin) }
				l := e.Group(o, nil).Add(a, nil)
				l.Resume()
				synctest.Wait()
				c.act(l, peer)
				time.Sleep(time.Hour)
				synctest.Wait()
				if _, _, lost := o.count(); lost != 1 {
					t.Fatalf("Lost was called %d times", lost)
				}
				if at < c.from || at > c.to || o.lost[0] != c.err {
					t.Errorf("Lost(%v) after %v, want %v after %v to %v", o.lost[0], at, c.err, c.from, c.to)
				}
			})
		})
	}
}

// A stuckConn's CloseWrite waits for the peer, as that of a tls.Conn can.
type stuckConn struct {
	net.Conn
	closed chan struct{}
}

func (c stuckConn) CloseWrite() error { <-c.closed; return net.ErrClosed }
func (c stuckConn) Close() error      { close(c.closed); return c.Conn.Close() }

func TestPortableInBubbleStuckCloseWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewPortable(Options{Linger: time.Second})
		a, peer := net.Pipe()
		defer peer.Close()
		o := &owner{t: t}
		l := e.Group(o, nil).Add(stuckConn{a, make(chan struct{})}, nil)
		l.Resume()
		l.Close(true)
		begin := time.Now()
		for !o.isLost() {
			time.Sleep(time.Millisecond)
		}
		if waited := time.Since(begin); waited > time.Second+time.Millisecond {
			t.Errorf("a stuck CloseWrite took %v, Linger is 1s", waited)
		}
		e.Close() // would hang if the late error changed how the leg ended
	})
}
