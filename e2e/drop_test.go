package e2e

import (
	"slices"
	"testing"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A death is a way in which a client loses its connection.
type death struct {
	name   string
	kinds  []string // of clients it is tried on
	extra  settings
	happen func(s *scene)
	back   func(s *scene) // what the client does about it, after the network is back
}

func eachWire(f func(*proxytest.Wire)) func(*scene) {
	return func(s *scene) {
		for _, w := range s.network.Wires() {
			f(w)
		}
	}
}

// quickHeartbeat finds a half-open connection soon, and takes no browser for dead that a busy machine keeps waiting.
var quickHeartbeat = settings{"heartbeat.interval": "2s", "heartbeat.max_missed": 2}

var (
	reset   = eachWire(func(w *proxytest.Wire) { w.Reset(proxytest.BothSides) })
	fin     = eachWire(func(w *proxytest.Wire) { w.Fin(proxytest.BothSides) })
	silence = eachWire(func(w *proxytest.Wire) { w.Silence() })

	nothing = func(*scene) {} // these clients come back by themselves
	abandon = func(s *scene) { s.subject().command(s.t, "abandon", nil) }
)

var everyKind = []string{"ws", "rws", "chromium"}

var deaths = []death{
	{"reset", everyKind, nil, reset, nothing},
	{"end of file", everyKind, nil, fin, nothing},
	{"reset that only the proxy sees", []string{"ws"}, nil, eachWire(func(w *proxytest.Wire) { w.Reset(proxytest.ServerSide) }), abandon},
	{"silence", everyKind, quickHeartbeat, silence, abandon},
	{"process killed", []string{"ws", "rws"}, nil, func(s *scene) { s.subject().kill() }, func(s *scene) { s.live() }},
}

// A client drops in the middle of a conversation and comes back within the grace: the backend never notices,
// nothing is lost either way, ids arrive once, and the peer sees away, reconnected and left once each.
func TestDropAndComeBack(t *testing.T) {
	t.Parallel()
	for _, d := range deaths {
		for _, kind := range d.kinds {
			t.Run(d.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, kind, d.extra)
				s.beginConversation()

				s.network.SetDown(true)
				d.happen(s)
				s.waitFate("user_away")
				s.network.SetDown(false)
				d.back(s)
				s.waitFate("user_reconnected")

				s.endConversation()
				s.subject().command(t, "close", map[string]any{"code": 1000})
				s.waitFate("user_left")
				s.wantUpstreamClosed(1000)
				s.wantFates("user_away", "user_reconnected", "user_left")
			})
		}
	}
}

// A client comes back before the proxy has noticed that its first connection is half-open: it takes
// over, nobody is told anything, and nothing is lost.
func TestComeBackBeforeTheDropIsNoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range everyKind {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, kind, nil)
			s.beginConversation()
			silence(s)
			abandon(s)
			s.subject().waitCount(t, "the subject's connection", 2, opened)
			s.endConversation()
			s.subject().command(t, "close", map[string]any{"code": 1000})
			s.waitFate("user_left")
			s.wantUpstreamClosed(1000)
			s.wantFates("user_left")
		})
	}
}

// Drop after drop, each in the middle of whatever is under way, a replay included.
func TestDropAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ws", settings{"events.away": nil, "events.reconnected": nil})
	const drops = 12
	s.network.Prepare(func(i int, w *proxytest.Wire) {
		far(i, w)
		if i <= drops {
			// The middle of a frame, more often than not, and soon: all that is cut off by these is still not
			// the whole conversation.
			w.ResetAfter(proxytest.ClientSide, int64(300+131*i))
		}
	})
	reset(s)
	s.talk(s.peer, peer, 1, conversation)
	s.talk(s.subject(), subject, 1, conversation)
	s.wantConversation(conversation)
	if opens := len(filter(s.subject().log(), opened)); opens != drops+2 {
		t.Errorf("the subject had %d connections, want %d", opens, drops+2)
	}
	s.subject().command(t, "close", map[string]any{"code": 1000})
	s.waitFate("user_left")
	s.wantFates("user_left")
}

// conversation is how many messages each user sends.
const conversation = 200

// beginConversation lets both users talk and returns in the middle of it.
func (s *scene) beginConversation() {
	s.t.Helper()
	s.talk(s.peer, peer, 1, conversation-50)
	s.talk(s.subject(), subject, 1, conversation-50)
	s.subject().waitCount(s.t, "message from the peer", 30, from(peer, "message"))
	s.peer.waitCount(s.t, "message from the subject", 30, from(subject, "message"))
}

// endConversation lets both users say the rest, and compares everything.
func (s *scene) endConversation() {
	s.t.Helper()
	next := conversation - 49
	if len(s.lives) > 1 {
		// The second life sends again what it hasn't seen come back in the first.
		next = 1 + len(filter(s.lives[0].log(), from(subject, "message")))
	} else {
		s.subject().waitCount(s.t, "end of talking", 1, func(e event) bool { return e.Ev == "talked" })
	}
	s.peer.waitCount(s.t, "end of talking", 1, func(e event) bool { return e.Ev == "talked" })
	s.talk(s.peer, peer, conversation-49, conversation)
	s.talk(s.subject(), subject, next, conversation)
	s.wantConversation(conversation)
}

// A client that stays away: away, left, and 1001 for the backend, once each; and who comes back later
// begins anew.
func TestGraceOver(t *testing.T) {
	t.Parallel()
	for name, happen := range map[string]func(*scene){"reset": reset, "end of file": fin, "silence": silence} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, "ws", settings{"session.grace": "700ms", "heartbeat.interval": "200ms", "heartbeat.max_missed": 2})
			s.beginConversation()
			s.network.SetDown(true)
			happen(s)
			s.waitFate("user_left")
			s.wantUpstreamClosed(1001)

			s.network.SetDown(false)
			abandon(s)
			s.subject().waitCount(t, "the subject's connection", 2, opened)
			s.backend.waitCount(t, "user in the room", 3, opened)
			anew := filter(s.backend.log(), opened)[2].Conn
			s.backend.command(t, "say", map[string]any{"room": "room", "text": "fresh"})
			eventually(t, func() error {
				said := filter(s.backend.log(), func(e event) bool { return e.Ev == "sent" && e.Conn == anew })
				return checkOnce(data(said), s.heard()[1])
			})
			s.wantFates("user_away", "user_left")
		})
	}
}

// A Close without a code (1005) is what ws.close() sends; with the defaults it starts the grace like any other drop.
func TestCloseWithoutCodeStartsTheGrace(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ws", settings{"session.grace": "500ms"})
	s.subject().command(t, "close", nil)
	s.waitFate("user_left")
	s.wantUpstreamClosed(1001)
	s.wantFates("user_away", "user_left")
}

// A backend that ends the connection is heard through, also by a client that was away when it happened.
func TestBackendCloses(t *testing.T) {
	t.Parallel()
	closing := func(s *scene) {
		s.backend.command(s.t, "say", map[string]any{"room": "room", "text": "last words"})
		s.backend.command(s.t, "close", map[string]any{"conn": s.conn(subject), "code": 4321, "text": "enough"})
	}
	wantEnd := func(t *testing.T, s *scene) {
		t.Helper()
		closed := func(e event) bool { return e.Ev == "close" && e.Code == 4321 && e.Data == "enough" }
		s.subject().waitCount(t, "Close with the backend's code and reason", 1, closed)
		log := s.subject().log()
		before := log[slices.IndexFunc(log, closed)-1]
		if before.Ev != "message" || before.Data != "last words" {
			t.Errorf("before the Close the subject heard %v, want the last words", before)
		}
	}
	t.Run("attached", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, "ws", nil)
		closing(s)
		wantEnd(t, s)
	})
	t.Run("away", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, "ws", nil)
		s.network.SetDown(true)
		reset(s)
		s.waitFate("user_away")
		closing(s)
		s.backend.waitCount(t, "end of the upstream connection", 1, func(e event) bool { return e.Ev == "close" })
		s.network.SetDown(false)
		wantEnd(t, s)
	})
}

// Short drops need not be told: a resume before away_after emits nothing.
func TestAwayIsHeldBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ws", settings{"events.away_after": "59s"})
	reset(s)
	s.subject().waitCount(t, "the subject's connection", 2, opened)
	s.talk(s.subject(), subject, 1, 10)
	s.talk(s.peer, peer, 1, 10)
	s.wantConversation(10)
	s.subject().command(t, "close", map[string]any{"code": 1000})
	s.waitFate("user_left")
	s.wantFates("user_left")
}

// The same drop without the proxy does lose messages, and the comparison sees it: a test that cannot find a
// loss here would prove nothing above.
func TestWithoutTheProxyADropLosesMessages(t *testing.T) {
	t.Parallel()
	for _, kind := range everyKind {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			needNode(t)
			s := &scene{t: t, kind: kind, path: "/"}
			var ready event
			s.backend, ready = node(t, "backend.mjs")
			s.enter(ready.Addr)
			s.beginConversation()
			s.network.SetDown(true)
			reset(s)
			s.peer.waitCount(t, "end of talking", 1, func(e event) bool { return e.Ev == "talked" })
			// On a slow machine all of that may have been said, and heard, before the drop.
			s.talk(s.peer, peer, conversation-49, conversation)
			s.peer.waitCount(t, "end of talking", 2, func(e event) bool { return e.Ev == "talked" })
			s.backend.waitCount(t, "message from the peer", conversation, from(peer, "got"))
			s.network.SetDown(false)
			s.subject().waitCount(t, "the subject's connection", 2, opened)
			s.backend.command(t, "say", map[string]any{"room": "room", "text": "fresh"})
			s.subject().waitCount(t, "message after the drop", 1, func(e event) bool { return e.Data == "fresh" })

			var heard [][]string
			for _, part := range s.heard() {
				heard = append(heard, slices.DeleteFunc(part, func(text string) bool { return parse(text).User != peer }))
			}
			if _, err := checkHeard(messages(peer, conversation), heard); err == nil {
				t.Error("nothing was lost")
			}
			if opens := len(filter(s.backend.log(), opened)); opens != 3 {
				t.Errorf("the backend saw %d connections, want 3: it notices the drop", opens)
			}
		})
	}
}
