package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/proxytest"
	"github.com/tideover/tideover/proxy/resume"
)

// A counting is a client that speaks tideover.v1.
type counting struct{ *proxytest.Peer }

func (w *world) counting(target string, lines ...string) counting {
	w.t.Helper()
	return counting{w.client(target, append(lines, "Sec-WebSocket-Protocol: tideover.v1")...)}
}

// resume comes back with a token; whether that is a good one, its ending or welcome tells.
func (w *world) resume(token string, received any, lines ...string) counting {
	w.t.Helper()
	return counting{w.client("/", append(lines, fmt.Sprintf("Sec-WebSocket-Protocol: tideover.v1, tideover.resume.%s.%v", token, received))...)}
}

// A control is any control message.
type control struct {
	Type, Session, Token, Protocol string
	Resumed                        bool
	Received, From, To             uint64
	GraceMS                        int64 `json:"grace_ms"`
}

func (c counting) split() (controls []control, data []string) {
	for _, text := range c.Texts() {
		rest, special := strings.CutPrefix(text, "\x1e")
		if !special || strings.HasPrefix(rest, "\x1e") {
			data = append(data, rest)
			continue
		}
		var msg control
		if err := json.Unmarshal([]byte(rest), &msg); err != nil {
			msg.Type = err.Error()
		}
		controls = append(controls, msg)
	}
	return controls, data
}

func (c counting) welcome(t *testing.T) control {
	t.Helper()
	texts := c.Texts()
	controls, _ := c.split()
	if len(controls) == 0 || controls[0].Type != "welcome" || !strings.HasPrefix(texts[0], "\x1e{") {
		t.Fatalf("got %q (%v), want a welcome first", texts, c.Ending())
	}
	return controls[0]
}

func (c counting) wantData(t *testing.T, what string, want ...string) {
	t.Helper()
	if _, data := c.split(); !reflect.DeepEqual(data, want) {
		t.Errorf("%s: got %q, want %q", what, data, want)
	}
}

func (c counting) ack(n uint64) { c.Say(string(resume.AppendAck(nil, n))) }

func TestWelcomeComesFirst(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.backend.Answers(func(header string) string {
			return proxytest.SwitchingProtocols(header, "Sec-WebSocket-Protocol: chat.v2", "X-Node: 7") + string(proxytest.Plain(ws.OpText, true, "early"))
		})
		c := counting{w.client("/room", "Sec-WebSocket-Protocol: chat.v1, tideover.v1, chat.v2")}
		if got := c.Answer.Header["Sec-Websocket-Protocol"]; !reflect.DeepEqual(got, []string{"tideover.v1"}) {
			t.Errorf("the 101 selects %q, want tideover.v1", got)
		}
		if got := c.Answer.Header.Get("X-Node"); got != "7" {
			t.Errorf("the 101 has X-Node %q, want the upstream's", got)
		}
		up := w.backend.Peer(0)
		if got := proxytest.HeaderValues(up.Request, "Sec-WebSocket-Protocol"); !reflect.DeepEqual(got, []string{"chat.v1, chat.v2"}) {
			t.Errorf("the upstream was offered %q, want the application's subprotocols", got)
		}
		got := c.welcome(t)
		want := control{Type: "welcome", Session: got.Session, Token: got.Token, Protocol: "chat.v2", GraceMS: 30_000}
		if got != want || len(got.Session) != idChars || len(got.Token) != tokenSize || !strings.HasPrefix(got.Token, got.Session) {
			t.Errorf("welcome is %+v", got)
		}
		c.wantData(t, "the client", "early")
		w.drop(c)
		again := w.resume(got.Token, 1).welcome(t)
		want = control{Type: "welcome", Session: got.Session, Token: again.Token, Resumed: true, Protocol: "chat.v2", GraceMS: 30_000}
		if again != want || again.Token == got.Token {
			t.Errorf("welcome of the resume is %+v after %+v", again, got)
		}
		if n := len(w.backend.Peers()); n != 1 {
			t.Errorf("%d upstreams were dialled, want 1", n)
		}
	})
}

func TestWithoutApplicationProtocolsTheUpstreamIsOfferedNone(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.counting("/")
		if got := proxytest.HeaderValues(w.backend.Peer(0).Request, "Sec-WebSocket-Protocol"); got != nil {
			t.Errorf("the upstream was offered %q", got)
		}
		if got := c.welcome(t).Protocol; got != "" {
			t.Errorf("welcome tells of the protocol %q", got)
		}
		// A token that is no token still is no business of the upstream's.
		w.resume("nonsense", 0)
		if n := len(w.backend.Peers()); n != 1 {
			t.Errorf("%d upstreams were dialled, want 1", n)
		}
	})
}

// Resuming before there was any message, again and again, is a normal case.
func TestResumeBeforeTheFirstMessage(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		c := w.counting("/")
		for range 3 {
			token := c.welcome(t).Token
			c.Drop()
			w.pass(time.Second)
			c = w.resume(token, 0)
			if got := c.welcome(t); !got.Resumed || got.Received != 0 {
				t.Fatalf("welcome of the resume is %+v", got)
			}
		}
		up := w.backend.Peer(0)
		up.Say("the first")
		c.Say("the first of mine")
		w.settle()
		c.wantData(t, "the client", "the first")
		wantTexts(t, up, "the upstream", tellJoined, tellAway, tellReconnected, tellAway, tellReconnected, tellAway, tellReconnected, "the first of mine")
	})
}

// Claiming more than was ever sent is refused, and costs the session nothing.
func TestMoreReceivedThanSentIsRefused(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		c := w.counting("/")
		token := c.welcome(t).Token
		up := w.backend.Peer(0)
		up.Say("one", "two")
		w.settle()
		wantClose(t, w.resume(token, 3).Peer, "3 of 2 messages received", frame.CodeProtocolError)
		wantClose(t, w.resume(token, uint64(resume.MaxCount)).Peer, "all that can be counted received", frame.CodeProtocolError)
		wantOpen(t, c.Peer, "the attached client")
		w.drop(c)
		up.Say("three")
		w.settle()
		wantClose(t, w.resume(token, 4).Peer, "4 of 3 messages received", frame.CodeProtocolError)
		// The third one waits: nobody can have it yet.
		wantClose(t, w.resume(token, 3).Peer, "a message received that was never handed over", frame.CodeProtocolError)
		w.wantSessions(0, 1)
		wantTexts(t, up, "the upstream", tellJoined, tellAway)
		c = w.resume(token, 2)
		if got := c.welcome(t); !got.Resumed {
			t.Errorf("welcome is %+v", got)
		}
		c.wantData(t, "the client", "three")
	})
}

func TestUnreadableCountsAreUnknownSessions(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.counting("/")
		token := c.welcome(t).Token
		for _, received := range []string{"-1", "NaN", "1e3", "1.5", "01", "", "0x1", "9007199254740992", "18446744073709551616", "99999999999999999999999", "+1", "1_0"} {
			wantClose(t, w.resume(token, received).Peer, "received="+received, resume.CodeGone)
		}
		wantOpen(t, c.Peer, "the attached client")
		if n := len(w.backend.Peers()); n != 1 {
			t.Errorf("%d upstreams were dialled, want 1", n)
		}
		w.resume(token, 0).welcome(t)
	})
}

// An acknowledgement beyond what was sent costs the client leg, not the session.
func TestAnAcknowledgementBeyondWhatWasSentIsAProtocolError(t *testing.T) {
	for _, bad := range []string{
		`{"type":"ack","received":2}`, `{"type":"ack","received":-1}`, `{"type":"ack","received":1e300}`, `{"type":"ack"}`,
		`{"type":"ack","received":"1"}`, `{`, `[]`, `null`, strings.Repeat(" ", resume.MaxControl) + "{}",
	} {
		story(t, nil, func(t *testing.T, w *world) {
			c := w.counting("/")
			token := c.welcome(t).Token
			w.backend.Peer(0).Say("one")
			w.settle()
			c.Say("\x1e" + bad)
			w.settle()
			wantClose(t, c.Peer, "after "+fmt.Sprintf("%.40q", bad), frame.CodeProtocolError)
			w.wantSessions(0, 1)
			w.resume(token, 0).wantData(t, "after the resume", "one")
		})
	}
}

func TestAHangingLegIsSuperseded(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		c := w.counting("/")
		up := w.backend.Peer(0)
		up.Say("one")
		w.settle()
		token := c.welcome(t).Token
		second := w.resume(token, 1)
		second.welcome(t)
		wantClose(t, c.Peer, "the superseded leg", resume.CodeSuperseded)

		// Half-open: nobody hears the Close, and much later the system tells of the loss.
		hanging := second
		hanging.Conn.(*proxytest.PipeConn).Silence(true)
		third := w.resume(second.welcome(t).Token, 1)
		w.pass(time.Second)
		hanging.Drop()
		w.pass(2 * closeTimeout)
		third.Say("still here")
		w.settle()
		wantOpen(t, third.Peer, "the leg that superseded")
		wantTexts(t, up, "the upstream", tellJoined, "still here")
		w.wantMetric("tideover_supersedes_total", "2")
	})
}

// Identity is the token alone.
func TestTabsWithOneKeyAreTwoSessions(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		plain := w.client("/?client_id=a")
		first, second := w.counting("/?client_id=a"), w.counting("/?client_id=a")
		if first.welcome(t).Session == second.welcome(t).Session {
			t.Error("two tabs share a session")
		}
		first.Drop()
		w.settle()
		w.resume(first.welcome(t).Token, 0).welcome(t)
		for i, c := range []*proxytest.Peer{plain, second.Peer} {
			wantOpen(t, c, fmt.Sprintf("tab %d", i))
		}
		if n := len(w.backend.Peers()); n != 3 {
			t.Errorf("%d upstreams were dialled, want 3", n)
		}
		wantTexts(t, w.backend.Peer(0), "the first upstream", tellJoined)
		wantTexts(t, w.backend.Peer(1), "the second upstream", tellJoined, tellAway, tellReconnected)
	})
}

func TestCountingClientsGetEachMessageOnce(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.counting("/")
		up := w.backend.Peer(0)
		up.Say("1", "2", "\x1e3", "4")
		w.settle()
		c.wantData(t, "the client", "1", "2", "\x1e3", "4")
		c.ack(2)
		c.Say("a", "\x1e\x1eb", "\x1e"+`{"type":"ping"}`, "\x1e"+`{"type":"something new"}`)
		asked := time.Now()
		w.pass(time.Second)
		controls, _ := c.split()
		if len(controls) != 3 || controls[1].Type != "pong" || controls[2].Type != "ack" || controls[2].Received != 2 {
			t.Errorf("control messages are %+v, want welcome, pong, ack of 2", controls)
		}
		for _, m := range c.Messages()[5:] {
			wait := m.At.Sub(asked)
			if strings.Contains(m.Text, `"ack"`) && wait > 250*time.Millisecond {
				t.Errorf("the acknowledgement came after %v, want at most 250 ms", wait)
			}
		}
		wantTexts(t, up, "the upstream", "a", "\x1eb")
		if n := w.session()["window_messages"]; n != 2.0 {
			t.Errorf("%v messages wait for an acknowledgement, want 2", n)
		}
		w.drop(c)
		up.Say("5")
		w.settle()
		c = w.resume(c.welcome(t).Token, 3)
		if got := c.welcome(t); got.Received != 2 {
			t.Errorf("welcome says that %d messages were received, want 2", got.Received)
		}
		c.wantData(t, "after the resume", "4", "5")
	})
}

func TestALostMessageIsToldAsAGap(t *testing.T) {
	story(t, func(c *config.Config) {
		c.Replay.Overflow = config.OverflowDropOldest
		c.Replay.MaxMessages = 3
	}, func(t *testing.T, w *world) {
		c := w.counting("/")
		up := w.backend.Peer(0)
		up.Say("1")
		w.settle()
		w.drop(c)
		for i := 2; i <= 9; i++ {
			up.Say(fmt.Sprint(i))
		}
		w.settle()
		again := w.resume(c.welcome(t).Token, 1)
		controls, _ := again.split()
		if len(controls) != 2 || controls[1].Type != "gap" || controls[1].From != 2 || controls[1].To != 6 {
			t.Errorf("control messages are %+v, want a gap from 2 to 6", controls)
		}
		again.wantData(t, "after the gap", "7", "8", "9")
		w.wantMetric("tideover_gaps_total", "1")
		w.wantMetric("tideover_overflow_dropped_messages_total", "6") // 1 too, which had been received
	})
}

func TestARefusedCountingClientGetsTheUpstreamsAnswer(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.backend.Answers(func(string) string { return proxytest.Refusal(403, "Forbidden", "no") })
		wantRefused(t, w.try("/", "Sec-WebSocket-Protocol: tideover.v1"), "tideover.v1", http.StatusForbidden)
	})
}
