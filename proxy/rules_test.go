package proxy

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/engine"
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/proxytest"
)

// The rules for sessions, and the tests of this package that hold each of them for the running proxy:
//
//	1   handshakes          handshake_test.go; upstream_test.go, refusal_test.go
//	2   messages and frames TestAMessageGoesUpWhole, TestAReplayBeginsWithAFirstFrame,
//	                        TestControlFramesStayOnTheirLeg, TestHeartbeatsBeginAtRandomMoments…
//	3   drops               TestWhatIsADropAndWhatIsAnEnd, TestSilenceIsNoticed…,
//	                        TestAMessageThatIsRefusedTwiceEndsItsSession
//	4   resume, grace       clock_test.go
//	5   receipts            TestReceiptsAreAskedForInTime, TestAForgedPongProvesNothing, counted_test.go
//	6   an upstream's end   TestAnUpstreamsCloseReachesAClientThatIsAway, TestAnUpstreamsEnd
//	7   duplicates          TestDuplicatesAreDroppedOnceTheyWentUp,
//	                        TestAnIdThatWasNotHandedOverIsNotSeen
//	8   limits              limits_test.go
//	9   identity            TestWithOtherCredentials…, token_test.go
//	10  bad input           TestViolationsCostTheLegThatCommitsThem

// Rule 2: half a message can't be taken back when its client drops.
func TestAMessageGoesUpWhole(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.client("/?client_id=a")
		up := w.backend.Peer(0)
		send := func(b []byte) {
			t.Helper()
			if err := c.Send(b); err != nil {
				t.Fatal(err)
			}
			w.settle()
		}
		send(proxytest.Masked(ws.OpText, false, "one "))
		send(proxytest.Masked(ws.OpPing, true, "between"))
		send(proxytest.Masked(ws.OpContinuation, false, "and "))
		wantTexts(t, up, "before the message is whole")
		if n := len(c.Pongs()); n != 1 {
			t.Errorf("a ping between fragments got %d pongs", n)
		}
		last := proxytest.Masked(ws.OpContinuation, true, "a half")
		send(last[:5])
		send(last[5:])
		wantTexts(t, up, "the whole message", "one and a half")
		if n := up.Messages()[0].Frames; n != 3 {
			t.Errorf("the message came in %d frames, want 3 as it was sent", n)
		}
		send(proxytest.Masked(ws.OpText, false, "never "))
		send(last[:5])
		c.Drop()
		c = w.client("/?client_id=a")
		c.Say("another")
		w.settle()
		wantTexts(t, up, "after a drop in the middle", "one and a half", "another")
	})
}

func TestAReplayBeginsWithAFirstFrame(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.client("/?client_id=a")
		up := w.backend.Peer(0)
		send := func(b []byte) {
			t.Helper()
			if err := up.Send(b); err != nil {
				t.Fatal(err)
			}
			w.settle()
		}
		send(proxytest.Plain(ws.OpBinary, false, "first "))
		c.Drop()
		send(proxytest.Plain(ws.OpContinuation, false, "second "))
		c = w.client("/?client_id=a")
		send(proxytest.Plain(ws.OpContinuation, true, "third"))
		wantTexts(t, c, "the client", "first second third")
		if m := c.Messages()[0]; m.Op != ws.OpBinary || m.Frames != 3 {
			t.Errorf("the message came as %+v, want binary in 3 frames", m)
		}
		if n := w.session()["messages_down"]; n != 1.0 {
			t.Errorf("%v messages were counted, want 1", n)
		}
	})
}

// Rule 2. What is in a ping is the peer's business: it comes back exactly, and goes no further.
func TestControlFramesStayOnTheirLeg(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.client("/?client_id=a")
		up := w.backend.Peer(0)
		payloads := []string{"", "x", "\x00\xff\x1e\n", strings.Repeat("p", 125)}
		for _, side := range []*proxytest.Peer{c, up} {
			for _, p := range payloads {
				if err := side.Send(side.Frame(ws.OpPing, true, p)); err != nil {
					t.Fatal(err)
				}
				w.settle()
			}
			if err := side.Send(side.Frame(ws.OpPong, true, "unasked")); err != nil {
				t.Fatal(err)
			}
		}
		w.pass(time.Second)
		for name, side := range map[string]*proxytest.Peer{"client": c, "upstream": up} {
			var pongs []string
			for _, m := range side.Pongs() {
				pongs = append(pongs, m.Text)
			}
			if fmt.Sprintf("%q", pongs) != fmt.Sprintf("%q", payloads) {
				t.Errorf("the %s's pings were answered with %q, want %q", name, pongs, payloads)
			}
			if pings := side.Pings(); len(pings) != 0 {
				t.Errorf("the %s got pings: %v", name, pings)
			}
		}
		c.Drop()
		if err := up.Send(up.Frame(ws.OpPing, true, "nobody there?")); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if pongs := up.Pongs(); len(pongs) != len(payloads)+1 {
			t.Error("an upstream's ping has no answer while the client is away")
		}
	})
}

// Rules 3 and 4: 1001 is what browsers send for a reload as for a closed tab, 1005 is a Close without a
// code, and no Close at all is a lost network; only a code of session.end_on_close ends a session.
func TestWhatIsADropAndWhatIsAnEnd(t *testing.T) {
	for name, leave := range map[string]func(c *proxytest.Peer){
		"reset":       func(c *proxytest.Peer) { c.Drop() },
		"finished":    func(c *proxytest.Peer) { c.Conn.Close() },
		"half closed": func(c *proxytest.Peer) { _ = c.Conn.(*proxytest.PipeConn).CloseWrite() },
		"1001":        func(c *proxytest.Peer) { c.Close(1001, "") },
		"1005":        func(c *proxytest.Peer) { c.Close(1005, "") },
		"1011":        func(c *proxytest.Peer) { c.Close(1011, "oops") },
		"3999":        func(c *proxytest.Peer) { c.Close(3999, "") },
		"end 1000":    func(c *proxytest.Peer) { c.Close(1000, "bye") },
		"end 4001":    func(c *proxytest.Peer) { c.Close(4001, "logged out") },
	} {
		t.Run(name, func(t *testing.T) {
			ends := func(c *config.Config) { withEvents(c); c.Session.EndOnClose = []uint16{1000, 4001} }
			story(t, ends, func(t *testing.T, w *world) {
				c := w.client("/?client_id=a")
				up := w.backend.Peer(0)
				leave(c)
				w.settle()
				if code, ended := strings.CutPrefix(name, "end "); ended {
					wantTexts(t, up, "the upstream", tellJoined, tellLeft)
					if e := up.Ending(); fmt.Sprint(e.Code) != code || e.Reason != c.Ending().Reason {
						t.Errorf("the upstream heard %v, the client %v: want the client's own Close, %s", e, c.Ending(), code)
					}
					w.wantSessions(0, 0)
					return
				}
				wantTexts(t, up, "the upstream", tellJoined, tellAway)
				wantOpen(t, up, "the upstream")
				w.wantSessions(0, 1)
				if len(name) == 4 { // a Close is answered, also one that is a drop
					if e := c.Ending(); fmt.Sprint(uint16(e.Code)) != name || e.Err != io.EOF {
						t.Errorf("the client's Close was answered with %v", e)
					}
				}
			})
		})
	}
}

// A backend may send what its client can't take: a text that is not UTF-8, or one of a size that is too much for it. It gets that
// once more with the replay; that it won't have it is known when it closes again.
func TestAMessageThatIsRefusedTwiceEndsItsSession(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		refuse := func() {
			c := w.client("/?client_id=a")
			if w.settle(); len(c.Texts()) == 0 {
				w.backend.Peer(0).Say("too much")
				w.settle()
			}
			wantTexts(t, c, "the client", "too much")
			c.Close(1009, "")
			w.settle()
		}
		refuse()
		up := w.backend.Peer(0)
		wantTexts(t, up, "the upstream", tellJoined, tellAway)
		wantOpen(t, up, "the upstream")
		refuse()
		wantTexts(t, up, "the upstream", tellJoined, tellAway, tellReconnected, tellLeft)
		if e := up.Ending(); e.Code != 1009 {
			t.Errorf("the upstream heard %v, want the client's 1009", e)
		}
		w.wantSessions(0, 0)
		c := w.client("/?client_id=a")
		w.backend.Peer(1).Say("something else")
		w.settle()
		wantTexts(t, c, "with a session of its own", "something else")
	})
}

// Rule 5: a receipt is only for who got the question.
func TestAForgedPongProvesNothing(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.client("/?client_id=a")
		up := w.backend.Peer(0)
		c.Mute(true)
		up.Say("one", "two")
		w.pass(time.Second)
		old := c.Pings()[0].Text
		c.Drop()
		c = w.client("/?client_id=a")
		c.Mute(true)
		w.pass(time.Second)
		pong := func(p string) {
			t.Helper()
			if err := c.Send(c.Frame(ws.OpPong, true, p)); err != nil {
				t.Fatal(err)
			}
			w.pass(time.Second)
		}
		counter := func(nonce string, n uint64) string {
			return nonce[:8] + string(binary.BigEndian.AppendUint64(nil, n))
		}
		for n := range uint64(4) {
			pong(old)                                   // left over from another leg
			pong(counter(old, n))                       // with its nonce
			pong(counter(strings.Repeat("\x00", 8), n)) // a counter alone
			pong(counter(c.Pings()[0].Text, 1<<63+n))   // beyond what was asked
			pong(c.Pings()[0].Text + "x")               // almost
			pong(strings.Repeat("z", int(n)))           // anything
			pong(counter(c.Pings()[0].Text, 0))         // before what was asked
		}
		if n := w.session()["window_messages"]; n != 2.0 {
			t.Errorf("%v messages are kept after forged receipts, want 2", n)
		}
		w.wantMetric("tideover_receipted_messages_total", "0")
		// One pong may answer several pings (RFC 6455, section 5.5.3), and may come twice.
		first := c.Pings()[0].Text
		pong(first)
		pong(first)
		if n := w.session()["window_messages"]; n != 2.0 {
			t.Errorf("%v messages are kept after one good pong, want 2", n)
		}
		pong(c.Pings()[len(c.Pings())-1].Text)
		if n := w.session()["window_messages"]; n != 0.0 {
			t.Errorf("%v messages are kept after the second good pong, want none", n)
		}
	})
}

// Rule 6, for a client that is there.
func TestAnUpstreamsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		end            func(up *proxytest.Peer)
		keyed, counted uint16
	}{
		"Close 1000":  {func(up *proxytest.Peer) { up.Close(1000, "done") }, 1000, 1000},
		"Close 4000":  {func(up *proxytest.Peer) { up.Close(4000, "moved") }, 4000, 4000},
		"Close":       {func(up *proxytest.Peer) { up.Close(1005, "") }, 1005, 1005},
		"reset":       {func(up *proxytest.Peer) { up.Drop() }, 0, 1011},
		"end of file": {func(up *proxytest.Peer) { up.Conn.Close() }, 0, 1011},
		"violation":   {func(up *proxytest.Peer) { _ = up.Send([]byte{0xff}); _ = up.Send([]byte{0xff}) }, 1011, 1011},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, nil, func(t *testing.T, w *world) {
				keyed, counted := w.client("/?client_id=a"), w.counting("/")
				for _, up := range w.backend.Peers() {
					up.Say("last words")
					w.settle()
					c.end(up)
				}
				w.pass(2 * time.Second)
				wantTexts(t, keyed, "the client with a key", "last words")
				counted.wantData(t, "the client of tideover.v1", "last words")
				for who, want := range map[*proxytest.Peer]uint16{keyed: c.keyed, counted.Peer: c.counted} {
					if e := who.Ending(); uint16(e.Code) != want || e.Err == nil {
						t.Errorf("a client heard %v, want Close %d", e, want)
					}
				}
				w.wantSessions(0, 0)
			})
		})
	}
}

// Rule 7.
func TestDuplicatesAreDroppedOnceTheyWentUp(t *testing.T) {
	for _, scope := range []config.Scope{config.ScopeSession, config.ScopeGlobal} {
		t.Run(string(scope), func(t *testing.T) {
			story(t, func(c *config.Config) {
				c.Dedup = config.Dedup{Enabled: true, IDPath: "meta.id", TTL: time.Minute, MaxIDs: 100, Scope: scope}
			}, func(t *testing.T, w *world) {
				c, other := w.client("/?client_id=a"), w.client("/?client_id=b")
				up := w.backend.Peer(0)
				msg := func(id string) string { return `{"meta":{"id":` + id + `}}` }
				c.Say(msg(`"x"`), msg(`"x"`), msg(`"\u0078"`), msg("7"), msg("7.0"), msg(`"7"`), "no json", "no json")
				if err := c.Send(proxytest.Masked(ws.OpBinary, true, msg("7"))); err != nil {
					t.Fatal(err)
				}
				w.settle()
				want := []string{msg(`"x"`), msg("7"), msg(`"7"`), "no json", "no json", msg("7")}
				wantTexts(t, up, "the upstream", want...)

				// A retry after a drop: the whole message went up before, the half one did not.
				half := proxytest.Masked(ws.OpText, true, msg("8"))
				if err := c.Send(half[:len(half)-1]); err != nil {
					t.Fatal(err)
				}
				w.settle()
				c.Drop()
				c = w.client("/?client_id=a")
				c.Say(msg("7"), msg("8"), msg("8"))
				w.settle()
				want = append(want, msg("8"))
				wantTexts(t, up, "the upstream after the retry", want...)

				other.Say(msg("7"), msg("9"))
				w.settle()
				if scope == config.ScopeSession {
					wantTexts(t, w.backend.Peer(1), "another session's upstream", msg("7"), msg("9"))
				} else {
					wantTexts(t, w.backend.Peer(1), "another session's upstream", msg("9"))
				}
				w.pass(time.Minute + 1)
				c.Say(msg("7"))
				w.settle()
				wantTexts(t, up, "the upstream after dedup.ttl", append(want, msg("7"))...)
			})
		})
	}
}

// A lostLeg is a leg whose loss is known to the engine but has not been told yet.
type lostLeg struct{ engine.Leg }

func (lostLeg) Write([][]byte) int { return engine.Refused }

// Rule 7. The client's retry may well come in another session, where scope is global.
func TestAnIdThatWasNotHandedOverIsNotSeen(t *testing.T) {
	story(t, func(c *config.Config) { c.Dedup.Scope = config.ScopeGlobal }, func(t *testing.T, w *world) {
		c := w.client("/?client_id=a")
		c.Say(`{"id":1}`)
		w.settle()
		r := w.relay()
		defer r.release()
		swap := func(leg engine.Leg) (was engine.Leg) {
			r.mu.Lock()
			defer r.mu.Unlock()
			was, r.upstream = r.upstream, leg
			return was
		}
		was := swap(nil)
		swap(lostLeg{was})
		if err := c.Send(slices.Concat(proxytest.Masked(ws.OpText, true, `{"id":2}`), proxytest.Masked(ws.OpText, true, `{"id":3}`))); err != nil {
			t.Fatal(err)
		}
		w.settle()
		swap(was)
		other := w.client("/?client_id=b")
		other.Say(`{"id":1}`, `{"id":2}`, `{"id":3}`, `{"id":3}`)
		w.settle()
		wantTexts(t, w.backend.Peer(0), "the upstream before it was lost", `{"id":1}`)
		wantTexts(t, w.backend.Peer(1), "the upstream of the retry", `{"id":2}`, `{"id":3}`)
	})
}

// Rule 10. Each side's faults cost that leg, with the right code; the session lives on or ends as the
// rules say, and others feel nothing.
func TestViolationsCostTheLegThatCommitsThem(t *testing.T) {
	long := func(masked byte, length uint64) string {
		b := append([]byte{0x82, masked | 127}, binary.BigEndian.AppendUint64(nil, length)...)
		return string(append(b, 1, 2, 3, 4))
	}
	type fault struct {
		bytes string
		code  uint16
	}
	both := func(mask byte, body func(op ws.OpCode, fin bool, p string) []byte) map[string]fault {
		f := func(op ws.OpCode, fin bool, p string) string { return string(body(op, fin, p)) }
		return map[string]fault{
			"reserved bit":               {"\xc1" + string(mask) + "abcd", 1002},
			"unknown opcode":             {f(3, true, ""), 1002},
			"unknown control opcode":     {f(11, true, ""), 1002},
			"long control frame":         {string([]byte{0x89, mask | 126, 0, 126}), 1002},
			"fragmented control frame":   {f(ws.OpPing, false, ""), 1002},
			"continuation of nothing":    {f(ws.OpContinuation, true, "x"), 1002},
			"message in a message":       {f(ws.OpText, false, "x") + f(ws.OpText, true, "y"), 1002},
			"length with its top bit":    {long(mask, 1<<63), 1002},
			"huge length":                {long(mask, 1<<62), 1009},
			"over max_message_bytes":     {long(mask, 1<<20+1), 1009},
			"over it in fragments":       {f(ws.OpBinary, false, strings.Repeat("x", 1000)) + "\x80" + long(mask, 1<<20)[1:], 1009},
			"Close with half a code":     {f(ws.OpClose, true, "\x03"), 1002},
			"Close with a reserved code": {f(ws.OpClose, true, "\x03\xee"), 1002},
			"Close with a bad reason":    {f(ws.OpClose, true, "\x03\xe8\xff"), 1007},
		}
	}
	limited := func(c *config.Config) { withEvents(c); c.Limits.MaxMessageBytes = 1 << 20 }
	clients := both(0x80, proxytest.Masked)
	clients["not masked"] = fault{string(proxytest.Plain(ws.OpText, true, "x")), 1002}
	upstreams := both(0, proxytest.Plain)
	upstreams["masked"] = fault{string(proxytest.Masked(ws.OpText, true, "x")), 1002}
	for name, bad := range clients {
		t.Run("client: "+name, func(t *testing.T) {
			story(t, limited, func(t *testing.T, w *world) {
				c, other := w.client("/?client_id=a"), w.client("/?client_id=b")
				_ = c.Send([]byte(bad.bytes))
				w.settle()
				wantClose(t, c, "the client", bad.code)
				wantTexts(t, w.backend.Peer(0), "its upstream", tellJoined, tellAway)
				wantOpen(t, w.backend.Peer(0), "its upstream")
				wantOpen(t, other, "another client")
				w.client("/?client_id=a").Say("sorry")
				w.settle()
				wantTexts(t, w.backend.Peer(0), "its upstream", tellJoined, tellAway, tellReconnected, "sorry")
				if held := w.p.buffered.Load(); held > 8<<10 {
					t.Errorf("%d bytes are held for it", held)
				}
			})
		})
	}
	for name, bad := range upstreams {
		t.Run("upstream: "+name, func(t *testing.T) {
			story(t, limited, func(t *testing.T, w *world) {
				c, other := w.client("/?client_id=a"), w.client("/?client_id=b")
				up := w.backend.Peer(0)
				_ = up.Send([]byte(bad.bytes))
				w.settle()
				wantClose(t, up, "the upstream", bad.code)
				wantClose(t, c, "its client", frame.CodeInternalError)
				wantOpen(t, other, "another client")
				w.pass(time.Second)
				w.wantSessions(1, 0)
				w.wantMetric(`tideover_sessions_left_total{reason="upstream_fault"}`, "1")
			})
		})
	}
}
