package proxytest

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipeIsLikeASocket(t *testing.T) {
	for name, tell := range map[string]func(t *testing.T, a, b *PipeConn){
		"a write waits for room, not for a reader": func(t *testing.T, a, b *PipeConn) {
			done := make(chan error, 1)
			go func() {
				_, err := a.Write(make([]byte, pipeBuffer+1))
				done <- err
			}()
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("a write into a full buffer returned %v", err)
			default:
			}
			if n, err := io.ReadFull(b, make([]byte, pipeBuffer+1)); err != nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		},
		"a side that is shut down is an end of file, and the other one goes on": func(t *testing.T, a, b *PipeConn) {
			send(t, a, "last")
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(b); string(got) != "last" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			send(t, b, "answer")
			wantRead(t, a, "answer")
			_, err := a.Write([]byte("x"))
			wantErr(t, err, syscall.EPIPE)
		},
		"what was written before a close arrives": func(t *testing.T, a, b *PipeConn) {
			send(t, a, "last")
			a.Close()
			if got, err := io.ReadAll(b); string(got) != "last" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			_, err := b.Write([]byte("x"))
			wantErr(t, err, syscall.EPIPE)
			_, err = a.Read(make([]byte, 1))
			wantErr(t, err, net.ErrClosed)
		},
		"a reset is felt by both sides at once": func(t *testing.T, a, b *PipeConn) {
			send(t, a, "lost")
			for _, c := range []*PipeConn{a, b} {
				go func() {
					time.Sleep(time.Second)
					a.Reset()
				}()
				if c == b {
					time.Sleep(2 * time.Second)
				}
				_, err := c.Read(make([]byte, 1))
				wantErr(t, err, syscall.ECONNRESET)
				_, err = c.Write([]byte("x"))
				wantErr(t, err, syscall.ECONNRESET)
			}
		},
		"silence is no end, and what was said arrives afterwards": func(t *testing.T, a, b *PipeConn) {
			a.Silence(true)
			send(t, a, "meanwhile")
			a.Close()
			_ = b.SetReadDeadline(time.Now().Add(time.Hour))
			_, err := b.Read(make([]byte, 1))
			wantErr(t, err, os.ErrDeadlineExceeded)
			send(t, b, "into the void")
			_ = b.SetReadDeadline(time.Time{})
			b.Silence(false)
			wantRead(t, b, "meanwhile")
			_, err = b.Write([]byte("x"))
			wantErr(t, err, syscall.EPIPE)
		},
		"deadlines hold to the nanosecond, and can be moved": func(t *testing.T, a, b *PipeConn) {
			begin := time.Now()
			_ = a.SetDeadline(begin.Add(time.Minute))
			_ = a.SetReadDeadline(begin.Add(time.Second))
			_, err := a.Read(make([]byte, 1))
			wantErr(t, err, os.ErrDeadlineExceeded)
			if d := time.Since(begin); d != time.Second {
				t.Errorf("the read took %v", d)
			}
			_, err = a.Write(make([]byte, 2*pipeBuffer))
			wantErr(t, err, os.ErrDeadlineExceeded)
			if d := time.Since(begin); d != time.Minute {
				t.Errorf("the write ended after %v", d)
			}
			_ = a.SetDeadline(time.Time{})
			send(t, b, "x")
			wantRead(t, a, "x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := Pipe()
				tell(t, a, b)
				a.Close()
				b.Close()
			})
		})
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestPipeListener(t *testing.T) {
	l := ListenPipe("203.0.113.1:80")
	seen := map[string]bool{}
	for range 300 {
		go func() {
			if c, err := l.Dial(t.Context()); err == nil {
				c.Close()
			}
		}()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		from := c.RemoteAddr().String()
		if host, _, err := net.SplitHostPort(from); err != nil || net.ParseIP(host) == nil || seen[from] {
			t.Fatalf("the connection comes from %s: %v", from, err)
		}
		seen[from] = true
		c.Close()
	}
	l.Close()
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept on a closed listener: %v", err)
	}
	if _, err := l.Dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "203.0.113.1:80") {
		t.Errorf("Dial of a closed listener: %v", err)
	}
}
