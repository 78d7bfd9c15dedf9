package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// An upText is what a client says to its backend, or what the proxy says of it.
type upText struct {
	ID     string `json:"id,omitempty"` // absent from clients that count for themselves
	Client string `json:"client"`
	N      int    `json:"n,omitempty"` // counts a client's messages, from 1
	Bye    bool   `json:"bye,omitempty"`
	Event  string `json:"event,omitempty"`
	Pad    string `json:"pad,omitempty"`
}

// A downText is what a backend says.
type downText struct {
	S      int    `json:"s"`             // the backend's connection
	K      int    `json:"k"`             // counts what it says there, from 1
	Ack    int    `json:"ack,omitempty"` // the client's message that this answers
	Last   bool   `json:"last,omitempty"`
	Event  string `json:"event,omitempty"` // what has become
	Client string `json:"client,omitempty"`
	Of     int    `json:"of,omitempty"` // of the client with that connection
	Pad    string `json:"pad,omitempty"`
}

// A backend numbers what it says and checks what it hears: each client's messages come in order, none is
// missing and none comes twice, on each connection. It talks all the time, answers each message, and tells
// those on the path /peer of every event.
type backend struct {
	addr string
	pace time.Duration // about that long between two things that it says by itself
	hurt bool          // connections may break, which takes away whoever could say that a client has left

	mu       sync.Mutex
	sessions []*upSession
	peers    []*upSession
	faults   []string
}

// An upSession is a connection that the backend has.
type upSession struct {
	number int
	client string
	events []string
	heard  int    // the latest message
	count  int    // of messages
	ended  string // how

	conn    net.Conn
	writing sync.Mutex
	said    int
	bye     chan struct{}
	byeOnce sync.Once
}

// startBackend serves on ln until the test ends.
func startBackend(t *testing.T, ln net.Listener, pace time.Duration) *backend {
	b := &backend{addr: ln.Addr().String(), pace: pace}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		b.mu.Lock()
		for _, s := range slices.Concat(b.sessions, b.peers) {
			s.conn.Close()
		}
		b.mu.Unlock()
		conns.Wait()
	})
	return b
}

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (b *backend) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) < 20 {
		b.faults = append(b.faults, fmt.Sprintf(format, args...))
	}
}

func (b *backend) serve(conn net.Conn) {
	defer conn.Close()
	s := &upSession{conn: conn, bye: make(chan struct{})}
	r, header, err := acceptWire(conn)
	if err != nil {
		return
	}
	target, err := url.Parse(strings.Fields(header)[1])
	if err != nil {
		b.fault("the proxy asks for a target that is none: %v", err)
		return
	}
	s.client = target.Query().Get("client_id")
	b.mu.Lock()
	if target.Path == "/peer" {
		b.peers = append(b.peers, s)
	} else {
		b.sessions = append(b.sessions, s)
		s.number = len(b.sessions)
		go b.talk(s)
	}
	b.mu.Unlock()
	ended := b.listen(s, r)
	s.byeOnce.Do(func() { close(s.bye) })
	b.mu.Lock()
	s.ended = ended
	b.mu.Unlock()
}

// say sends one numbered message.
func (b *backend) say(s *upSession, text_ downText) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.said++
	text_.S, text_.K = s.number, s.said
	raw, _ := json.Marshal(text_)
	body := string(raw)
	if s.said%5 == 0 { // in fragments
		body = plain(text, body[:5]) + plain(fin|ping, body[:3]) + plain(fin|continuation, body[5:])
	} else {
		body = plain(fin|text, body)
	}
	io.WriteString(s.conn, body) // an error ends listen too
}

func (b *backend) talk(s *upSession) {
	for {
		select {
		case <-s.bye:
			return
		case <-time.After(b.pace/2 + rand.N(b.pace)):
			b.say(s, downText{Pad: pad()})
		}
	}
}

// pad is a filler of some size: mostly small, at times large.
func pad() string {
	switch n := rand.IntN(100); {
	case n < 80:
		return filler(rand.IntN(200))
	case n < 98:
		return filler(rand.IntN(8 << 10))
	}
	return filler(rand.IntN(80 << 10))
}

// listen hears what comes on a connection until it ends.
func (b *backend) listen(s *upSession, r io.Reader) (ended string) {
	body := ""
	for {
		f, err := readFrame(r)
		if err != nil {
			return err.Error()
		}
		switch f.op() {
		case ping:
			s.writing.Lock()
			io.WriteString(s.conn, plain(fin|pong, f.payload))
			s.writing.Unlock()
		case closeOp:
			s.writing.Lock()
			io.WriteString(s.conn, plain(fin|closeOp, f.payload))
			s.writing.Unlock()
			return fmt.Sprintf("closed with %d", f.code())
		case text, continuation:
			if body += f.payload; f.first&fin == 0 {
				continue
			}
			var m upText
			if err := json.Unmarshal([]byte(body), &m); err != nil || m.Client != s.client {
				b.fault("connection %d of client %s: received %.100q, %v", s.number, s.client, body, err)
			} else {
				b.hear(s, m)
			}
			body = ""
		}
	}
}

func (b *backend) hear(s *upSession, m upText) {
	if m.Event != "" {
		b.mu.Lock()
		s.events = append(s.events, m.Event)
		peers := slices.Clone(b.peers)
		b.mu.Unlock()
		if s.number == 0 { // of a peer
			return
		}
		for _, p := range peers {
			b.say(p, downText{Event: m.Event, Client: s.client, Of: s.number})
		}
		return
	}
	if s.heard != 0 && m.N != s.heard+1 {
		b.fault("connection %d of client %s: message %d came after message %d", s.number, s.client, m.N, s.heard)
	}
	b.mu.Lock()
	s.heard = m.N
	s.count++
	b.mu.Unlock()
	if m.Bye {
		s.byeOnce.Do(func() { close(s.bye) })
	}
	b.say(s, downText{Ack: m.N, Last: m.Bye, Pad: pad()})
}

// acceptWire reads a handshake and answers it.
func acceptWire(conn net.Conn) (io.Reader, string, error) {
	r, header, err := readHeader(conn)
	if err != nil {
		return nil, "", err
	}
	_, err = io.WriteString(conn, switching(header))
	return r, header, err
}

// check says what is wrong with what the backend has heard. Events are balanced on each connection, as its peers are told: joined first, away and
// reconnected in turn, left last, once.
func (b *backend) check() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) > 0 {
		return fmt.Errorf("%s", strings.Join(b.faults, "\n"))
	}
	for _, s := range b.sessions {
		if s.ended == "" {
			return fmt.Errorf("connection %d of client %s is still open; events: %v", s.number, s.client, s.events)
		}
		if len(s.events) == 0 && s.count == 0 {
			continue // its client went before it had its own 101, which is nobody's business
		}
		state := ""
		for i, e := range s.events {
			ok := false
			switch e {
			case "joined":
				ok = i == 0
			case "away":
				ok = state == "joined" || state == "reconnected"
			case "reconnected":
				ok = state == "away"
			case "left":
				ok = i == len(s.events)-1 && i > 0
			}
			if !ok {
				return fmt.Errorf("connection %d of client %s: events %v are not balanced", s.number, s.client, s.events)
			}
			state = e
		}
		if state != "left" && !(b.hurt && !strings.HasPrefix(s.ended, "closed")) {
			return fmt.Errorf("connection %d of client %s, which %s: events %v do not end with left", s.number, s.client, s.ended, s.events)
		}
	}
	return nil
}

// eventsOf lists what became of each client, by connection.
func (b *backend) eventsOf() map[int][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[int][]string{}
	for _, s := range b.sessions {
		if len(s.events) > 0 {
			all[s.number] = slices.Clone(s.events)
		}
	}
	return all
}
