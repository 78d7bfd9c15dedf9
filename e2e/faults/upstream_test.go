package faults

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A scripted backend says what its test wants right after its 101, and tells what it hears.
type scripted struct {
	addr  string
	heard chan seen
}

// A script is what a backend says: bytes, in pieces of at most so many octets. Then it goes on reading, and
// answers a Close unless its own was among the bytes, or it hangs up at once.
type script struct {
	bytes          string
	pieces         int
	closed, hangUp bool
}

// startScripted starts a backend that answers the request for /N with say(N).
func startScripted(t *testing.T, say func(n int) script) *scripted {
	s := &scripted{heard: make(chan seen, 1)}
	s.addr = proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, proxytest.SwitchingProtocols(header))
		var n int
		fmt.Sscanf(strings.Fields(header)[1], "/%d", &n)
		play := say(n)
		var heard seen
		if !play.hangUp {
			defer func() { s.heard <- heard }()
		}
		for bytes := play.bytes; len(bytes) > 0; {
			k := min(play.pieces, len(bytes))
			if _, err := io.WriteString(conn, bytes[:k]); err != nil {
				return
			}
			if bytes = bytes[k:]; play.pieces == 1 {
				time.Sleep(20 * time.Microsecond)
			}
		}
		if play.hangUp {
			return
		}
		for {
			f, err := readFrame(conn)
			if err != nil {
				heard.end = err.Error()
				return
			}
			if f.op() == closeOp {
				heard.close = f.code()
				if !play.closed {
					io.WriteString(conn, plain(fin|closeOp, f.payload))
				}
				return
			}
			if f.op() == pong {
				heard.pongs = append(heard.pongs, f.payload)
			}
			if !f.masked {
				heard.end = "a frame without a mask came from a client"
				return
			}
		}
	}).Addr()
	return s
}

// upstreamRoutes are the ways to a scripted backend.
func upstreamRoutes(backend, proxy string) []route {
	all := routes("straight", backend, proxy)
	for i := range all {
		key := ""
		if i == 2 {
			key = "?client_id="
		}
		all[i].target = func(id int) string {
			if key != "" {
				return fmt.Sprintf("/%d%s%d", id, key, id)
			}
			return fmt.Sprintf("/%d", id)
		}
	}
	return all
}

// A serverCase is what a backend sends, and what its client sees of it: through the proxy as straight, save
// for what breaks the protocol. That the proxy must not pass on; a strict client fails the connection with the
// code in fault (RFC 6455, section 7.1.7), and so does the proxy towards the backend, while its own client,
// who did nothing wrong, gets 1011.
type serverCase struct {
	name     string
	send     string
	messages []string
	pongs    []string // that the backend gets
	close    int      // that the client gets; 0: none
	fault    int
	hangUp   bool
}

// What a backend says, right or wrong, reaches the client through the proxy as straight.
func TestServerFrames(t *testing.T) {
	t.Parallel()
	cases := serverCases()
	pieces := 0
	s := startScripted(t, func(n int) script {
		c := cases[n]
		play := script{c.send, 1 << 20, c.close != 0, c.hangUp}
		if pieces == 1 && len(c.send) <= 150 {
			play.pieces = 1
		}
		return play
	})
	p := startProxy(t, s.addr)
	for _, r := range upstreamRoutes(s.addr, p.addr) {
		for pieces = 0; pieces < 2; pieces++ {
			for id, c := range cases {
				w, err := dial(r.addr, r.target(id), r.lines...)
				if err != nil {
					t.Fatalf("%s: %s: %v", r.name, c.name, err)
				}
				want := seen{messages: c.messages, close: c.close}
				if r.name == "straight" {
					if c.fault != 0 { // what a client does about that is its own affair
						w.Close()
						<-s.heard
						continue
					}
				} else {
					if c.fault != 0 {
						want.close = 1011
					}
					if want.close == 0 && r.lines != nil {
						want.close = 1011 // for a tideover.v1 client: there is nothing to be resumed
					}
				}
				var got seen
				if c.close == 0 && c.fault == 0 && !c.hangUp {
					got = watch(w, len(c.messages), -1)
					want.close = 1000
				} else {
					got = watch(w, -1, -1)
				}
				w.Close()
				if !slices.Equal(got.messages, want.messages) || got.close != want.close {
					t.Errorf("%s: %s:\ngot  %s\nwant %s", r.name, c.name, got, want)
				}
				if c.hangUp {
					continue
				}
				heard := <-s.heard
				answer := c.close // the answer to a Close has its code
				if r.name == "straight" && c.close != 0 || answer == 0 {
					answer = 1000
				}
				if c.fault != 0 {
					answer = c.fault
				}
				if heard.close != answer || !slices.Equal(heard.pongs, c.pongs) && r.name != "straight" {
					t.Errorf("%s: %s: the backend heard %s, want a Close with %d and pongs %q", r.name, c.name, heard, answer, c.pongs)
				}
			}
		}
	}
}

func serverCases() (all []serverCase) {
	good := func(name, send string, messages ...string) {
		all = append(all, serverCase{name: name, send: send, messages: messages})
	}
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 300_000} {
		good(fmt.Sprintf("%d bytes", n), plain(fin|text, filler(n))+plain(fin|binaryOp, filler(n)), "text: "+filler(n), "binary: "+filler(n))
	}
	good("lengths encoded too long", build(fin|text, "", "a", 16)+build(fin|text, "", "b", 64)+build(fin|text, "", "", 64), "text: a", "text: b", "text: ")
	good("fragments", plain(text, "a")+plain(continuation, "")+plain(continuation, "b")+plain(fin|continuation, "c")+plain(fin|binaryOp, "d"), "text: abc", "binary: d")
	good("empty fragments", plain(text, "")+plain(continuation, "")+plain(fin|continuation, ""), "text: ")
	good("text that is not UTF-8, for the client to judge", plain(fin|text, "a\xff")+plain(text, "\xc3")+plain(fin|continuation, "\x28"), "text: a\xff", "text: \xc3\x28")
	good("a character cut by fragments", plain(text, "\xc3")+plain(fin|continuation, "\xbc"), "text: ü")
	all = append(all,
		serverCase{name: "pings", send: plain(fin|ping, "") + plain(fin|ping, "\xff\x00") + plain(fin|ping, filler(125)) + plain(fin|text, "a"),
			messages: []string{"text: a"}, pongs: []string{"", "\xff\x00", filler(125)}},
		serverCase{name: "pings between fragments", send: plain(text, "a") + plain(fin|ping, "1") + plain(fin|pong, "x") + plain(continuation, "b") + plain(fin|ping, "2") + plain(fin|continuation, "c"),
			messages: []string{"text: abc"}, pongs: []string{"1", "2"}},
		serverCase{name: "hang-up", send: plain(fin|text, "a"), messages: []string{"text: a"}, hangUp: true},
		serverCase{name: "hang-up within a message", send: plain(fin|text, "a") + plain(text, "b"), messages: []string{"text: a"}, hangUp: true},
		serverCase{name: "hang-up at once", hangUp: true},
	)
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999, 1005} {
		payload := closePayload(code, "Grüße ✓")
		if code == 1005 {
			payload = ""
		}
		all = append(all, serverCase{name: fmt.Sprintf("close with %d", code), send: plain(fin|text, "a") + plain(fin|closeOp, payload), messages: []string{"text: a"}, close: code})
	}
	all = append(all, serverCase{name: "frames after the close", send: plain(fin|text, "a") + plain(fin|closeOp, closePayload(4000, "")) + plain(fin|closeOp, closePayload(4001, "")),
		messages: []string{"text: a"}, close: 4000})
	bad := func(name, send string, code int) {
		all = append(all, serverCase{name: name, send: plain(fin|text, "a") + send, messages: []string{"text: a"}, fault: code})
	}
	for bit := byte(0x10); bit <= 0x40; bit <<= 1 {
		bad(fmt.Sprintf("reserved bit %#x", bit), plain(fin|bit|text, "b"), 1002)
		bad(fmt.Sprintf("reserved bit %#x on a ping", bit), plain(fin|bit|ping, "b"), 1002)
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		bad(fmt.Sprintf("opcode %#x", op), plain(fin|op, "b"), 1002)
	}
	bad("masked", masked(fin|text, "b"), 1002)
	bad("masked ping", masked(fin|ping, "b"), 1002)
	bad("ping of 126 bytes", plain(fin|ping, filler(126)), 1002)
	bad("ping in fragments", plain(ping, "b"), 1002)
	bad("continuation without a start", plain(fin|continuation, "b"), 1002)
	bad("message within a message", plain(text, "b")+plain(fin|text, "c"), 1002)
	bad("length with its top bit set", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", 1002)
	bad("a message over the limit", "\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff", 1009)
	bad("close with half a code", plain(fin|closeOp, "\x03"), 1002)
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 2999, 5000} {
		bad(fmt.Sprintf("close with %d, which must not be sent", code), plain(fin|closeOp, closePayload(code, "")), 1002)
	}
	bad("close with a reason that is not UTF-8", plain(fin|closeOp, closePayload(1000, "\xff")), 1007)
	return all
}

// A Close's reason passes as it is, also the longest one.
func TestCloseReasonsPass(t *testing.T) {
	t.Parallel()
	reasons := []string{"", "Grüße ✓", strings.Repeat("r", 123), "\x00\n"}
	s := startScripted(t, func(n int) script {
		return script{plain(fin|closeOp, closePayload(4321, reasons[n])), 1 << 20, true, false}
	})
	p := startProxy(t, s.addr)
	for _, r := range upstreamRoutes(s.addr, p.addr) {
		for id, reason := range reasons {
			w := mustDial(t, r.addr, r.target(id), r.lines...)
			var f wireFrame
			for f.op() != closeOp {
				var err error
				if f, err = readFrame(w.r); err != nil {
					t.Fatal(err)
				}
			}
			if f.payload != closePayload(4321, reason) {
				t.Errorf("%s: the client got %q, want the reason %q", r.name, f.payload, reason)
			}
			io.WriteString(w, masked(fin|closeOp, f.payload))
			w.Close()
			<-s.heard
		}
	}

	m := startMirror(t)
	p = startProxy(t, m.addr)
	for id, reason := range reasons {
		target := keyed(id)
		w := mustDial(t, p.addr, target)
		io.WriteString(w, masked(fin|closeOp, closePayload(1000, reason)))
		eventually(t, func() error {
			f, err := readFrame(strings.NewReader(m.received(target)))
			if err != nil || f.payload != closePayload(1000, reason) {
				return fmt.Errorf("the backend got %q, %v; want the reason %q", f.payload, err, reason)
			}
			return nil
		})
	}
}
