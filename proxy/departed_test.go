package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/resume"
)

// A client that comes after the grace learns how many of its messages had been accepted, so that it sends
// only the others again. Nobody else learns anything.
func TestLateClientsLearnWhatWasAccepted(t *testing.T) {
	bind := func(cfg *config.Config) {
		cfg.Session.Bind = []config.Source{{Kind: config.KindHeader, Name: "Authorization"}}
	}
	story(t, bind, func(t *testing.T, w *world) {
		const mine = "Authorization: Bearer a"
		first := counting{w.client("/", mine, "Sec-WebSocket-Protocol: tideover.v1")}
		before := first.welcome(t).Token
		first.Say("one", "two")
		w.settle()
		w.drop(first)
		second := w.resume(before, 0, mine)
		token := second.welcome(t).Token
		second.Say("three")
		w.settle()
		second.Drop()
		w.pass(w.cfg.Session.Grace + time.Second)

		for range 2 { // its answer may get lost, too
			for _, good := range []string{token, before} {
				wantGone(t, w.resume(good, 0, mine), "its client", "received=3")
			}
		}
		other := counting{w.client("/", mine, "Sec-WebSocket-Protocol: tideover.v1")}.welcome(t)
		for what, c := range map[string]counting{
			"other credentials":            w.resume(token, 0, "Authorization: Bearer b"),
			"a forged secret":              w.resume(token[:idChars]+other.Token[idChars:], 0, mine),
			"a session that never existed": w.resume(strings.Repeat("A", tokenSize), 0, mine),
			"no token":                     w.resume("x", 0, mine),
		} {
			wantGone(t, c, what, "no such session")
		}
	})
}

func wantGone(t *testing.T, c counting, what, reason string) {
	t.Helper()
	if code, got := c.Ending().Code, c.Ending().Reason; code != ws.StatusCode(resume.CodeGone) || got != reason {
		t.Errorf("%s: closed with %d %q, want %d %q", what, code, got, resume.CodeGone, reason)
	}
}

func TestDepartedSessionsAreForgottenInTheEnd(t *testing.T) {
	d := newDeparted()
	for i := range maxDeparted + 10 {
		d.add(sessionID{byte(i), byte(i >> 8), byte(i >> 16)}, departure{})
	}
	if n := d.sessions.Len(); n != maxDeparted {
		t.Errorf("%d sessions are remembered, want %d", n, maxDeparted)
	}
}
