package proxy

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/tideover/tideover/proxy/resume"
)

func TestAnOldTokenIsGoodUntilTheNewOneIsUsed(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		first := w.counting("/").welcome(t).Token
		second := w.resume(first, 0).welcome(t).Token
		// The answer with the second token never reached the client.
		third := w.resume(first, 0).welcome(t).Token
		fourth := w.resume(third, 0).welcome(t).Token
		for name, token := range map[string]string{"first": first, "second": second} {
			c := w.resume(token, 0)
			wantClose(t, c.Peer, "the "+name+" token after the use of a newer one", resume.CodeGone)
		}
		fifth := w.resume(fourth, 0).welcome(t).Token
		wantClose(t, w.resume(third, 0).Peer, "the third token after the use of the fourth", resume.CodeGone)
		c := w.resume(fifth, 0)
		c.welcome(t)
		wantOpen(t, c.Peer, "the last client")
		seen := map[string]bool{}
		for _, token := range []string{first, second, third, fourth, fifth, c.welcome(t).Token} {
			if seen[token] {
				t.Errorf("token %s was given out twice", token)
			}
			seen[token] = true
		}
	})
}

// A client gives an attempt up and makes another, which comes through. Then the first one arrives after all: the network
// had kept it. It takes the session over, and nobody is at its other end; the client comes back with the token it got.
func TestAnAttemptThatComesLateCostsNoSession(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		first := w.counting("/").welcome(t).Token
		client := w.resume(first, 0)
		second := client.welcome(t).Token
		for range maxSuperseded {
			late := w.resume(first, 0)
			late.welcome(t)
			late.Drop()
		}
		wantClose(t, client.Peer, "the client when the late attempt came", resume.CodeSuperseded)
		back := w.resume(second, 0)
		back.welcome(t)
		wantOpen(t, back.Peer, "the client with the token it got")
		wantClose(t, w.resume(first, 0).Peer, "an attempt that comes even later", resume.CodeGone)
		wantOpen(t, back.Peer, "the client, whatever comes later")
	})
}

// Rule 9, for sessions that are found by token: only the token of this session opens it, and who
// has none learns nothing, not even whether there is a session.
func TestAWrongTokenOpensNothing(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c, other := w.counting("/"), w.counting("/")
		token, foreign := c.welcome(t).Token, other.welcome(t).Token
		keyed := w.client("/?client_id=a")
		keyed.Drop()
		w.client("/?client_id=a") // its session has been resumed
		keyedID := ""
		for r := range w.p.sessions.all {
			if r.key == "a" {
				keyedID = r.id.String()
			}
		}
		away := w.counting("/")
		awayToken := away.welcome(t).Token
		away.Drop()
		w.settle()
		zeros := base64.RawURLEncoding.EncodeToString(make([]byte, len(secret{})))
		flip := func(s string, i int) string {
			b := []byte(s)
			b[i] = map[bool]byte{true: 'B', false: 'A'}[b[i] == 'A']
			return string(b)
		}
		for name, wrong := range map[string]string{
			"empty":                          "",
			"only an id":                     token[:idChars],
			"truncated":                      token[:len(token)-1],
			"too long":                       token + "A",
			"one bit off":                    flip(token, len(token)-1),
			"of another secret":              token[:idChars] + foreign[idChars:],
			"of another id":                  foreign[:idChars] + token[idChars:],
			"of an away session, one off":    flip(awayToken, idChars),
			"of no session":                  strings.Repeat("x", tokenSize),
			"zeros":                          token[:idChars] + zeros,
			"zeros for a session with a key": keyedID + zeros,
			"not base64":                     token[:idChars] + strings.Repeat("!", tokenSize-idChars),
			"standard base64":                token[:idChars] + strings.Repeat("+", tokenSize-idChars),
			"other letters":                  strings.ToUpper(token),
		} {
			got := w.resume(wrong, 0)
			wantClose(t, got.Peer, "token "+name, resume.CodeGone)
			wantTexts(t, got.Peer, "the client with a token "+name)
			if p := got.Answer.Header.Get("Sec-WebSocket-Protocol"); p != "tideover.v1" {
				t.Errorf("token %s: the 101 selects %q, want tideover.v1: else a browser hides the close code", name, p)
			}
		}
		// Two tokens at once are none.
		two := w.client("/", "Sec-WebSocket-Protocol: tideover.v1, tideover.resume."+token+".0, tideover.resume."+foreign+".0")
		wantClose(t, two, "two tokens", resume.CodeGone)
		if n := len(w.backend.Peers()); n != 4 {
			t.Errorf("%d upstreams were dialled, want 4: none for a wrong token", n)
		}
		wantOpen(t, c.Peer, "the session's own client")
		w.wantSessions(3, 1)
		w.wantMetric(`tideover_handshakes_refused_total{reason="token"}`, "15")
		w.resume(awayToken, 0).welcome(t)
		w.resume(token, 0).welcome(t)
	})
}

// A token has one spelling: a decoder that ignores unused bits would make several.
func TestATokenHasOneSpelling(t *testing.T) {
	token := tokenOf(newID(), newSecret())
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	_, want, ok := readToken(token)
	if !ok {
		t.Fatalf("%q is not read", token)
	}
	for i := idChars; i < len(token); i++ {
		for _, c := range letters {
			other := token[:i] + string(c) + token[i+1:]
			if _, got, ok := readToken(other); other != token && ok && got == want {
				t.Fatalf("%q and %q are the same token", token, other)
			}
		}
	}
	for _, s := range []string{"", token[1:], token + "A", token[:len(token)-1] + "=", token[:len(token)-1] + "\n"} {
		if _, _, ok := readToken(s); ok {
			t.Errorf("%q is read as a token", s)
		}
	}
}

func TestATokenIsBoundToItsClient(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.counting("/", "Authorization: Bearer mine")
		token := c.welcome(t).Token
		for _, lines := range [][]string{nil, {"Authorization: Bearer theirs"}} {
			wantClose(t, w.resume(token, 0, lines...).Peer, "a stolen token", resume.CodeGone)
		}
		wantOpen(t, c.Peer, "the session's own client")
		c.Drop()
		w.settle()
		wantClose(t, w.resume(token, 0).Peer, "a stolen token, while the session is away", resume.CodeGone)
		w.wantSessions(0, 1)
		if got := w.resume(token, 0, "Authorization: Bearer mine").welcome(t); !got.Resumed {
			t.Errorf("welcome is %+v", got)
		}
	})
}
