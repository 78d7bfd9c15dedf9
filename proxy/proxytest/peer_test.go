package proxytest

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// complaints is a test that a Peer complains to.
type complaints struct {
	testing.TB
	mu   sync.Mutex
	text []string
}

func (c *complaints) Helper() {}

func (c *complaints) Errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, fmt.Sprintf(format, args...))
}

// open connects a client with a backend.
func open(t *testing.T, b *Backend) (client, server *Peer, complained *complaints) {
	t.Helper()
	complained = &complaints{TB: t}
	b.t = complained
	near, far := Pipe()
	go serveHeader(far, b.Serve)
	before := len(b.Peers())
	client, _, err := OpenClient(complained, near, ClientRequest("/chat?x=1", "X-Test: 1"))
	if err != nil || client == nil {
		t.Fatalf("the backend refused: %v", err)
	}
	return client, b.Peer(before), complained
}

func (c *complaints) want(t *testing.T, part string) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Join(c.text, "; ")
	if part == "" && all != "" || !strings.Contains(all, part) {
		t.Errorf("complained of %q, want %q", all, part)
	}
}

func TestPeersTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, complained := open(t, NewBackend(t))
		if !strings.HasPrefix(server.Request, "GET /chat?x=1 HTTP/1.1\r\n") || HeaderValues(server.Request, "X-Test")[0] != "1" {
			t.Errorf("the backend got %q", server.Request)
		}
		for _, side := range [][2]*Peer{{client, server}, {server, client}} {
			from, to := side[0], side[1]
			from.Say("one")
			for _, f := range [][]byte{from.Frame(ws.OpText, false, "tw"), from.Frame(ws.OpPing, true, "?"), from.Frame(ws.OpContinuation, true, "o")} {
				if err := from.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			to.WaitFor(2)
			if got := to.Texts(); len(got) != 2 || got[0] != "one" || got[1] != "two" || to.Messages()[1].Frames != 2 {
				t.Errorf("got %+v", to.Messages())
			}
			from.Wait("a pong", func() bool { return len(from.Pongs()) == 1 && from.Pongs()[0].Text == "?" })
		}
		client.Close(1000, "bye")
		for _, p := range []*Peer{client, server} {
			if e := p.WaitEnd(); e.Code != 1000 || e.Reason != "bye" || e.Err != io.EOF {
				t.Errorf("it ended with %v", e)
			}
		}
		complained.want(t, "")
	})
}

func TestPeersAreStrict(t *testing.T) {
	for name, c := range map[string]struct{ bytes, complaint string }{
		"masked":                {string(Masked(ws.OpText, true, "x")), "bad frame"},
		"reserved bit":          {"\xc1\x00", "bad frame"},
		"continuation":          {string(Plain(ws.OpContinuation, true, "x")), "bad frame"},
		"message in a message":  {string(Plain(ws.OpText, false, "x")) + string(Plain(ws.OpText, true, "x")), "bad frame"},
		"fragmented control":    {string(Plain(ws.OpPing, false, "x")), "bad frame"},
		"no UTF-8":              {string(Plain(ws.OpText, true, "\xff")), "no UTF-8"},
		"a frame after a Close": {string(Plain(ws.OpClose, true, "")) + string(Plain(ws.OpText, true, "x")), "after the Close"},
		"nothing wrong":         {string(Plain(ws.OpText, false, "\xc3")) + string(Plain(ws.OpContinuation, true, "\xa9")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, server, complained := open(t, NewBackend(t))
				if err := server.Send([]byte(c.bytes)); err != nil {
					t.Fatal(err)
				}
				complained.want(t, c.complaint)
			})
		})
	}
}

func TestPeersMayBeRude(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend(t)
		client, server, complained := open(t, b)
		client.Mute(true)
		if err := server.Send(Plain(ws.OpPing, true, "?")); err != nil {
			t.Fatal(err)
		}
		server.Close(1001, "")
		synctest.Wait()
		if len(client.Pings()) != 1 || len(server.Pongs()) != 0 || server.Ending().Code != 0 || client.Ending().Code != 1001 {
			t.Errorf("a mute client answered: %d pongs, %v", len(server.Pongs()), server.Ending())
		}

		client, server, _ = open(t, b)
		client.Hold(true)
		server.Say("one", "two", "three")
		time.Sleep(time.Hour)
		if n := len(client.Messages()); n > 1 {
			t.Errorf("a client on hold read %d messages", n)
		}
		client.Hold(false)
		client.WaitFor(3)
		client.Drop()
		if e := server.WaitEnd(); e.Code != 0 || !strings.Contains(e.Err.Error(), "reset") {
			t.Errorf("a drop ended as %v", e)
		}
		complained.want(t, "")
		if client.Wait("what never comes", func() bool { return false }) {
			t.Error("it came")
		}
	})
}

func TestBackendsMayRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackend(t)
		b.Answers(func(string) string { return Refusal(418, "Teapot", "short and stout", "X-Tea: 1") })
		near, far := Pipe()
		go serveHeader(far, b.Serve)
		client, answer, err := OpenClient(t, near, ClientRequest("/"))
		if client != nil || err != nil {
			t.Fatalf("%v, %v, want a refusal", client, err)
		}
		body, err := io.ReadAll(answer.Body)
		if answer.StatusCode != 418 || answer.Header.Get("X-Tea") != "1" || string(body) != "short and stout" || err != nil {
			t.Errorf("refused with %d %v %q, %v", answer.StatusCode, answer.Header, body, err)
		}
		near.Close()
		far.Close()
	})
}
