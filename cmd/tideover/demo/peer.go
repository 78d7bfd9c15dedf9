package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

const peerWrite = 5 * time.Second

// peer is a simulated user: it sits in one room, talks when told to, and
// listens all the time. Its own connection is never broken.
type peer struct {
	name string
	conn net.Conn

	sending sync.Mutex // whole frames: answers to pings go out beside messages
	stopped chan struct{}
}

// newPeer connects to the TCP address addr, and returns once the room has said
// that name joined. Everything heard from then on goes to heard, in order, on
// one goroutine that ends with the connection.
func newPeer(ctx context.Context, addr, room, name, clientID string, heard func(chatMessage)) (*peer, error) {
	query := url.Values{"room": {room}, "username": {name}, "client_id": {clientID}}
	target := url.URL{Scheme: "ws", Host: addr, Path: "/chat", RawQuery: query.Encode()}
	dialer := ws.Dialer{Timeout: dialTimeout}
	conn, early, _, err := dialer.Dial(ctx, target.String())
	if err != nil {
		return nil, fmt.Errorf("let %s join the chat at %s: %w", name, addr, err)
	}
	var source io.Reader = conn
	if early != nil {
		source = early // the dialer read on past the handshake
	}
	p := &peer{name: name, conn: conn, stopped: make(chan struct{})}
	joined := make(chan struct{})
	go p.listen(source, joined, heard)
	select {
	case <-joined:
		return p, nil
	case <-p.stopped:
		err = io.ErrUnexpectedEOF
	case <-time.After(dialTimeout):
		err = context.DeadlineExceeded
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.close()
	return nil, fmt.Errorf("let %s join the chat at %s: wait for its greeting: %w", name, addr, err)
}

func (p *peer) listen(source io.Reader, joined chan struct{}, heard func(chatMessage)) {
	defer close(p.stopped)
	defer p.conn.Close()
	incoming := newReader(source, ws.StateClientSide)
	for {
		text, err := readText(incoming, p, ws.StateClientSide)
		if err != nil {
			return
		}
		var m chatMessage
		if json.Unmarshal(text, &m) != nil {
			continue // the backend passes on whatever it gets
		}
		if joined != nil && m.Type == "user_joined" && m.Username == p.name {
			close(joined)
			joined = nil
		}
		heard(m)
	}
}

// say sends one chat message; a nil error means that it's on its way.
func (p *peer) say(m chatMessage) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = p.Write(ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewTextFrame(text))))
	return err
}

// Write sends whole frames.
func (p *peer) Write(frame []byte) (int, error) {
	p.sending.Lock()
	defer p.sending.Unlock()
	p.conn.SetWriteDeadline(time.Now().Add(peerWrite))
	return p.conn.Write(frame)
}

// close leaves the room, as a browser's ws.close(1000) does, and waits until
// the peer has stopped listening.
func (p *peer) close() {
	farewell := ws.MaskFrameInPlace(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
	_, _ = p.Write(ws.MustCompileFrame(farewell)) // it may be gone already
	p.conn.Close()
	<-p.stopped
}
