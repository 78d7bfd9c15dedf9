package engine

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A scriptConn is what crypto/tls reads from when it must not wait: Read gives what feed brought,
// and errDry when that is used up. What is written is kept.
type scriptConn struct {
	net.Conn // nil: nothing else is called
	in, out  bytes.Buffer
}

func (c *scriptConn) Read(b []byte) (int, error) {
	if c.in.Len() == 0 {
		return 0, errDry
	}
	return c.in.Read(b)
}
func (c *scriptConn) Write(b []byte) (int, error)      { return c.out.Write(b) }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }

// established makes a handshake over a pipe, and has both ends go on over scripts.
func established(t *testing.T, server, client *tls.Config) (s, c *tls.Conn, atServer, atClient *scriptConn) {
	t.Helper()
	near, far := net.Pipe()
	a, b := &wire{near}, &wire{buffered(far)}
	s, c = tls.Server(a, server), tls.Client(b, client)
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := c.Handshake(); err != nil {
			t.Errorf("handshake: %v", err)
		}
	})
	if err := s.Handshake(); err != nil {
		t.Fatalf("handshake: %v", err)
	}
	wait.Wait()
	atServer, atClient = new(scriptConn), new(scriptConn)
	near.SetReadDeadline(time.Now())
	atClient.in.Write(b.Conn.(*aheadConn).rest()) // the server's tickets
	a.Conn, b.Conn = atServer, atClient
	return s, c, atServer, atClient
}

// An aheadConn reads in the background, so that the other end of a pipe never waits: a server writes tickets that
// its client only reads with the first data.
type aheadConn struct {
	net.Conn
	mu   sync.Mutex
	cond sync.Cond
	got  bytes.Buffer
	err  error
	done chan struct{}
}

func buffered(c net.Conn) *aheadConn {
	a := &aheadConn{Conn: c, done: make(chan struct{})}
	a.cond.L = &a.mu
	go func() {
		defer close(a.done)
		for b := make([]byte, 4096); ; {
			n, err := c.Read(b)
			a.mu.Lock()
			a.got.Write(b[:n])
			a.err = err
			a.mu.Unlock()
			a.cond.Broadcast()
			if err != nil {
				return
			}
		}
	}()
	return a
}

func (a *aheadConn) Read(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.got.Len() == 0 && a.err == nil {
		a.cond.Wait()
	}
	if a.got.Len() == 0 {
		return 0, a.err
	}
	return a.got.Read(b)
}

// rest ends the reading and returns what nobody has read.
func (a *aheadConn) rest() []byte {
	a.Conn.Close()
	<-a.done
	return a.got.Bytes()
}

// drain reads until dry, and fails on any other error.
func drain(t *testing.T, c *tls.Conn) []byte {
	t.Helper()
	var got []byte
	for b := make([]byte, 64<<10); ; {
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if err == errDry {
			return got
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v, want errDry: the connection must go on", len(got), err)
		}
	}
}

var tlsVersions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// What the loop relies on: however the records of a stream are cut, and however often crypto/tls
// hears that there is nothing for now, the same bytes come out.
func TestTLSGoesOnAfterDry(t *testing.T) {
	t.Parallel()
	for name, version := range tlsVersions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &tls.Config{Certificates: []tls.Certificate{certificate()}, MaxVersion: version, DynamicRecordSizingDisabled: true}
			s, c, atServer, atClient := established(t, server, &tls.Config{InsecureSkipVerify: true})

			// A stream of small, empty and full records.
			var want []byte
			for i, size := range []int{1, 0, 2, 100, 20_000, 7, recordPlain, 3} {
				part := pattern(i, size)
				want = append(want, part...)
				if _, err := c.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			stream := bytes.Clone(atClient.out.Bytes())
			atClient.out.Reset()

			// A byte at a time, with a dry read before each: that is every cut.
			var got []byte
			for _, b := range stream {
				got = append(got, drain(t, s)...)
				atServer.in.WriteByte(b)
			}
			got = append(got, drain(t, s)...)
			if !bytes.Equal(got, want) {
				t.Fatalf("cut at every byte, %d bytes came out that are not the %d that went in", len(got), len(want))
			}

			// And back: the first thing that this client reads are tickets, in TLS 1.3.
			if _, err := s.Write([]byte("answer")); err != nil {
				t.Fatal(err)
			}
			atClient.in.Write(atServer.out.Bytes())
			stream = bytes.Clone(atClient.in.Bytes())
			atClient.in.Reset()
			got = nil
			for _, b := range stream {
				got = append(got, drain(t, c)...)
				atClient.in.WriteByte(b)
			}
			if got = append(got, drain(t, c)...); string(got) != "answer" {
				t.Errorf("the client got %q, want the answer", got)
			}
			if state := c.ConnectionState(); state.Version != version {
				t.Errorf("this was TLS %x, want %x", state.Version, version)
			}
		})
	}
}

// An end is an end, also after dry reads: orderly, within a record, and a record that is none.
func TestTLSEndsAfterDry(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(stream []byte) []byte
		want  string
	}{
		"close_notify":   {func(b []byte) []byte { return b }, "EOF"},
		"a changed byte": {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "bad record MAC"},
		"no TLS":         {func([]byte) []byte { return []byte(strings.Repeat("GET / ", 9)) }, "version"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, peer, atServer, atPeer := established(t, &tls.Config{Certificates: []tls.Certificate{certificate()}}, &tls.Config{InsecureSkipVerify: true})
			drain(t, s)
			if err := peer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			var err error
			for _, b := range c.spoil(atPeer.out.Bytes()) {
				if _, err = s.Read(make([]byte, 10)); err != errDry {
					break
				}
				atServer.in.WriteByte(b)
			}
			if err == errDry {
				_, err = s.Read(make([]byte, 10))
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it ended with %v, want %s", err, c.want)
			}
			if _, again := s.Read(make([]byte, 10)); again == nil || again == errDry {
				t.Errorf("after its end it says %v", again)
			}
		})
	}
}

// A peer of its own making. crypto/tls never asks for new keys itself, so that this test makes the messages of RFC
// 8446, section 4.6.3 with the peer's secrets.
func TestTLSKeysChangeWhileDry(t *testing.T) {
	t.Parallel()
	var secrets bytes.Buffer
	s, c, atServer, atClient := established(t, &tls.Config{Certificates: []tls.Certificate{certificate()}, MinVersion: tls.VersionTLS13},
		&tls.Config{InsecureSkipVerify: true, KeyLogWriter: &secrets, MinVersion: tls.VersionTLS13})
	up := newSealer(t, secrets.String(), "CLIENT_TRAFFIC_SECRET_0", c.ConnectionState().CipherSuite)
	drain(t, s)
	var want, stream []byte
	send := func(text string) {
		stream = append(stream, up.seal(23, []byte(text))...)
		want = append(want, text...)
	}
	send("before")
	update := []byte{24, 0, 0, 1, 1} // KeyUpdate, update_requested
	for range 3 {
		// In two records, between which nothing else may stand.
		stream = append(stream, up.seal(22, update[:2])...)
		stream = append(stream, up.seal(22, update[2:])...)
		up.next()
		send("with new keys")
	}
	var got []byte
	for _, b := range stream {
		got = append(got, drain(t, s)...)
		atServer.in.WriteByte(b)
	}
	if got = append(got, drain(t, s)...); !bytes.Equal(got, want) {
		t.Fatalf("with keys that changed, %q came out, want %q", got, want)
	}
	// The peer was asked to change its keys as well, three times, and what it says then is understood.
	if _, err := s.Write([]byte("and back")); err != nil {
		t.Fatal(err)
	}
	atClient.in.Write(atServer.out.Bytes())
	if got := drain(t, c); string(got) != "and back" {
		t.Errorf("the peer understood %q", got)
	}
}

// Thousands of records in both directions, as they come.
func TestLoopTLSFloodOfSmallMessages(t *testing.T) {
	t.Parallel()
	ours, peer := tlsPair(t)
	e := New(Options{Loops: 1})
	defer e.Close()
	o := &owner{t: t}
	echo := e.Group(o, nil)
	var leg Leg
	o.onData = func(l Leg, b []byte) int {
		l.Write([][]byte{b})
		return len(b)
	}
	leg = echo.Add(ours, nil)
	leg.Resume()
	const count = 20_000
	go func() {
		for i := range count {
			fmt.Fprintf(peer, "%06d", i)
		}
	}()
	got := read(t, peer, 6*count)
	for i := range count {
		if want := fmt.Sprintf("%06d", i); string(got[6*i:6*i+6]) != want {
			t.Fatalf("message %d came back as %q", i, got[6*i:6*i+6])
		}
	}
	peer.Close()
	eventually(t, "the leg is lost", o.isLost)
	if err := o.loss(); !errors.Is(err, io.EOF) {
		t.Errorf("the leg was lost with %v, want io.EOF after close_notify", err)
	}
}

// What a tls.Conn has read ahead before the loop has it comes first, also where it is more than one read of the
// loop brings.
func TestLoopTLSReadAhead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ size, before int }{{1, 1}, {5000, 1}, {90 << 10, 1}, {90 << 10, 20 << 10}, {90 << 10, 40 << 10}} {
		ours, peer := tlsPairOf(t, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
		send(t, peer, pattern(0, c.size)) // all of it is in the system's buffers, then
		before := make([]byte, c.before)  // with these, the rest of their record is read, and more
		if _, err := io.ReadFull(ours, before); err != nil {
			t.Fatal(err)
		}
		e := New(Options{Loops: 1, ReadBuffer: 4096})
		o := &owner{t: t}
		e.Group(o, nil).Add(ours, before).Resume()
		eventually(t, "all is handed over", func() bool { return o.reads() >= c.size })
		wantPattern(t, "with what was read ahead", []byte(o.received()), c.size)
		e.Close()
		peer.Close()
	}
}

// A tls.Conn that no loop can serve is served all the same.
func TestLoopTLSOfOthers(t *testing.T) {
	t.Parallel()
	ours, peer := tcpPair(t)
	defer peer.Close()
	server := tls.Server(ours, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	client := tls.Client(peer, &tls.Config{InsecureSkipVerify: true})
	go client.Handshake()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	e := New(Options{Loops: 1})
	defer e.Close()
	o := &owner{t: t}
	leg := e.Group(o, nil).Add(server, nil)
	leg.Resume()
	if _, onLoop := leg.(*loopLeg); onLoop {
		t.Error("a loop serves a TLS connection whose socket it can't have")
	}
	send(t, client, []byte("hello"))
	eventually(t, "it is handed over", func() bool { return o.received() == "hello" })
}
