package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/tideover/tideover/proxy/proxytest"
)

// newBadge opens a page that uses the browser client in the room of a peer who is there all the time.
func newBadge(t *testing.T, onSessionLost string, extra settings) *scene {
	t.Helper()
	browser := needChromium(t)
	s := &scene{t: t, path: "/"}
	var ready event
	s.backend, ready = node(t, "backend.mjs")
	extra["dedup.enabled"] = false // what the client sends twice is to be seen
	s.proxy = startProxy(t, ready.Addr, extra)
	s.network = proxytest.NewNetwork(t, s.proxy.addr)
	s.peer, _ = node(t, "client.mjs", "ws", s.url(s.proxy.addr, peer))
	s.join(s.peer, peer)
	page, _ := node(t, "browser/tab.mjs", browser, "http://"+s.network.Addr()+"/")
	script, err := os.ReadFile("browser/badge.js")
	if err != nil {
		t.Fatal(err)
	}
	evaluate(t, page, string(script))
	evaluate(t, page, fmt.Sprintf("begin(%q, %q)", s.url(s.network.Addr(), subject), onSessionLost))
	s.lives = append(s.lives, page)
	return s
}

func (s *scene) waitPage(what, script, want string) {
	s.t.Helper()
	eventually(s.t, func() error {
		if got := evaluate(s.t, s.subject(), script); got != want {
			return fmt.Errorf("%s: %s is %s, want %s", what, script, got, want)
		}
		return nil
	})
}

// gotBy is what the backend got of the subject over the i-th connection to it that the subject has had.
func (s *scene) gotBy(i int) []string {
	conns := filter(s.backend.log(), func(e event) bool { return opened(e) && e.User == subject })
	if i >= len(conns) {
		return nil
	}
	return data(filter(s.backend.log(), func(e event) bool { return e.Conn == conns[i].Conn && from(subject, "got")(e) }))
}

// While the connection is away a page can tell how many messages are pending, and none is once they are
// acknowledged.
func TestPendingBadge(t *testing.T) {
	t.Parallel()
	s := newBadge(t, "close", settings{})
	evaluate(t, s.subject(), "say(1, 5)")
	s.waitPage("all accepted", "page.socket.pending", "0")
	s.network.SetDown(true)
	reset(s)
	s.waitFate("user_away")
	s.waitPage("away", "page.socket.state", `"away"`)
	evaluate(t, s.subject(), "page.badges.length = 0; say(6, 6); say(7, 8)")
	s.waitPage("while away", "document.getElementById('badge').textContent", `"3 messages pending…"`)
	s.network.SetDown(false)
	s.waitFate("user_reconnected")
	s.waitPage("back", "document.getElementById('badge').textContent", `""`)
	s.waitPage("back", "page.badges.at(-1) + page.socket.pending + page.closes.length", `"00"`)
	if err := checkOnce(messages(subject, 8), s.gotBy(0)); err != nil {
		t.Errorf("from the page to the backend: %v", err)
	}
	evaluate(t, s.subject(), "page.socket.close(1000)")
	s.waitFate("user_left")
	s.wantFates("user_away", "user_reconnected", "user_left")
}

// An outage longer than the grace: the peers saw the user leave, the client is a new user, and what goes into
// its new session is exactly what had never been accepted. Some messages are on their way when the connection
// ends: those that the backend got, whose acknowledgement was lost, and those that never arrived.
func TestOutageLongerThanTheGrace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		held     proxytest.Side // what stops before the last words are sent
		accepted int
	}{
		"the messages are lost":              {proxytest.BothSides, 5},
		"the acknowledgements are lost":      {proxytest.ClientSide, 8},
		"nothing was under way at that time": {0, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newBadge(t, "continue", settings{"session.grace": "700ms"})
			evaluate(t, s.subject(), "say(1, 5)")
			s.waitPage("all accepted", "page.socket.pending", "0")
			wire := s.network.Last()
			if c.held != 0 {
				wire.Hold(c.held)
				evaluate(t, s.subject(), "say(6, 8)")
				s.backend.waitCount(t, "message from the page", c.accepted, from(subject, "got"))
				// What the network holds was never sent to the client, and never will be.
			}
			s.network.SetDown(true)
			wire.Reset(proxytest.BothSides)
			s.waitFate("user_left")
			s.wantUpstreamClosed(1001)
			s.waitPage("away", "page.socket.state", `"away"`)
			if c.held == 0 {
				evaluate(t, s.subject(), "say(6, 8)")
			}
			evaluate(t, s.subject(), "say(9, 10)")
			s.waitPage("while away", "document.getElementById('badge').textContent", `"5 messages pending…"`)

			s.network.SetDown(false)
			s.waitPage("a new session", "page.socket.pending", "0")
			all := messages(subject, 10)
			for i, want := range [][]string{all[:c.accepted], all[c.accepted:]} {
				if err := checkOnce(want, s.gotBy(i)); err != nil {
					t.Errorf("from the page to the backend, session %d: %v", i, err)
				}
			}
			var states []string
			if err := json.Unmarshal([]byte(evaluate(t, s.subject(), "page.states")), &states); err != nil {
				t.Fatal(err)
			}
			if want := []string{"connected", "away", "lost", "connected"}; !slices.Equal(states, want) {
				t.Errorf("the page saw %v, want %v", states, want)
			}
			if closes := evaluate(t, s.subject(), "page.closes"); closes != "[]" {
				t.Errorf("the page's socket closed: %s", closes)
			}
			s.wantFates("user_away", "user_left")
		})
	}
}

// By default the page's socket closes then, and says that the session is gone.
func TestOutageLongerThanTheGraceClosesByDefault(t *testing.T) {
	t.Parallel()
	s := newBadge(t, "close", settings{"session.grace": "300ms"})
	s.network.SetDown(true)
	reset(s)
	s.waitFate("user_left")
	s.network.SetDown(false)
	s.waitPage("the end", "page.closes", "[4404]")
	s.wantFates("user_away", "user_left")
	if conns := filter(s.backend.log(), opened); len(conns) != 2 {
		t.Errorf("the backend saw %d connections, want 2: the peer's and the page's", len(conns))
	}
}
