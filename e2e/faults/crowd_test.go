package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A crowd is many clients that talk to a backend and come back whenever they are cut off. Each checks what it
// hears: in order, nothing missing, and, where it speaks tideover.v1, nothing twice.
type crowd struct {
	backend *backend
	members []*member
	done    sync.WaitGroup
	peer    *peer
}

// A member is one client: what it does at its leisure, and what it has seen.
type member struct {
	name    string
	counted bool // speaks tideover.v1; else it resends, with an id, what has not been answered
	dial    func(ctx context.Context) (net.Conn, error)
	pace    time.Duration
	patient time.Duration // silence after which it gives a connection up and makes another, at first; 0: endless
	lossy   bool          // its session may be lost for good: it then begins anew

	stop    chan struct{}
	present *wire
	inVain  int // connections in a row that it gave up before they brought anything new

	mu       sync.Mutex
	faults   []string
	session  int  // the backend's connection
	sessions int  // of them, so far
	seen     int  // the highest message of it
	first    int  // its own first message on it
	answered int  // the latest of its own messages that the backend has answered
	said     int  // the highest that it has sent
	bye      int  // the number of its last one, once it has been sent
	last     bool // the answer to that has come,
	closed   bool // and the Close behind it has been answered
	token    string
	legs     int
	twice    int
	codes    map[int]int // of Closes
	failed   int         // connections that could not be made
}

func (m *member) fault(format string, args ...any) {
	if len(m.faults) < 5 {
		m.faults = append(m.faults, m.name+": "+fmt.Sprintf(format, args...))
	}
}

// gather starts count clients and a peer, who is best connected where nothing can cut it off; every third client
// speaks tideover.v1. edit may change them before they start, and says where they connect if that is elsewhere.
func gather(t *testing.T, b *backend, count int, peerDial func(ctx context.Context) (net.Conn, error), edit func(i int, m *member)) *crowd {
	t.Helper()
	c := &crowd{backend: b}
	b.mu.Lock()
	begun := len(b.sessions)
	b.mu.Unlock()
	c.peer = watchPeers(t, peerDial)
	c.peer.from = begun + 1
	for i := range count {
		m := &member{
			name: fmt.Sprintf("c%d", i), counted: i%3 == 2, dial: peerDial, pace: 100 * time.Millisecond, patient: 3 * time.Second,
			stop: make(chan struct{}), codes: map[int]int{}, first: 1,
		}
		if edit != nil {
			edit(i, m)
		}
		c.members = append(c.members, m)
		c.done.Go(m.live)
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			m.hush()
			m.mu.Lock()
			m.closed = true // also one that is at its wits' end
			if m.present != nil {
				m.present.abort()
			}
			m.mu.Unlock()
		}
		c.done.Wait()
	})
	return c
}

// dialer connects to addr as the system does.
func dialer(addr string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
}

func (m *member) hush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.stop:
	default:
		close(m.stop)
	}
}

// finish lets everybody say goodbye, waits until all have heard everything, and checks what both sides saw.
func (c *crowd) finish(t *testing.T, p *proxy) {
	t.Helper()
	for _, m := range c.members {
		m.hush()
	}
	gone := make(chan struct{})
	go func() {
		c.done.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(patience):
		late := c.backend.faults
		for _, m := range c.members {
			m.mu.Lock()
			if !m.closed {
				late = append(late, fmt.Sprintf("%s (counted %t, session %d, seen %d, said %d, answered %d, bye %d, legs %d, failed %d)", m.name, m.counted, m.session, m.seen, m.said, m.answered, m.bye, m.legs, m.failed))
			}
			m.mu.Unlock()
		}
		t.Fatalf("not all of %d clients have heard their last message: %s", len(c.members), strings.Join(late[:min(8, len(late))], "\n"))
	}
	eventually(t, c.backend.check)
	legs, twice, sessions, heard, failed, codes := 0, 0, 0, 0, 0, map[int]int{}
	for _, m := range c.members {
		m.mu.Lock()
		for _, f := range m.faults {
			t.Error(f)
		}
		legs, twice, sessions, failed = legs+m.legs, twice+m.twice, sessions+m.sessions, failed+m.failed
		for code, n := range m.codes {
			codes[code] += n
		}
		m.mu.Unlock()
	}
	for _, s := range c.backend.sessions {
		heard += s.count
	}
	c.peer.check(t, c.backend)
	t.Logf("%d clients: %d connections (%d more failed), %d sessions, %d messages up, %d came twice down, closes %v", len(c.members), legs, failed, sessions, heard, twice, codes)
	if p == nil {
		return
	}
	// Nothing is left behind.
	for _, name := range []string{`tideover_sessions{state="attached"}`, `tideover_sessions{state="away"}`, "tideover_buffer_bytes"} {
		p.waitMetric(t, name, is(0))
	}
	all := p.mustMetrics(t)
	if lost := all["tideover_overflow_dropped_messages_total"]; lost != 0 {
		t.Errorf("%v messages were dropped", lost)
	}
}

// live is a client's life.
func (m *member) live() {
	for {
		m.mu.Lock()
		closed := m.closed
		m.mu.Unlock()
		if closed {
			return
		}
		w, err := m.connect()
		if err != nil {
			m.mu.Lock()
			m.failed++
			m.mu.Unlock()
			time.Sleep(50*time.Millisecond + rand.N(200*time.Millisecond))
			continue
		}
		m.leg(w)
	}
}

func (m *member) connect() (*wire, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m.mu.Lock()
	dial := m.dial
	m.mu.Unlock()
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var lines []string
	if m.counted {
		offer := "Sec-WebSocket-Protocol: tideover.v1"
		m.mu.Lock()
		if m.token != "" {
			offer += fmt.Sprintf(", tideover.resume.%s.%d", m.token, m.seen)
		}
		m.mu.Unlock()
		lines = append(lines, offer)
	}
	return open(conn, "/chat?client_id="+m.name, lines...)
}

// leg is what a client does with one connection, until it ends.
func (m *member) leg(w *wire) {
	defer w.Close()
	w.SetDeadline(time.Time{})
	m.mu.Lock()
	m.legs++
	m.present = w
	if m.last {
		m.mu.Unlock()
		m.sayClose(w) // once more
		return
	}
	next := m.answered + 1 // what a client without tideover.v1 begins with
	m.mu.Unlock()
	welcomed := make(chan int, 1)
	ended := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		if m.counted {
			select {
			case next = <-welcomed:
			case <-ended:
				return
			}
		}
		m.talk(w, next, ended)
	})
	err := m.hearAll(w, welcomed)
	close(ended)
	if err != errGone {
		w.Close() // and talk comes to its end
	}
	writer.Wait()
}

// talk says what there is to say, from message number next on: at once what was said before, then more at its pace.
func (m *member) talk(w *wire, next int, ended chan struct{}) {
	acked := 0
	stop := m.stop
	for {
		m.mu.Lock()
		fresh := next > m.said
		bye, seen := m.bye, m.seen
		m.mu.Unlock()
		if fresh && bye == 0 {
			select {
			case <-ended:
				return
			case <-stop:
				bye = next
				m.mu.Lock()
				m.bye = bye
				m.mu.Unlock()
			case <-time.After(m.pace/2 + rand.N(m.pace)):
			}
		} else if bye != 0 && next > bye {
			select {
			case <-ended:
				return
			case <-time.After(m.pace):
			}
		}
		out := ""
		if m.counted && seen > acked {
			acked = seen
			out = masked(fin|text, fmt.Sprintf(`%s{"type":"ack","received":%d}`, "\x1e", seen))
		}
		if bye == 0 || next <= bye {
			text_ := upText{Client: m.name, N: next, Bye: next == bye, Pad: pad()}
			if !m.counted {
				text_.ID = fmt.Sprintf("%s-%d", m.name, next)
			}
			body, _ := json.Marshal(text_)
			m.mu.Lock()
			m.said = max(m.said, next)
			m.mu.Unlock()
			if len(body) > 1000 && next%2 == 0 { // in fragments
				out += masked(text, string(body[:100])) + masked(continuation, string(body[100:900])) + masked(fin|continuation, string(body[900:]))
			} else {
				out += masked(fin|text, string(body))
			}
			next++
		}
		w.sending.Lock()
		_, err := io.WriteString(w, out)
		w.sending.Unlock()
		if err != nil {
			return
		}
	}
}

// errGone ends a connection that a client has given up without closing it.
var errGone = errors.New("given up")

// hearAll reads until the connection ends.
func (m *member) hearAll(w *wire, welcomed chan int) error {
	begun := false
	body := ""
	for {
		if m.patient > 0 {
			// A client that is never patient enough for a busy machine would never be done.
			w.SetReadDeadline(time.Now().Add(m.patient << min(m.inVain, 6)))
		}
		f, err := readFrame(w.r)
		if err != nil {
			if !begun && errors.Is(err, os.ErrDeadlineExceeded) {
				m.inVain++
			}
			return err
		}
		switch f.op() {
		case ping:
			w.sending.Lock()
			_, err = io.WriteString(w, masked(fin|pong, f.payload))
			w.sending.Unlock()
			if err != nil {
				return err
			}
		case closeOp:
			m.mu.Lock()
			m.codes[f.code()]++
			if f.code() == 4404 {
				if !m.lossy {
					m.fault("its session is gone: %q", f.payload)
				}
				m.anew()
			}
			m.mu.Unlock()
			w.sending.Lock()
			io.WriteString(w, masked(fin|closeOp, f.payload))
			w.sending.Unlock()
			return io.EOF
		case text, continuation:
			if body += f.payload; f.first&fin == 0 {
				continue
			}
			if m.counted && strings.HasPrefix(body, "\x1e") {
				m.control(body[1:], welcomed)
			} else if m.hear(body, &begun) {
				m.sayClose(w)
				return io.EOF
			}
			if begun {
				m.inVain = 0
			}
			body = ""
		}
	}
}

// anew forgets a session that is gone.
func (m *member) anew() { m.token, m.seen, m.session = "", 0, 0 }

// sayClose closes in order, after the last message.
func (m *member) sayClose(w *wire) {
	w.sending.Lock()
	io.WriteString(w, bye)
	w.sending.Unlock()
	w.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		f, err := readFrame(w.r)
		if err != nil {
			return // for all it knows, the Close has not arrived
		}
		if f.op() == closeOp {
			m.mu.Lock()
			m.closed = true
			m.mu.Unlock()
			return
		}
	}
}

func (m *member) control(body string, welcomed chan int) {
	var c struct {
		Type, Token string
		Resumed     bool
		Received    int
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		m.fault("a control message that is none: %q", body)
	}
	switch c.Type {
	case "welcome":
		if c.Resumed != (m.token != "") {
			m.fault("welcomed with resumed %t, with the token %q", c.Resumed, m.token)
		}
		m.token = c.Token
		if !c.Resumed {
			m.first = m.answered + 1
		}
		welcomed <- m.first + c.Received
	case "gap":
		m.fault("told of a gap: %s", body)
	}
}

// hear takes one message and reports whether it was the last.
func (m *member) hear(body string, begun *bool) bool {
	var d downText
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := json.Unmarshal([]byte(body), &d); err != nil {
		m.fault("heard what nobody said: %.100q", body)
		return false
	}
	if d.S != m.session {
		if m.session != 0 && !m.lossy {
			m.fault("session %d was lost after message %d: session %d begins", m.session, m.seen, d.S)
		}
		m.session, m.seen = d.S, 0
		m.sessions++
	}
	switch again := m.seen - d.K + 1; {
	case again < 0:
		m.fault("session %d: message %d came where %d was due", d.S, d.K, m.seen+1)
	case again > 0 && *begun:
		m.fault("session %d: message %d came again within a connection, after %d", d.S, d.K, m.seen)
	case again > 0 && m.counted:
		m.fault("session %d: message %d came twice, though %d had been counted", d.S, d.K, m.seen)
	}
	if d.K <= m.seen {
		m.twice++
	} else {
		*begun = true
	}
	m.seen = max(m.seen, d.K)
	m.answered = max(m.answered, d.Ack)
	if d.Last {
		m.last = true
	}
	return d.Last
}

// Ways to lose a connection.
var cuts = []func(w *wire){
	func(w *wire) { w.abort() }, // reset
	func(w *wire) { w.Close() }, // end of file, or a reset where something is unread
	func(w *wire) { // end of file, while what is on its way is still read
		if half, ok := w.Conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	},
	func(w *wire) { w.SetReadDeadline(time.Unix(1, 0)) }, // given up by the client alone
}

// cut makes one client lose its connection.
func (m *member) cut(how func(w *wire)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.present != nil {
		how(m.present)
	}
}

// A peer is somebody else, who is never cut off and is told what becomes of the others.
type peer struct {
	w    *wire
	done chan struct{}

	mu     sync.Mutex
	seen   int
	events map[int][]string
	faults []string
	ended  error
	from   int // the first of the backend's connections that it was there for
}

func watchPeers(t *testing.T, dial func(ctx context.Context) (net.Conn, error)) *peer {
	t.Helper()
	conn, err := dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w, err := open(conn, "/peer?client_id=peer")
	if err != nil {
		t.Fatal(err)
	}
	w.SetDeadline(time.Time{})
	p := &peer{w: w, done: make(chan struct{}), events: map[int][]string{}}
	go func() {
		defer close(p.done)
		for {
			f, err := w.message()
			if err != nil {
				p.mu.Lock()
				p.ended = err
				p.mu.Unlock()
				return
			}
			var d downText
			json.Unmarshal([]byte(f.payload), &d)
			p.mu.Lock()
			if d.K != p.seen+1 {
				p.faults = append(p.faults, fmt.Sprintf("the peer heard message %d after %d", d.K, p.seen))
			}
			p.seen = d.K
			p.events[d.Of] = append(p.events[d.Of], d.Event)
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		w.Close()
		<-p.done
	})
	return p
}

// check compares what the peer was told with what the backend knows, and lets the peer go.
func (p *peer) check(t *testing.T, b *backend) {
	t.Helper()
	want := b.eventsOf()
	for number := range p.from {
		delete(want, number)
	}
	eventually(t, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.faults) > 0 {
			return errors.New(p.faults[0])
		}
		for number, events := range want {
			if !slices.Equal(p.events[number], events) {
				return fmt.Errorf("of connection %d the peer, whose own has ended with %v, was told %v, the backend %v", number, p.ended, p.events[number], events)
			}
		}
		return nil
	})
	if len(want) != len(p.events) {
		t.Errorf("the peer knows of %d connections, the backend of %d: %v", len(p.events), len(want), slices.Sorted(maps.Keys(p.events)))
	}
	p.w.SetWriteDeadline(time.Now().Add(patience))
	io.WriteString(p.w, bye)
	<-p.done
}
