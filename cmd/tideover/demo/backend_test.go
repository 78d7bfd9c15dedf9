package demo

import (
	"context"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gobwas/ws"
)

func TestBackendHandsEverythingToTheWholeRoom(t *testing.T) {
	addr := startBackend(t)
	ann, annHears := join(t, addr, "one", "Ann")
	_, benHears := join(t, addr, "one", "Ben")
	_, eveHears := join(t, addr, "two", "Eve")

	m := chatMessage{Type: "message", Username: "Ann", ID: "ann-1", Number: 1, Text: "hi \"there\" ☂"}
	say(t, ann, m)
	wantHeard(t, benHears, m)
	wantHeard(t, annHears, m) // the sender gets its own message too

	say(t, ann, chatMessage{Type: "anything", Username: "Ann"})
	wantHeard(t, benHears, chatMessage{Type: "anything", Username: "Ann"})
	for len(eveHears) > 0 {
		if got := <-eveHears; got.Username == "Ann" {
			t.Errorf("another room heard %+v", got)
		}
	}
}

func TestBackendKnowsPresenceByItsSockets(t *testing.T) {
	addr := startBackend(t)
	_, annHears := join(t, addr, "room", "Ann")

	ben, _ := join(t, addr, "room", "Ben")
	wantHeard(t, annHears, chatMessage{Type: "user_joined", Username: "Ben"})
	ben.close()
	wantHeard(t, annHears, chatMessage{Type: "user_left", Username: "Ben"})

	cleo, _ := join(t, addr, "room", "Cleo")
	wantHeard(t, annHears, chatMessage{Type: "user_joined", Username: "Cleo"})
	abort(cleo.conn)
	wantHeard(t, annHears, chatMessage{Type: "user_left", Username: "Cleo"})
}

func TestBackendIsNotHeldUpByASlowReader(t *testing.T) {
	addr := startBackend(t)
	ann, annHears := join(t, addr, "room", "Ann")
	dialDeaf(t, addr, "room", "Slow")
	wantHeard(t, annHears, chatMessage{Type: "user_joined", Username: "Slow"})

	// More than the backlog and any socket buffer hold, as fast as Ann hears it.
	m := chatMessage{Type: "message", Username: "Ann", Text: strings.Repeat("x", 60<<10)}
	for n := 0; ; n++ {
		if n == 2000 {
			t.Fatal("120 MB to a reader that reads nothing, and it's still in its room")
		}
		say(t, ann, m)
		for {
			got := nextHeard(t, annHears)
			if got.Type == "message" {
				break
			}
			if got == (chatMessage{Type: "user_left", Username: "Slow"}) {
				return
			}
		}
	}
}

func TestBackendAnswersPingsAndCloses(t *testing.T) {
	addr := startBackend(t)
	conn := dialDeaf(t, addr, "room", "Ann")
	incoming := newReader(conn, ws.StateClientSide)
	send := func(f ws.Frame) { writeFrame(t, conn, f) }
	send(ws.NewPingFrame([]byte("are you there")))
	send(ws.NewCloseFrame(ws.NewCloseFrameBody(4321, "")))

	var answers []ws.OpCode
	for {
		header, err := incoming.NextFrame()
		if err != nil {
			break
		}
		if header.OpCode.IsControl() {
			answers = append(answers, header.OpCode)
		}
		if err := incoming.Discard(); err != nil {
			break
		}
	}
	if len(answers) != 2 || answers[0] != ws.OpPong || answers[1] != ws.OpClose {
		t.Errorf("a ping and a close were answered by %v, want a pong and a close", answers)
	}
}

func TestBackendDropsWhoSendsTooMuch(t *testing.T) {
	for name, frames := range map[string][]ws.Frame{
		"one frame": {ws.NewTextFrame(make([]byte, maxChatBytes+1))},
		"fragments": {
			ws.NewFrame(ws.OpText, false, make([]byte, maxChatBytes)),
			ws.NewFrame(ws.OpContinuation, true, make([]byte, 1)),
		},
		"no text": {ws.NewTextFrame([]byte{0xff, 0xfe})},
	} {
		t.Run(name, func(t *testing.T) {
			addr := startBackend(t)
			_, annHears := join(t, addr, "room", "Ann")
			conn := dialDeaf(t, addr, "room", "Bad")
			wantHeard(t, annHears, chatMessage{Type: "user_joined", Username: "Bad"})
			for _, f := range frames {
				conn.Write(ws.MustCompileFrame(ws.MaskFrameInPlace(f))) // the last may meet a closed socket
			}
			wantHeard(t, annHears, chatMessage{Type: "user_left", Username: "Bad"})
		})
	}
}

func TestBackendServesItsApplication(t *testing.T) {
	addr := startBackend(t)
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		t.Errorf("GET /: got %s, %s", resp.Status, resp.Header.Get("Content-Type"))
	}
}

// startBackend serves a backend until the test is over, and returns its
// address.
func startBackend(t *testing.T) string {
	t.Helper()
	return startBackendWith(t, fstest.MapFS{"index.html": {Data: []byte("<!doctype html>")}})
}

func startBackendWith(t *testing.T, app fs.FS) string {
	t.Helper()
	wantNoLeaks(t)
	b := newBackend(app)
	l := listenLoopback(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l, b) }()
	t.Cleanup(func() {
		cancel()
		b.close()
		if err := <-served; err != nil {
			t.Errorf("stop the backend: %v", err)
		}
	})
	return l.Addr().String()
}

// join lets a well-behaved user into a room. What it hears piles up in the
// channel.
func join(t *testing.T, addr, room, name string) (*peer, chan chatMessage) {
	t.Helper()
	heard := make(chan chatMessage, 4096)
	p, err := newPeer(t.Context(), addr, room, name, room+"-"+name, func(m chatMessage) { heard <- m })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p, heard
}

// dialDeaf joins a room and reads nothing.
func dialDeaf(t *testing.T, addr, room, name string) net.Conn {
	t.Helper()
	conn, _, _, err := ws.Dialer{}.Dial(t.Context(), "ws://"+addr+"/chat?room="+room+"&username="+name+"&client_id="+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func writeFrame(t *testing.T, conn net.Conn, f ws.Frame) {
	t.Helper()
	if _, err := conn.Write(ws.MustCompileFrame(ws.MaskFrameInPlace(f))); err != nil {
		t.Fatal(err)
	}
}

func say(t *testing.T, p *peer, m chatMessage) {
	t.Helper()
	if err := p.say(m); err != nil {
		t.Fatal(err)
	}
}

func nextHeard(t *testing.T, heard chan chatMessage) chatMessage {
	t.Helper()
	select {
	case m := <-heard:
		return m
	case <-time.After(patience):
		t.Fatalf("heard nothing for %v", patience)
		return chatMessage{}
	}
}

// wantHeard passes over other messages until it hears want.
func wantHeard(t *testing.T, heard chan chatMessage, want chatMessage) {
	t.Helper()
	for {
		select {
		case m := <-heard:
			if m == want {
				return
			}
		case <-time.After(patience):
			text, _ := json.Marshal(want)
			t.Fatalf("did not hear %s for %v", text, patience)
		}
	}
}
