package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A scene is a room with two users: the subject, whose connection passes a network that can be hurt, and a
// peer, who is always there and tells what others see of it.
type scene struct {
	t       *testing.T
	kind    string   // of the subject, see client.mjs
	backend *process // backend.mjs, which tells what it sent and got; nil for one that tells nothing
	proxy   *proxy
	server  string // what users connect to: the proxy's address
	path    string // where the chat is there
	network *proxytest.Network
	peer    *process
	lives   []*process // the subject's, one after the other
}

const (
	subject = "subject"
	peer    = "peer"
)

// newScene starts everything and waits until both users are in the room.
func newScene(t *testing.T, kind string, extra settings) *scene {
	t.Helper()
	needNode(t)
	s := &scene{t: t, kind: kind, path: "/"}
	var ready event
	s.backend, ready = node(t, "backend.mjs")
	s.proxy = startProxy(t, ready.Addr, extra)
	s.enter(s.proxy.addr)
	return s
}

// enter brings both users into the room.
func (s *scene) enter(server string) {
	s.t.Helper()
	s.server = server
	s.network = proxytest.NewNetwork(s.t, server)
	s.network.Prepare(far)
	s.peer, _ = node(s.t, "client.mjs", "ws", s.url(server, peer))
	s.join(s.peer, peer)
	s.live()
	s.join(s.subject(), subject)
}

// far puts some distance into a connection, so that there is always something under way that a drop loses.
func far(_ int, w *proxytest.Wire) { w.Delay(proxytest.BothSides, 5*time.Millisecond) }

// url is where a user connects.
func (s *scene) url(addr, user string) string {
	return fmt.Sprintf("ws://%s%s?room=room&username=%s&client_id=%s", addr, s.path, user, user)
}

// join has a user greet the room, and waits until the greeting comes back.
func (s *scene) join(p *process, user string) {
	s.t.Helper()
	p.waitCount(s.t, "connection", 1, opened)
	p.command(s.t, "send", map[string]any{"text": greeting(user)})
	p.waitCount(s.t, "greeting", 1, func(e event) bool { return e.Data == greeting(user) })
}

func greeting(user string) string { return user + " joins" }

// live starts the subject: a new process or page that knows nothing of an earlier one.
func (s *scene) live() {
	s.t.Helper()
	args := []string{"client.mjs", s.kind, s.url(s.network.Addr(), subject)}
	if s.kind == "chromium" {
		args = append(args, "http://"+s.network.Addr()+"/empty", needChromium(s.t))
	}
	p, _ := node(s.t, args...)
	s.lives = append(s.lives, p)
	p.waitCount(s.t, "the subject's connection", 1, opened)
}

// subject returns the subject's present process.
func (s *scene) subject() *process { return s.lives[len(s.lives)-1] }

// talk makes a user send the messages from … to …
func (s *scene) talk(p *process, user string, from, to int) {
	s.t.Helper()
	p.command(s.t, "talk", map[string]any{"user": user, "from": from, "to": to, "every": 4})
}

// said is what the backend sent to a user, over the upstream connection that the user has had from the start.
func (s *scene) said(user string) []string {
	if s.backend == nil { // the peer was there all the time, and hears all that the room does
		all := slices.Concat(byConnection(s.peer.log())...)
		return all[slices.Index(all, greeting(user)):]
	}
	conn := s.conn(user)
	return data(filter(s.backend.log(), func(e event) bool { return e.Ev == "sent" && e.Conn == conn }))
}

// got is which of a user's messages the backend received over that connection.
func (s *scene) got(user string) []string {
	if s.backend == nil {
		return data(filter(s.peer.log(), from(user, "message")))
	}
	conn := s.conn(user)
	return data(filter(s.backend.log(), func(e event) bool { return e.Conn == conn && from(user, "got")(e) }))
}

// conn is the backend's number for the user's first connection.
func (s *scene) conn(user string) int {
	for _, e := range s.backend.log() {
		if opened(e) && e.User == user {
			return e.Conn
		}
	}
	return 0
}

// heard is what the subject received, connection by connection.
func (s *scene) heard() (parts [][]string) {
	for _, life := range s.lives {
		parts = append(parts, byConnection(life.log())...)
	}
	return parts
}

// byConnection sorts messages by the connection that brought them: two may overlap, and then the older one's
// last messages come after the newer one's first.
func byConnection(events []event) (parts [][]string) {
	for _, e := range events {
		switch e.Ev {
		case "open":
			parts = append(parts, nil)
		case "message":
			parts[e.Conn-1] = append(parts[e.Conn-1], e.Data)
		}
	}
	return parts
}

// fates lists what the peer was told of the subject, in order.
func (s *scene) fates() (types []string) {
	for _, e := range s.peer.log() {
		if m := parse(e.Data); e.Ev == "message" && m.Type != "" && m.Username == subject {
			types = append(types, m.Type)
		}
	}
	return types
}

// waitFate waits until the peer has been told that the subject's latest fate is this.
func (s *scene) waitFate(fate string) {
	s.t.Helper()
	s.peer.wait(s.t, "the peer to see "+fate, func([]event) bool { return slices.Contains(s.fates(), fate) })
}

// wantFates stops the proxy, so that nothing can follow, and compares.
func (s *scene) wantFates(want ...string) {
	s.t.Helper()
	before := s.fates()
	s.proxy.stopCleanly(s.t)
	got := s.fates()
	// A subject that is there leaves with the proxy, and the peer hears of it if it goes later than the subject.
	if len(before) <= len(want) && slices.Equal(got, append(slices.Clip(want), "user_left")) {
		return
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("the peer saw %v of the subject, want %v", got, want)
	}
}

// wantConversation waits until both users have heard all that the backend said to them, and checks that
// the backend got each of the messages 1 … count of both exactly once.
func (s *scene) wantConversation(count int) {
	s.t.Helper()
	eventually(s.t, func() error {
		if err := checkOnce(messages(subject, count), s.got(subject)); err != nil {
			return fmt.Errorf("from the subject to the backend: %w", err)
		}
		if err := checkOnce(messages(peer, count), s.got(peer)); err != nil {
			return fmt.Errorf("from the peer to the backend: %w", err)
		}
		if _, err := checkHeard(s.said(subject), s.heard()); err != nil {
			return fmt.Errorf("from the backend to the subject: %w", err)
		}
		if err := checkOnce(s.said(peer), slices.Concat(byConnection(s.peer.log())...)); err != nil {
			return fmt.Errorf("from the backend to the peer: %w", err)
		}
		return nil
	})
}

// wantUpstreamClosed waits until the backend sees the end of the subject's connection.
func (s *scene) wantUpstreamClosed(code int) {
	s.t.Helper()
	conn := s.conn(subject)
	closed := func(e event) bool { return e.Ev == "close" && e.Conn == conn }
	s.backend.waitCount(s.t, "end of the subject's upstream connection", 1, closed)
	if got := filter(s.backend.log(), closed)[0].Code; got != code {
		s.t.Errorf("the subject's upstream connection was closed with %d, want %d", got, code)
	}
}

// eventually waits until check finds nothing wrong, and fails the test with what it finds at last.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// A message as the chat application writes it (see app.mjs), or an event of the proxy.
type message struct {
	ID       string `json:"id"`
	User     string `json:"user"`
	Type     string `json:"type"`
	Username string `json:"username"`
}

func parse(text string) (m message) {
	json.Unmarshal([]byte(text), &m)
	return m
}

// messages are the texts of a user's messages 1 … count.
func messages(user string, count int) (texts []string) {
	for i := range count {
		texts = append(texts, fmt.Sprintf(`{"id":"%s-%d","user":"%s","text":"Grüße ✓"}`, user, i+1, user))
	}
	return texts
}

// from matches what carries a message of user.
func from(user, ev string) func(event) bool {
	return func(e event) bool { return e.Ev == ev && parse(e.Data).User == user }
}

func opened(e event) bool { return e.Ev == "open" }
