package proxytest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Patience is how long tests wait for what must come.
const Patience = 60 * time.Second

// A Peer is one end of a WebSocket, a client's or a backend's, for tests. It reads in the
// background and keeps all that came; it answers pings and Closes unless it is told not
// to, and complains to its test about everything that RFC 6455 does not allow.
//
// Its methods may be called from any goroutine.
type Peer struct {
	Conn    net.Conn
	Request string         // a backend's: the header of the handshake that it got
	Answer  *http.Response // a client's: the 101

	t      testing.TB
	server bool // a backend's end: sends without mask, closes the connection after the Closes
	in     *bufio.Reader
	done   chan struct{} // closed when reading has ended

	write chan struct{} // full while somebody writes; a mutex would stop a bubble's clock

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with every news
	got     []Message
	pings   []Message
	pongs   []Message
	ending  Ending
	muted   bool
	held    bool
	closing bool // sent a Close
}

// A Message is what a Peer got, and when: a data message, or a ping or pong.
type Message struct {
	Op     ws.OpCode
	Text   string // its payload
	Frames int
	At     time.Time
}

// An Ending tells how a WebSocket ended.
type Ending struct {
	Code   ws.StatusCode // of the Close that came: 1005 if it had none, 0 if no Close came
	Reason string
	Err    error     // what reading ended with: io.EOF after an orderly end, nil before any
	At     time.Time // when the Close came or, without one, the end
}

func (e Ending) String() string {
	switch {
	case e.Code != 0 && e.Err != nil:
		return fmt.Sprintf("Close %d %q, then %v", e.Code, e.Reason, e.Err)
	case e.Code != 0:
		return fmt.Sprintf("Close %d %q", e.Code, e.Reason)
	case e.Err != nil:
		return e.Err.Error()
	}
	return "open"
}

// ClientRequest is a client's handshake for target with more header lines ("Name: value").
func ClientRequest(target string, lines ...string) string {
	request := "GET " + target + " HTTP/1.1\r\nHost: tideover.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + clientKey + "\r\n"
	for _, line := range lines {
		request += line + "\r\n"
	}
	return request + "\r\n"
}

const clientKey = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455 section 1.3, with the accept below

// OpenClient makes a client's handshake on conn, with request as ClientRequest builds it and in
// the same write whatever follows it there. Without a 101 the Peer is nil, and conn and the
// answer's body are still to be read and closed.
func OpenClient(t testing.TB, conn net.Conn, request string) (*Peer, *http.Response, error) {
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, answer, nil
	}
	if accept := answer.Header.Get("Sec-WebSocket-Accept"); accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("101 with Sec-WebSocket-Accept %q", accept)
	}
	return startPeer(&Peer{Conn: conn, Answer: answer, t: t, in: in}), answer, nil
}

func startPeer(p *Peer) *Peer {
	p.changed, p.done, p.write = make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	go p.read()
	p.t.Cleanup(func() {
		p.Hold(false)
		p.Conn.Close()
		<-p.done
	})
	return p
}

// Masked is a frame as clients send it, Plain one as servers do.
func Masked(op ws.OpCode, fin bool, payload string) []byte {
	f := ws.NewFrame(op, fin, []byte(payload)) // masking copies the payload
	return ws.MustCompileFrame(ws.MaskFrameWith(f, [4]byte{0xde, 0xad, 0xbe, 0xef}))
}

// Plain is a frame without a mask.
func Plain(op ws.OpCode, fin bool, payload string) []byte {
	return ws.MustCompileFrame(ws.NewFrame(op, fin, []byte(payload)))
}

// Frame is a frame as this side sends it.
func (p *Peer) Frame(op ws.OpCode, fin bool, payload string) []byte {
	if p.server {
		return Plain(op, fin, payload)
	}
	return Masked(op, fin, payload)
}

// Send writes raw bytes, with an error where that is not possible any more.
func (p *Peer) Send(b []byte) error {
	p.write <- struct{}{}
	defer func() { <-p.write }()
	_, err := p.Conn.Write(b)
	return err
}

// Say sends text messages, each in a write of its own. It is an error of the test if it can't.
func (p *Peer) Say(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		if err := p.Send(p.Frame(ws.OpText, true, text)); err != nil {
			p.t.Errorf("%s says %.40q: %v", p.name(), text, err)
		}
	}
}

// Close sends a Close frame, with an empty body for code 1005.
func (p *Peer) Close(code ws.StatusCode, reason string) {
	p.t.Helper()
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	if err := p.Send(p.Frame(ws.OpClose, true, closeBody(code, reason))); err != nil {
		p.t.Errorf("%s closes: %v", p.name(), err)
	}
}

func closeBody(code ws.StatusCode, reason string) string {
	if code == ws.StatusNoStatusRcvd {
		return ""
	}
	return string(ws.NewCloseFrameBody(code, reason))
}

// Drop ends the connection with a reset.
func (p *Peer) Drop() {
	conn := p.Conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	switch c := conn.(type) {
	case *PipeConn:
		c.Reset()
	case *net.TCPConn:
		abort(c)
	}
	p.Hold(false)
	<-p.done
}

// Mute decides whether pings and Closes stay without an answer.
func (p *Peer) Mute(on bool) { p.set(&p.muted, on) }

// Hold decides whether the peer stops reading, after what it is reading now.
func (p *Peer) Hold(on bool) { p.set(&p.held, on) }

func (p *Peer) set(flag *bool, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*flag = on
	p.tell()
}

// tell is called with mu held.
func (p *Peer) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Messages returns the data messages so far.
func (p *Peer) Messages() []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Message(nil), p.got...)
}

// Texts returns the payloads of the data messages so far.
func (p *Peer) Texts() []string {
	texts := []string{}
	for _, m := range p.Messages() {
		texts = append(texts, m.Text)
	}
	return texts
}

// Pings returns the pings that came so far, Pongs the pongs.
func (p *Peer) Pings() []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Message(nil), p.pings...)
}

// Pongs returns the pongs that came so far.
func (p *Peer) Pongs() []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Message(nil), p.pongs...)
}

// Ending tells how the WebSocket ended, if it has.
func (p *Peer) Ending() Ending {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ending
}

// Wait waits until cond holds, which is looked at whenever something came; what says what is
// waited for. It reports whether it came within Patience.
func (p *Peer) Wait(what string, cond func() bool) bool {
	p.t.Helper()
	late := time.NewTimer(Patience)
	defer late.Stop()
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if cond() {
			return true
		}
		select {
		case <-changed:
		case <-late.C:
			p.t.Errorf("%s waited in vain for %s; it got %d messages, ending: %v", p.name(), what, len(p.Messages()), p.Ending())
			return false
		}
	}
}

// WaitFor waits for n data messages, WaitEnd for the end of the connection.
func (p *Peer) WaitFor(n int) bool {
	p.t.Helper()
	return p.Wait(fmt.Sprintf("%d messages", n), func() bool { return len(p.Messages()) >= n })
}

// WaitEnd waits for the end of the connection and tells of it.
func (p *Peer) WaitEnd() Ending {
	p.t.Helper()
	p.Wait("its end", func() bool { return p.Ending().Err != nil })
	return p.Ending()
}

func (p *Peer) name() string {
	if p.server {
		return "the backend"
	}
	return "client " + p.Conn.LocalAddr().String()
}

func (p *Peer) read() {
	defer close(p.done)
	err := p.readFrames()
	p.Conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending.Err = err; p.ending.Code == 0 {
		p.ending.At = time.Now()
	}
	p.tell()
}

// readFrames returns the error that ended it.
func (p *Peer) readFrames() error {
	var message bytes.Buffer // under way
	var first ws.OpCode
	frames := 0
	for {
		p.waitHeld()
		h, err := ws.ReadHeader(p.in)
		if err != nil {
			return err
		}
		if err := p.check(h, frames > 0); err != nil {
			p.t.Errorf("%s got a bad frame: %v (%+v)", p.name(), err, h)
			return err
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(p.in, payload); err != nil {
			return fmt.Errorf("inside a frame of %d bytes: %w", h.Length, err)
		}
		if h.Masked {
			ws.Cipher(payload, h.Mask, 0)
		}
		if h.OpCode.IsControl() {
			if over := p.control(h.OpCode, string(payload)); over {
				return io.EOF
			}
			continue
		}
		if frames++; frames == 1 {
			first = h.OpCode
		}
		message.Write(payload)
		if h.Fin {
			if first == ws.OpText && !utf8.Valid(message.Bytes()) {
				p.t.Errorf("%s got a text message that is no UTF-8: %.60q", p.name(), message.Bytes())
			}
			p.mu.Lock()
			p.got = append(p.got, Message{first, message.String(), frames, time.Now()})
			p.tell()
			p.mu.Unlock()
			message.Reset()
			frames = 0
		}
	}
}

func (p *Peer) waitHeld() {
	for {
		p.mu.Lock()
		held, changed := p.held, p.changed
		p.mu.Unlock()
		if !held {
			return
		}
		<-changed
	}
}

// check is what sections 5.2, 5.4 and 5.5 of RFC 6455 demand of a frame.
func (p *Peer) check(h ws.Header, inMessage bool) error {
	p.mu.Lock()
	closed := p.ending.Code != 0
	p.mu.Unlock()
	switch {
	case closed:
		return errors.New("a frame after the Close")
	case h.Length > 256<<20:
		return errors.New("too long for a test")
	}
	state := ws.StateClientSide
	if p.server {
		state = ws.StateServerSide
	}
	if inMessage {
		state |= ws.StateFragmented
	}
	return ws.CheckHeader(h, state)
}

// control takes a control frame and reports whether the connection is over.
func (p *Peer) control(op ws.OpCode, payload string) (over bool) {
	now := time.Now()
	p.mu.Lock()
	muted, closing := p.muted, p.closing
	switch op {
	case ws.OpPing:
		p.pings = append(p.pings, Message{op, payload, 1, now})
	case ws.OpPong:
		p.pongs = append(p.pongs, Message{op, payload, 1, now})
	case ws.OpClose:
		code, reason := ws.StatusNoStatusRcvd, ""
		if payload != "" {
			code, reason = ws.ParseCloseFrameData([]byte(payload))
		}
		p.ending.Code, p.ending.Reason, p.ending.At = code, reason, now
		if !muted {
			p.closing = true
		}
	}
	p.tell()
	p.mu.Unlock()
	switch {
	case op == ws.OpPing && !muted:
		_ = p.Send(p.Frame(ws.OpPong, true, payload)) // a loss shows when reading goes on
	case op == ws.OpClose && !muted && !closing:
		_ = p.Send(p.Frame(ws.OpClose, true, payload))
	}
	// The server closes the connection first (section 7.1.1).
	return op == ws.OpClose && p.server && !muted
}
