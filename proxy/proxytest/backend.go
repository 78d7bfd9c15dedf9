package proxytest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Backend is an upstream that accepts WebSockets and gives each of them to the test as a
// Peer. Serve makes it an Upstream: ServeUpstream(t, listener, backend.Serve).
type Backend struct {
	t testing.TB

	mu      sync.Mutex
	answer  func(header string) string
	peers   []*Peer
	changed chan struct{} // closed and replaced with every new peer
}

// NewBackend returns a Backend that answers every handshake with a 101 and selects no
// subprotocol.
func NewBackend(t testing.TB) *Backend {
	return &Backend{t: t, changed: make(chan struct{})}
}

// Answers sets what handshakes are answered with from now on; nil is what NewBackend begins with.
// What begins with a 101 opens a WebSocket, frames behind it included; after anything
// else the connection is closed.
func (b *Backend) Answers(answer func(header string) string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

// Serve is one connection's handshake and WebSocket; it returns at its end.
func (b *Backend) Serve(conn net.Conn, header string) {
	b.mu.Lock()
	answer := b.answer
	b.mu.Unlock()
	text := ""
	if answer != nil {
		text = answer(header)
	} else {
		text = SwitchingProtocols(header)
	}
	if _, err := io.WriteString(conn, text); err != nil || !strings.HasPrefix(text, "HTTP/1.1 101 ") {
		return
	}
	p := startPeer(&Peer{Conn: conn, Request: header, t: b.t, server: true, in: bufio.NewReader(conn)})
	b.mu.Lock()
	b.peers = append(b.peers, p)
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
	<-p.done
}

// Peers returns all WebSockets so far, in the order of their handshakes' ends.
func (b *Backend) Peers() []*Peer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*Peer(nil), b.peers...)
}

// Peer returns the i-th WebSocket since the start, counted from 0, and waits for it if need be.
func (b *Backend) Peer(i int) *Peer {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for {
		b.mu.Lock()
		changed := b.changed
		var p *Peer
		if i < len(b.peers) {
			p = b.peers[i]
		}
		b.mu.Unlock()
		if p != nil {
			return p
		}
		select {
		case <-changed:
		case <-ctx.Done():
			b.t.Fatalf("the backend waited in vain for its WebSocket number %d", i)
		}
	}
}

// Late delays each answer to a handshake, as a slow backend does.
func (b *Backend) Late(by time.Duration) {
	b.Answers(func(header string) string {
		time.Sleep(by)
		return SwitchingProtocols(header)
	})
}

// Refusal is a complete HTTP answer with a body, for Answers.
func Refusal(status int, text, body string, lines ...string) string {
	answer := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Length: %d\r\n", status, text, len(body))
	for _, line := range lines {
		answer += line + "\r\n"
	}
	return answer + "\r\n" + body
}
