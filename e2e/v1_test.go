package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// dialV1 opens a WebSocket that offers these subprotocols, whatever they are.
func dialV1(t *testing.T, p *proxy, protocols string, lines ...string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, handshake("/", append(lines, "Sec-WebSocket-Protocol: "+protocols)...))
	buffered := bufio.NewReader(conn)
	response, err := http.ReadResponse(buffered, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Sec-WebSocket-Protocol") != "tideover.v1" {
		t.Fatalf("offering %q: answer %+v, %v; want 101 and tideover.v1", protocols, response, err)
	}
	return &rawClient{conn, buffered}
}

type welcome struct {
	Type, Session, Token string
	Resumed              bool
	Received             int
}

func (c *rawClient) welcome(t *testing.T) (w welcome) {
	t.Helper()
	text := c.readText(t)
	if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "\x1e")), &w); err != nil || w.Type != "welcome" || text[0] != 0x1e {
		t.Fatalf("received %q, want a welcome", text)
	}
	return w
}

func offer(token string, received any) string {
	return fmt.Sprintf("tideover.v1, tideover.resume.%s.%v", token, received)
}

// wantData reads the application's messages, control messages aside.
func (c *rawClient) wantData(t *testing.T, want ...string) {
	t.Helper()
	for _, text := range want {
		got := c.readText(t)
		for strings.HasPrefix(got, "\x1e") && !strings.HasPrefix(got, "\x1e\x1e") {
			got = c.readText(t)
		}
		if got != text {
			t.Fatalf("received %q, want %q", got, text)
		}
	}
}

// wantAck reads up to this acknowledgement.
func (c *rawClient) wantAck(t *testing.T, count int) {
	t.Helper()
	want := fmt.Sprintf("\x1e"+`{"type":"ack","received":%d}`, count)
	for c.readText(t) != want {
	}
}

// boundToken makes resumes show the same Authorization as the first handshake.
var boundToken = settings{"session.bind": []string{"header:Authorization"}, "session.grace": "60s"}

// Tokens that are forged, stale, of another session, or shown with a count that cannot be, get 4404 or 1002;
// the session they were aimed at is left as it was, attached or away, and no upstream is dialled.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, nil), quietly(boundToken))
	const gone, broken = ws.StatusCode(4404), ws.StatusProtocolError
	for _, attached := range []bool{true, false} {
		t.Run(map[bool]string{true: "attached", false: "away"}[attached], func(t *testing.T) {
			victim := dialV1(t, p, "tideover.v1", "Authorization: mine")
			stale := victim.welcome(t)
			victim.Close()
			victim = dialV1(t, p, offer(stale.Token, 0), "Authorization: mine")
			older := victim.welcome(t)
			victim.Close()
			victim = dialV1(t, p, offer(older.Token, 0), "Authorization: mine") // older is now in use, stale no longer good
			now := victim.welcome(t)
			victim.sendText(t, "one")
			victim.sendText(t, "two")
			victim.wantData(t, "one", "two")
			if !attached {
				victim.Close()
			}
			other := dialV1(t, p, "tideover.v1", "Authorization: mine").welcome(t)

			id := len(now.Session)
			flipped := []byte(now.Token)
			if at := len(flipped) - 2; flipped[at] != 'A' {
				flipped[at] = 'A'
			} else {
				flipped[at] = 'B'
			}
			for name, c := range map[string]struct {
				offer string
				as    string
				code  ws.StatusCode
			}{
				"forged secret":                   {offer(now.Token[:id]+strings.Repeat("A", len(now.Token)-id), 0), "mine", gone},
				"one character off":               {offer(string(flipped), 0), "mine", gone},
				"id alone":                        {offer(now.Session, 0), "mine", gone},
				"another session's secret":        {offer(now.Token[:id]+other.Token[id:], 0), "mine", gone},
				"own secret, another session":     {offer(other.Token[:id]+now.Token[id:], 0), "mine", gone},
				"stale, two generations":          {offer(stale.Token, 0), "mine", gone},
				"longer":                          {offer(now.Token+"A", 0), "mine", gone},
				"shorter":                         {offer(now.Token[:len(now.Token)-1], 0), "mine", gone},
				"none":                            {offer("", 0), "mine", gone},
				"very long":                       {offer(strings.Repeat("A", 3000), 0), "mine", gone},
				"other credentials":               {offer(now.Token, 0), "theirs", gone},
				"two tokens":                      {offer(now.Token, 0) + ", tideover.resume." + other.Token + ".0", "mine", gone},
				"received -1":                     {offer(now.Token, -1), "mine", gone},
				"received no number":              {offer(now.Token, "NaN"), "mine", gone},
				"received missing":                {"tideover.v1, tideover.resume." + now.Token, "mine", gone},
				"received 1.5":                    {offer(now.Token, "1.5"), "mine", gone},
				"received 2^64":                   {offer(now.Token, "18446744073709551616"), "mine", gone},
				"received 2^53":                   {offer(now.Token, "9007199254740992"), "mine", gone},
				"received one more than was sent": {offer(now.Token, 3), "mine", broken},
				"received 2^53 - 1":               {offer(now.Token, "9007199254740991"), "mine", broken},
			} {
				t.Run(name, func(t *testing.T) {
					dialV1(t, p, c.offer, "Authorization: "+c.as).wantClose(t, c.code)
				})
			}

			if attached { // still
				victim.sendText(t, "three")
				victim.wantData(t, "three")
				victim.Close()
			} else {
				late := dialV1(t, p, offer(now.Token, 1), "Authorization: mine")
				if w := late.welcome(t); !w.Resumed || w.Received != 2 || w.Session != now.Session {
					t.Errorf("welcome is %+v, want the session %s with 2 messages", w, now.Session)
				}
				late.wantData(t, "two")
			}
		})
	}
	if dialled := metric(t, p, "tideover_sessions_opened_total"); dialled != 4 {
		t.Errorf("%v sessions were opened, want the 4 proper ones", dialled)
	}
}

// A token is used up once its successor has been used, and good for as long as that has not happened: replaying it
// takes the session over only from whoever has it by the same token.
func TestReplayedTokens(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, nil), quietly(nil))
	first := dialV1(t, p, "tideover.v1")
	one := first.welcome(t).Token
	first.Close()
	second := dialV1(t, p, offer(one, 0)) // its welcome may have been lost
	two := second.welcome(t).Token
	third := dialV1(t, p, offer(one, 0))
	three := third.welcome(t).Token
	second.wantClose(t, 4409)
	fourth := dialV1(t, p, offer(two, 0)) // the third may have come late, and nobody knows of it
	fourth.welcome(t)
	third.wantClose(t, 4409)
	for _, used := range []string{one, three} {
		dialV1(t, p, offer(used, 0)).wantClose(t, 4404)
	}
	fourth.sendText(t, "still here")
	fourth.wantData(t, "still here")
}

// What is no proper control message costs the client leg, with 1002; its session goes away and is resumed
// properly, and nothing is lost or doubled. What is proper but unknown is ignored.
func TestBadControlMessages(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, nil), quietly(nil))
	for name, c := range map[string]struct {
		bytes string
		code  ws.StatusCode // 0: the leg lives on
	}{
		"unknown type":               {masked("\x1e" + `{"type":"party","received":99}`), 0},
		"unknown members":            {masked("\x1e" + `{"type":"ack","received":1,"more":[{}]}`), 0},
		"white space":                {masked("\x1e" + ` { "type" : "ack" , "received" : 1 } `), 0},
		"ack of less than before":    {masked("\x1e"+`{"type":"ack","received":1}`) + masked("\x1e"+`{"type":"ack","received":0}`), 0},
		"pong that nobody asked for": {masked("\x1e" + `{"type":"pong"}`), 0},
		"in fragments":               {frame(0x01, mask, "\x1e"+`{"type":"a`) + frame(0x00, mask, `ck","rec`) + frame(0x80, mask, `eived":1}`), 0},
		"its mark in a fragment of its own": {
			frame(0x01, mask, "") + frame(0x00, mask, "\x1e") + frame(0x89, mask, "ping") + frame(0x80, mask, `{"type":"ack","received":1}`), 0,
		},
		"ack beyond what was sent":               {masked("\x1e" + `{"type":"ack","received":2}`), ws.StatusProtocolError},
		"ack beyond what was sent, in fragments": {frame(0x01, mask, "\x1e"+`{"type":"ack","rec`) + frame(0x80, mask, `eived":2}`), ws.StatusProtocolError},
		"ack of -1":                              {masked("\x1e" + `{"type":"ack","received":-1}`), ws.StatusProtocolError},
		"ack of 2^64":                            {masked("\x1e" + `{"type":"ack","received":18446744073709551616}`), ws.StatusProtocolError},
		"ack of 1e300":                           {masked("\x1e" + `{"type":"ack","received":1e300}`), ws.StatusProtocolError},
		"ack of a text":                          {masked("\x1e" + `{"type":"ack","received":"1"}`), ws.StatusProtocolError},
		"ack of nothing":                         {masked("\x1e" + `{"type":"ack"}`), ws.StatusProtocolError},
		"no JSON":                                {masked("\x1e" + `{"type":`), ws.StatusProtocolError},
		"JSON and more":                          {masked("\x1e" + `{"type":"ping"}{`), ws.StatusProtocolError},
		"no object":                              {masked("\x1e" + `["ack"]`), ws.StatusProtocolError},
		"no type":                                {masked("\x1e" + `{}`), ws.StatusProtocolError},
		"a type that is no text":                 {masked("\x1e" + `{"type":1}`), ws.StatusProtocolError},
		"the mark alone":                         {masked("\x1e"), ws.StatusProtocolError},
		"too long":                               {masked("\x1e" + `{"type":"ping","x":"` + strings.Repeat("x", 5000) + `"}`), ws.StatusProtocolError},
		"within another message":                 {frame(0x01, mask, "half") + masked("\x1e"+`{"type":"ping"}`), ws.StatusProtocolError},
		"a message of nothing but nesting, 4 KiB": {masked("\x1e" + strings.Repeat("[", 4000)), ws.StatusProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leg := dialV1(t, p, "tideover.v1")
			token := leg.welcome(t).Token
			leg.sendText(t, "before")
			leg.wantData(t, "before")
			leg.send(t, c.bytes)
			received := 1
			if c.code == 0 {
				leg.sendText(t, "\x1e\x1e escaped")
				leg.wantData(t, "\x1e\x1e escaped")
				leg.sendText(t, "\x1e"+`{"type":"ping"}`)
				for leg.readText(t) != "\x1e"+`{"type":"pong"}` {
				}
				received = 2
				leg.Close()
			} else {
				leg.wantClose(t, c.code)
			}
			again := dialV1(t, p, offer(token, received))
			if w := again.welcome(t); !w.Resumed || w.Received != received {
				t.Fatalf("welcome is %+v, want the session with %d messages", w, received)
			}
			again.sendText(t, "after")
			again.wantData(t, "after")
			again.wantAck(t, received+1)
		})
	}
}

// metric reads one value of the proxy's metrics, summed over its labels.
func metric(t *testing.T, p *proxy, name string) (sum float64) {
	t.Helper()
	_, text := get(t, "http://"+p.admin+"/metrics")
	found := false
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndex(strings.TrimSpace(rest), " ")+1:], &value); err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		t.Fatalf("no metric %s among\n%s", name, text)
	}
	return sum
}
