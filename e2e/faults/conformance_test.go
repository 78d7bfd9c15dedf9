package faults

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// A frameCase is what a client sends once its WebSocket is open, and what a server that keeps to RFC 6455
// answers. The same goes straight to backends and through the proxy, in one piece and octet by octet.
type frameCase struct {
	name     string
	send     string
	messages []string // that come back, as "text: …" or "binary: …"
	pongs    []string // their payloads
	close    int      // code that the server closes with; 0: it does not, until the client does, with 1000

	// What differs, and why: straight from a backend that is not as strict as the RFC, or through the proxy.
	deviations map[string]deviation
}

// A deviation is what comes instead of what a frameCase says.
type deviation struct {
	messages []string
	close    int
	why      string
}

// noClose is how a deviation tells of a connection that ends without a Close.
const noClose = -1

// Who is connected to whom. A deviation under "proxied" holds for each of the last three.
const (
	gorilla = "gorilla straight"
	npm     = "npm straight"
	proxied = "proxied"
)

// A seen is what a client has seen on a connection.
type seen struct {
	messages, pongs []string
	close           int
	end             string // how the connection ended: "in order", or why not
}

// bye is the Close of a client that has nothing left to say.
var bye = masked(fin|closeOp, closePayload(1000, "bye"))

// watch reads until the end of the connection. It answers pings, which only the proxy sends here, and a Close;
// once there have been so many messages (-1: never) and pongs (-1: any) it closes by itself. Messages of
// tideover.v1 are not counted.
func watch(w *wire, messages, pongs int) (s seen) {
	var message string
	for done := false; ; {
		if !done && len(s.messages) == messages && (pongs < 0 || len(s.pongs) == pongs) {
			// Not before: the proxy answers a Close itself, at once, and what the backend would have said
			// until its own answer is lost. Straight to the backend it would have come.
			done = true
			io.WriteString(w, bye)
		}
		f, err := readFrame(w.r)
		if err == io.EOF {
			s.end = "in order"
			return s
		}
		if err != nil {
			s.end = err.Error()
			return s
		}
		if s.close != 0 {
			s.end = fmt.Sprintf("a frame came after the Close: %#x %q", f.first, f.payload)
			return s
		}
		switch f.op() {
		case ping:
			if w.sending.TryLock() { // else this pong would fall into the middle of a frame
				io.WriteString(w, masked(fin|pong, f.payload))
				w.sending.Unlock()
			}
			continue
		case pong:
			s.pongs = append(s.pongs, f.payload)
			continue
		case closeOp:
			s.close = f.code()
			io.WriteString(w, masked(fin|closeOp, closePayload(1000, "")))
			continue
		case text:
			message = "text: "
		case binaryOp:
			message = "binary: "
		}
		message += f.payload
		if f.first&fin != 0 && !strings.HasPrefix(message, "text: \x1e") {
			s.messages = append(s.messages, message)
		}
	}
}

// A route is a way to a server.
type route struct {
	name   string
	addr   string
	target func(id int) string
	lines  []string // of the handshake
}

func unkeyed(int) string { return "/m" }
func keyed(id int) string {
	return fmt.Sprintf("/m?client_id=%d", id)
}

// routes are the ways to a backend: straight, relayed without grace, as a session, and as a session of a
// client that speaks tideover.v1.
func routes(straight, backend, proxy string) []route {
	return []route{
		{straight, backend, unkeyed, nil},
		{"proxied, unkeyed", proxy, unkeyed, nil},
		{"proxied, keyed", proxy, keyed, nil},
		{"proxied, tideover.v1", proxy, unkeyed, []string{"Sec-WebSocket-Protocol: tideover.v1"}},
	}
}

// try opens a WebSocket, sends bytes in pieces of at most so many octets, and watches what comes.
func (r route) try(id int, send string, pieces, messages, pongs int) (seen, error) {
	w, err := dial(r.addr, r.target(id), r.lines...)
	if err != nil {
		return seen{}, err
	}
	defer w.Close()
	sent := make(chan struct{})
	w.sending.Lock()
	go func() { // a server that answers what has not been sent whole must not be waited for
		defer close(sent)
		defer w.sending.Unlock()
		for len(send) > 0 {
			n := min(pieces, len(send))
			if _, err := io.WriteString(w, send[:n]); err != nil {
				return
			}
			send = send[n:]
			if pieces == 1 {
				// Nagle's algorithm is off; this keeps the octets apart.
				time.Sleep(20 * time.Microsecond)
			}
		}
	}()
	s := watch(w, messages, pongs)
	w.Close()
	<-sent
	return s, nil
}

// The frames of a client, through the proxy as straight to the backend, whatever the backend is.
func TestClientFrames(t *testing.T) {
	t.Parallel()
	backends := map[string]string{gorilla: startGorilla(t), npm: startNpm(t)}
	for name, backend := range backends {
		p := startProxy(t, backend)
		for _, r := range routes(name, backend, p.addr) {
			t.Run(strings.TrimSuffix(name, " straight")+"/"+r.name, func(t *testing.T) {
				t.Parallel()
				for id, c := range frameCases {
					want := seen{c.messages, c.pongs, c.close, "in order"}
					where := r.name
					if where != name {
						where = proxied
					}
					if d, ok := c.deviations[where]; ok {
						want.messages, want.close = d.messages, d.close
					}
					messages, pongs := -1, -1
					switch want.close {
					case 0:
						want.close, messages, pongs = 1000, len(want.messages), len(want.pongs)
					case noClose:
						want.close = 0
					}
					for _, pieces := range []int{len(c.send), 1} {
						if pieces == 1 && (len(c.send) > 150 || where != proxied) {
							continue
						}
						got, err := r.try(2*id+min(pieces, 2), c.send, pieces, messages, pongs)
						if err != nil {
							t.Fatalf("%s: %v", c.name, err)
						}
						if where != proxied {
							got.end = want.end // a backend may well reset what it has closed
						}
						if !got.equal(want) {
							t.Errorf("%s, in pieces of %d:\ngot  %s\nwant %s", c.name, pieces, got, want)
						}
					}
				}
			})
		}
	}
}

func (s seen) equal(o seen) bool {
	return slices.Equal(s.messages, o.messages) && slices.Equal(s.pongs, o.pongs) && s.close == o.close && s.end == o.end
}

func (s seen) String() string {
	cut := func(all []string) string {
		var b strings.Builder
		for i, one := range all {
			if i == 12 {
				fmt.Fprintf(&b, " … %d more", len(all)-i)
				break
			}
			fmt.Fprintf(&b, " %.60q", one)
		}
		return b.String()
	}
	return fmt.Sprintf("messages%s, pongs%s, closed with %d, ended %s", cut(s.messages), cut(s.pongs), s.close, s.end)
}

// What passes does so untouched: the same frames with the same masks upstream, with the same encodings of
// their lengths both ways, and control frames stay on their leg.
func TestFramesPassVerbatim(t *testing.T) {
	t.Parallel()
	m := startMirror(t)
	p := startProxy(t, m.addr)
	for _, r := range routes("straight", m.addr, p.addr)[1:] {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for id, c := range frameCases {
				if c.close != 0 {
					continue
				}
				var up []string   // data frames as they are sent
				var down []string // and as they should come back
				for rest := strings.NewReader(c.send); rest.Len() > 0; {
					at := len(c.send) - rest.Len()
					f, bits, err := readRaw(rest)
					if err != nil {
						t.Fatalf("%s: the case is no sequence of frames: %v", c.name, err)
					}
					if f.op() < closeOp {
						up = append(up, c.send[at:len(c.send)-rest.Len()])
						down = append(down, build(f.first, "", f.payload, bits))
					}
				}
				target := fmt.Sprintf("%s%s%d-%s", r.target(id), map[bool]string{true: "&", false: "?"}[strings.Contains(r.target(id), "?")], id, r.name[9:10])
				w, err := dial(p.addr, target, r.lines...)
				if err != nil {
					t.Fatal(err)
				}
				go io.WriteString(w, c.send)
				want, got := strings.Join(down, ""), ""
				for len(got) < len(want) {
					f, bits, err := readRaw(w.r)
					if err != nil {
						break
					}
					if f.op() < closeOp && (f.first != fin|text || !strings.HasPrefix(f.payload, "\x1e")) {
						got += build(f.first, "", f.payload, bits)
					}
				}
				io.WriteString(w, bye)
				watch(w, -1, -1)
				w.Close()
				if got != want {
					t.Errorf("%s: the client got %d bytes %.80q, want %d bytes %.80q", c.name, len(got), got, len(want), want)
				}
				eventually(t, func() error {
					want := strings.Join(up, "")
					if got := m.received(target); !strings.HasPrefix(got, want) {
						return fmt.Errorf("%s: the backend got %d bytes %.80q, want %d bytes %.80q first", c.name, len(got), got, len(want), want)
					} else if rest := got[len(want):]; len(rest) < 2 || rest[0]&0x0f < closeOp {
						return fmt.Errorf("%s: after the messages the backend got %.80q, want only control frames", c.name, rest)
					}
					return nil
				})
			}
		})
	}
}

// Many clients at once, each with its frames in pieces of every size: the edges of reads fall anywhere.
func TestFramesInPiecesOfEverySize(t *testing.T) {
	t.Parallel()
	m := startMirror(t)
	p := startProxy(t, m.addr)
	var send string
	var want []string
	for i := range 40 {
		payload := strings.Repeat(string(rune('a'+i%26)), i*7%300)
		want = append(want, "text: "+payload+"!?")
		send += masked(text, payload) + masked(fin|ping, fmt.Sprint(i)) + masked(continuation, "!") + masked(fin|continuation, "?")
	}
	for _, r := range routes("", m.addr, p.addr)[1:] {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, pieces := range []int{2, 3, 5, 7, 11, 13, 64, 127, 333, 1000, 4095, 4096, 4097} {
				s, err := r.try(pieces, send, pieces, len(want), 40)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(s.messages, want) || len(s.pongs) != 40 || s.close != 1000 {
					t.Errorf("in pieces of %d: %s", pieces, s)
				}
			}
		})
	}
}

// A client that sends its first frames together with the handshake loses none of them.
func TestFramesThatComeWithTheHandshake(t *testing.T) {
	t.Parallel()
	m := startMirror(t)
	p := startProxy(t, m.addr)
	for _, r := range routes("straight", m.addr, p.addr) {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		w, err := open(earlyConn{conn, masked(fin|text, "early") + masked(fin|binaryOp, "bird")}, r.target(1), r.lines...)
		if err != nil {
			t.Fatal(err)
		}
		if s := watch(w, 2, 0); !slices.Equal(s.messages, []string{"text: early", "binary: bird"}) || s.close != 1000 {
			t.Errorf("%s: %s", r.name, s)
		}
	}
}

// An earlyConn sends more with what it sends.
type earlyConn struct {
	net.Conn
	more string
}

func (c earlyConn) Write(b []byte) (int, error) {
	if !strings.HasPrefix(string(b), "GET ") {
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(append(slices.Clone(b), c.more...))
	return min(n, len(b)), err
}
