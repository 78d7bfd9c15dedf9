//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// startRelay runs a bare relay until the test ends.
func startRelay(t *testing.T, upstream string) (addr string, r *bareRelay) {
	t.Helper()
	addr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	if r, err = listenRelay(netip.MustParseAddrPort(addr), netip.MustParseAddrPort(upstream)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error)
	go func() { over <- r.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("the relay: %v", err)
		}
	})
	return addr, r
}

// await waits until as many ends of the relay as wanted are such.
func await(t *testing.T, r *bareRelay, want int, what string, such func(e *relayEnd) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		found := make(chan int, 1)
		r.l.post(func() {
			n := 0
			for _, s := range r.l.slots {
				if e, ok := s.h.(*relayEnd); ok && such(e) {
					n++
				}
			}
			found <- n
		})
		n := <-found
		if n == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d ends of the relay %s, want %d", n, what, want)
		}
	}
}

// throughRelay returns the two peers of a relay's connection.
func throughRelay(t *testing.T) (client, backend *net.TCPConn, r *bareRelay) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr, r := startRelay(t, l.Addr().String())
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []net.Conn{c, b} {
		x.SetDeadline(time.Now().Add(time.Minute))
		t.Cleanup(func() { x.Close() })
	}
	return c.(*net.TCPConn), b.(*net.TCPConn), r
}

// bothWays runs a test with the client as the first peer, and again with the backend.
func bothWays(t *testing.T, f func(t *testing.T, from, to *net.TCPConn, r *bareRelay)) {
	t.Run("up", func(t *testing.T) {
		client, backend, r := throughRelay(t)
		f(t, client, backend, r)
	})
	t.Run("down", func(t *testing.T) {
		client, backend, r := throughRelay(t)
		f(t, backend, client, r)
	})
}

func someBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// A reader that is slow gets all the same what was sent, and the other direction does not wait for it.
func TestBareRelayPassesAllToASlowReader(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *net.TCPConn, r *bareRelay) {
		if err := to.SetReadBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
		sent := someBytes(16 << 20) // more than the kernel keeps between the relay and the reader
		go func() {
			from.Write(sent)
			from.CloseWrite()
		}()
		await(t, r, 1, "have something unsent", (*relayEnd).full)

		if _, err := to.Write([]byte("meanwhile")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len("meanwhile"))
		if _, err := io.ReadFull(from, got); err != nil || string(got) != "meanwhile" {
			t.Errorf("the other way came %q, %v", got, err)
		}
		all := make([]byte, len(sent)+1)
		if n, err := io.ReadFull(to, all); err != io.ErrUnexpectedEOF || !bytes.Equal(all[:n], sent) {
			t.Errorf("%d bytes came of %d, or others; %v", n, len(sent), err)
		}
	})
}

// The end of one direction is passed on behind the data, and leaves the other direction alone until that ends, too.
func TestBareRelayPassesTheEndOn(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *net.TCPConn, r *bareRelay) {
		for _, way := range []struct {
			from, to *net.TCPConn
			text     string
		}{{from, to, "a question"}, {to, from, "an answer"}} {
			if _, err := way.from.Write([]byte(way.text)); err != nil {
				t.Fatal(err)
			}
			if err := way.from.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(way.to); err != nil || string(got) != way.text {
				t.Fatalf("of %q came %q, %v", way.text, got, err)
			}
		}
		await(t, r, 0, "are left", func(*relayEnd) bool { return true })
	})
}

func TestBareRelayPassesAResetOn(t *testing.T) {
	bothWays(t, func(t *testing.T, from, to *net.TCPConn, r *bareRelay) {
		await(t, r, 2, "are there", func(*relayEnd) bool { return true })
		if err := from.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		from.Close()
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other side sees %v", err)
		}
		await(t, r, 0, "are left", func(*relayEnd) bool { return true })
	})
}

// Without an upstream a client is turned away, and the relay goes on.
func TestBareRelayTurnsClientsAwayWithoutAnUpstream(t *testing.T) {
	nowhere, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	addr, r := startRelay(t, nowhere)
	for range 3 {
		c, err := net.Dial("tcp", addr) // which may see the reset already
		if err == nil {
			c.SetDeadline(time.Now().Add(time.Minute))
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client sees %v", err)
		}
	}
	await(t, r, 0, "are left", func(*relayEnd) bool { return true })
}

// What compare has proxies do works through the relay.
func TestMeasuresThroughTheBareRelay(t *testing.T) {
	for name, change := range map[string]func(*options){
		"echo":        func(o *options) {},
		"echo, large": func(o *options) { o.size = 1 << 20 },
		"down":        func(o *options) { o.mode = modeDown },
		"grow":        func(o *options) { o.mode = modeGrow },
		"storm":       func(o *options) { o.mode, o.talkers, o.rate = modeStorm, 2, 1000 },
		"new":         func(o *options) { o.mode = modeNew },
		"resume":      func(o *options) { o.mode = modeResume },
	} {
		t.Run(name, func(t *testing.T) {
			o := small(t, modeEcho)
			change(&o)
			addr, _ := startRelay(t, o.upstreams[0])
			o.targets = []string{"ws://" + addr + "/?client_id="}
			res, err := measure(o)
			if err != nil {
				t.Fatal(err)
			}
			if fault := res.check(); fault != "" || res.Messages+res.Sessions == 0 {
				t.Errorf("%q, %+v", fault, res)
			}
		})
	}
}

// What is kept is what came last, wherever the ring begins and however large the pieces are.
func TestARelayKeepsWhatCameLast(t *testing.T) {
	e := relayEnd{kept: make([]byte, 8)}
	sent := ""
	for _, piece := range []string{"abc", "defg", "hijkl", "m", "nopqrstuvwxyz0123", "45678901", ""} {
		e.keep([]byte(piece))
		if sent += piece; len(sent) < len(e.kept) {
			continue
		}
		kept := string(e.kept[e.keptAt:]) + string(e.kept[:e.keptAt])
		if want := sent[len(sent)-len(e.kept):]; kept != want {
			t.Errorf("after %q %q is kept, want %q", piece, kept, want)
		}
	}
}
