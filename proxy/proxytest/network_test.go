package proxytest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// through returns both ends of one connection through a new network, and its wire.
func through(t *testing.T) (client, server *net.TCPConn, w *Wire) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	n := NewNetwork(t, ln.Addr().String())
	conn, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if w, err = n.Wire(ctx, 0); err != nil {
		t.Fatalf("the first connection never got through: %v", err)
	}
	return conn.(*net.TCPConn), far.(*net.TCPConn), w
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatalf("write %q: %v", text, err)
	}
}

func wantRead(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q", got, err, text)
	}
}

func wantEnd(t *testing.T, conn net.Conn, want error) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, want) {
		t.Fatalf("the connection ended with %v, want %v", err, want)
	}
}

// wantNothing looks for bytes for a moment: it can miss a fault, never invent one.
func wantNothing(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
		t.Fatalf("a silent wire brought %d bytes, %v", n, err)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestNetworkCarriesBytesAndOrderlyEnds(t *testing.T) {
	client, server, w := through(t)
	send(t, client, "up")
	wantRead(t, server, "up")
	client.CloseWrite()
	wantEnd(t, server, io.EOF)
	send(t, server, "down, after the client's end of file")
	wantRead(t, client, "down, after the client's end of file")
	server.Close()
	wantEnd(t, client, io.EOF)
	<-w.ended
	if up, down := w.Moved(ServerSide), w.Moved(ClientSide); up != 2 || down != 36 {
		t.Errorf("moved %d bytes up and %d down, want 2 and 36", up, down)
	}
}

func TestNetworkPassesAResetOn(t *testing.T) {
	client, server, _ := through(t)
	send(t, client, "x")
	wantRead(t, server, "x")
	abort(client)
	wantEnd(t, server, syscall.ECONNRESET)
}

func TestResetEndsBothSides(t *testing.T) {
	client, server, w := through(t)
	w.Reset(BothSides)
	wantEnd(t, client, syscall.ECONNRESET)
	wantEnd(t, server, syscall.ECONNRESET)
	if !w.Ended() {
		t.Error("the wire has not ended")
	}
}

func TestResetOfOneSideLeavesTheOtherHalfOpen(t *testing.T) {
	client, server, w := through(t)
	w.Reset(ClientSide)
	wantEnd(t, client, syscall.ECONNRESET)
	wantNothing(t, server)
	send(t, server, "into the void")
}

// Bytes that are late when the reset comes neither arrive nor tell.
func TestResetOfOneSideCatchesWhatIsUnderWay(t *testing.T) {
	client, server, w := through(t)
	w.Delay(BothSides, 50*time.Millisecond)
	send(t, client, "up")
	send(t, server, "down")
	w.Reset(ServerSide)
	wantEnd(t, server, syscall.ECONNRESET)
	wantNothing(t, client)
	if w.Ended() {
		t.Error("the client's side has ended too")
	}
}

func TestFinEndsOneDirectionOnly(t *testing.T) {
	client, server, w := through(t)
	w.Fin(ServerSide)
	wantEnd(t, server, io.EOF)
	send(t, server, "still here")
	wantRead(t, client, "still here")
	send(t, client, "dropped")
	wantEnd(t, server, io.EOF)
}

func TestFinOfBothSides(t *testing.T) {
	client, server, w := through(t)
	w.Fin(BothSides)
	wantEnd(t, client, io.EOF)
	wantEnd(t, server, io.EOF)
}

func TestHoldStopsBytesUntilResume(t *testing.T) {
	client, server, w := through(t)
	w.Hold(ClientSide)
	send(t, server, "held")
	send(t, client, "not held")
	wantRead(t, server, "not held")
	wantNothing(t, client)
	w.Resume()
	wantRead(t, client, "held")
}

func TestSilenceIsMendedByResume(t *testing.T) {
	client, server, w := through(t)
	send(t, client, "before")
	wantRead(t, server, "before")
	w.Silence()
	send(t, server, "down")
	send(t, client, "up")
	wantNothing(t, client)
	wantNothing(t, server)
	w.Resume()
	wantRead(t, client, "down")
	wantRead(t, server, "up")
}

func TestSilenceSwallowsAnEnd(t *testing.T) {
	client, server, w := through(t)
	w.Silence()
	abort(client)
	wantNothing(t, server)
}

func TestResetAfterCountsBytes(t *testing.T) {
	client, server, w := through(t)
	w.ResetAfter(ClientSide, 5)
	send(t, server, "123")
	wantRead(t, client, "123")
	send(t, server, "4567")
	client.SetReadDeadline(time.Now().Add(60 * time.Second))
	got, err := io.ReadAll(client)
	if !bytes.HasPrefix([]byte("45"), got) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %q, %v; want at most 45 and then a reset", got, err)
	}
	wantEnd(t, server, syscall.ECONNRESET)
	if w.Moved(ClientSide) != 5 {
		t.Errorf("%d bytes were moved, want 5", w.Moved(ClientSide))
	}
}

func TestDelayIsALowerBound(t *testing.T) {
	client, server, w := through(t)
	w.Delay(ServerSide, 50*time.Millisecond)
	start := time.Now()
	send(t, client, "late")
	wantRead(t, server, "late")
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("a chunk to be delayed by 50ms took %v", took)
	}
}

func TestDownNetworkRefusesAndCounts(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	n := NewNetwork(t, ln.Addr().String())
	n.SetDown(true)
	conn, err := net.Dial("tcp", n.Addr())
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("a connection to a network that is down ended with %v, want a reset", err)
	}
	if n.Accepted() != 0 || n.Refused() != 1 || n.Last() != nil {
		t.Errorf("accepted %d, refused %d; want 0 and 1", n.Accepted(), n.Refused())
	}
	n.SetDown(false)
	conn, err = net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	w, err := n.Wire(ctx, 0)
	if err != nil || n.Open() != 1 || n.Last() != w {
		t.Fatalf("wire %v, %v, %d open; want the one that is open", w, err, n.Open())
	}
	w.Reset(BothSides)
	if n.Open() != 0 {
		t.Errorf("%d connections open after the reset, want none", n.Open())
	}
}

func TestPrepareComesBeforeTheFirstByte(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	n := NewNetwork(t, ln.Addr().String())
	n.Prepare(func(i int, w *Wire) { w.ResetAfter(ServerSide, int64(i)) })
	for i := range 3 {
		client, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		send(t, client, "12345")
		wantEnd(t, client, syscall.ECONNRESET)
		if w := n.Last(); w.Moved(ServerSide) != int64(i) {
			t.Errorf("connection %d carried %d bytes before its reset, want %d", i, w.Moved(ServerSide), i)
		}
	}
}
