package proxy

import (
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
)

// Rule 1: the upstream sees the client's own handshake, and whom the proxy saw.
func TestTheUpstreamSeesTheClientsHandshake(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.client("/room/7?client_id=a&x=%20", "Cookie: sid=1; theme=dark", "Authorization: Bearer secret",
			"Origin: https://app.example", "User-Agent: test/1", "X-Forwarded-For: 10.0.0.1", "Keep-Alive: 5",
			"Sec-WebSocket-Extensions: permessage-deflate")
		request := w.backend.Peer(0).Request
		if !strings.HasPrefix(request, "GET /room/7?client_id=a&x=%20 HTTP/1.1\r\n") {
			t.Errorf("the upstream got %q", request)
		}
		for name, want := range map[string][]string{
			"Host": {"tideover.test"}, "Cookie": {"sid=1; theme=dark"}, "Authorization": {"Bearer secret"},
			"Origin": {"https://app.example"}, "User-Agent": {"test/1"}, "X-Forwarded-Host": {"tideover.test"},
			"X-Forwarded-For": {"198.51.100.2"}, "X-Forwarded-Proto": {"http"}, "Keep-Alive": nil, "Sec-WebSocket-Extensions": nil,
		} {
			if got := proxytest.HeaderValues(request, name); !reflect.DeepEqual(got, want) {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	})
}

// Rule 1: no 101 before the upstream's, and its refusal is relayed as it is.
func TestTheUpstreamIsAskedFirst(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.backend.Late(3 * time.Second)
		v := w.begin("/?client_id=a")
		w.pass(3*time.Second - 1)
		select {
		case v := <-v:
			t.Fatalf("answered with %d before the upstream had answered", v.status)
		default:
		}
		w.pass(1)
		wantRefused(t, <-v, "the client", http.StatusSwitchingProtocols)

		w.backend.Answers(func(string) string {
			return proxytest.Refusal(401, "Unauthorized", "log in first", `WWW-Authenticate: Basic realm="chat"`, "Set-Cookie: a=1", "Set-Cookie: b=2")
		})
		refused := w.try("/?client_id=b")
		wantRefused(t, refused, "a client that the upstream refuses", http.StatusUnauthorized)
		if refused.body != "log in first" || refused.header.Get("WWW-Authenticate") != `Basic realm="chat"` ||
			!slices.Equal(refused.header["Set-Cookie"], []string{"a=1", "b=2"}) {
			t.Errorf("the refusal came as %q with %v", refused.body, refused.header)
		}
		w.wantMetric(`tideover_handshakes_refused_total{reason="by_upstream"}`, "1")
	})
}

func TestASlowUpstreamIsGivenItsTimeAndNoMore(t *testing.T) {
	story(t, func(c *config.Config) { c.Upstream.ConnectTimeout = 2 * time.Second }, func(t *testing.T, w *world) {
		w.backend.Late(2*time.Second - 1)
		in := w.begin("/?client_id=a")
		w.pass(2*time.Second - 1)
		wantRefused(t, <-in, "just in time", http.StatusSwitchingProtocols)
		w.backend.Late(time.Minute)
		late := w.begin("/?client_id=b")
		w.pass(2*time.Second - 1)
		select {
		case v := <-late:
			t.Fatalf("answered with %d before upstream.connect_timeout", v.status)
		default:
		}
		w.pass(1)
		wantRefused(t, <-late, "too late", http.StatusGatewayTimeout)
		w.wantMetric(`tideover_upstream_dial_failures_total{kind="timeout"}`, "1")
		w.pass(time.Minute)
	})
}

// Rule 9, for sessions that are found by their key.
func TestWithOtherCredentialsASessionStaysAsItWas(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		mine, theirs := "Authorization: Bearer mine", "Authorization: Bearer theirs"
		c := w.client("/?client_id=a", mine)
		up := w.backend.Peer(0)
		for _, lines := range [][]string{{theirs}, {}, {mine, mine}, {"authorization: bearer mine"}} {
			wantRefused(t, w.try("/?client_id=a", lines...), "another client, while the session is attached", http.StatusForbidden)
		}
		up.Say("still there?")
		w.settle()
		c.Say("yes")
		w.settle()
		wantOpen(t, c, "the session's client")
		wantTexts(t, c, "the session's client", "still there?")

		w.drop(c)
		up.Say("for you only")
		w.pass(10 * time.Second)
		before := w.session()
		wantRefused(t, w.try("/?client_id=a", theirs), "another client, while the session is away", http.StatusForbidden)
		wantRefused(t, w.try("/?client_id=a"), "a client without credentials, while the session is away", http.StatusForbidden)
		if after := w.session(); !reflect.DeepEqual(before, after) {
			t.Errorf("the refusal changed the session from %v to %v", before, after)
		}
		w.pass(20*time.Second - 1)
		back := w.client("/?client_id=a", mine)
		w.settle()
		wantTexts(t, back, "the session's client", "still there?", "for you only")
		wantTexts(t, up, "the upstream", tellJoined, "yes", tellAway, tellReconnected)
		if n := len(w.backend.Peers()); n != 1 {
			t.Errorf("%d upstreams were dialled, want 1", n)
		}
		w.wantMetric(`tideover_handshakes_refused_total{reason="bind"}`, "6")
	})
}

func TestOnConflictRejectKeepsTheAttachedClient(t *testing.T) {
	story(t, func(c *config.Config) { c.Session.OnConflict = config.ConflictReject }, func(t *testing.T, w *world) {
		c := w.client("/?client_id=a")
		wantRefused(t, w.try("/?client_id=a"), "a second client", http.StatusConflict)
		wantOpen(t, c, "the first client")
		c.Drop()
		w.settle()
		back := w.client("/?client_id=a")
		wantOpen(t, back, "a client that resumes")
		wantRefused(t, w.try("/?client_id=a"), "a second client after the resume", http.StatusConflict)
		w.wantMetric("tideover_resumes_total", "1")
		w.wantMetric("tideover_supersedes_total", "0")
	})
}

func TestAForeignOriginIsRefusedBeforeTheUpstreamIsAsked(t *testing.T) {
	origins := func(c *config.Config) { c.Limits.AllowedOrigins = []config.Origin{"https://app.example"} }
	story(t, origins, func(t *testing.T, w *world) {
		wantRefused(t, w.try("/?client_id=a", "Origin: https://evil.example"), "a page from elsewhere", http.StatusForbidden)
		wantRefused(t, w.try("/?client_id=a", "Origin: null"), "a sandboxed page", http.StatusForbidden)
		if n := len(w.backend.Peers()); n != 0 {
			t.Errorf("%d upstreams were dialled for them", n)
		}
		c := w.client("/?client_id=a", "Origin: https://app.example")
		wantRefused(t, w.try("/?client_id=a", "Origin: https://evil.example"), "a page that wants the session", http.StatusForbidden)
		wantOpen(t, c, "the session's client")
		w.wantMetric(`tideover_handshakes_refused_total{reason="origin"}`, "3")
	})
}

// Rule 1: a subprotocol is only ever selected for a client that offers it, also where it
// resumes a session whose first client offered it.
func TestSubprotocols(t *testing.T) {
	for _, c := range []struct{ name, offer, chosen, want, resumeOffer, resumeWant string }{
		{"chosen", "graphql-ws, chat", "chat", "chat", "chat, graphql-ws", "chat"},
		{"none chosen", "chat", "", "", "chat", ""},
		{"none offered", "", "", "", "chat", ""},
		{"resumed without offering any", "chat", "chat", "chat", "", ""},
		{"resumed with another offer", "chat", "chat", "chat", "graphql-ws", ""},
		{"in any case but exactly", "Chat", "Chat", "Chat", "chat", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			story(t, nil, func(t *testing.T, w *world) {
				w.backend.Answers(func(header string) string {
					if c.chosen == "" {
						return proxytest.SwitchingProtocols(header)
					}
					return proxytest.SwitchingProtocols(header, "Sec-WebSocket-Protocol: "+c.chosen)
				})
				offer := func(protocols string) []string {
					if protocols == "" {
						return nil
					}
					return []string{"Sec-WebSocket-Protocol: " + protocols}
				}
				first := w.client("/?client_id=a", offer(c.offer)...)
				if got := strings.Join(first.Answer.Header["Sec-Websocket-Protocol"], "+"); got != c.want {
					t.Errorf("the 101 selects %q, want %q", got, c.want)
				}
				if got := strings.Join(proxytest.HeaderValues(w.backend.Peer(0).Request, "Sec-WebSocket-Protocol"), "+"); got != c.offer {
					t.Errorf("the upstream was offered %q, want %q", got, c.offer)
				}
				w.drop(first)
				again := w.client("/?client_id=a", offer(c.resumeOffer)...)
				if got := strings.Join(again.Answer.Header["Sec-Websocket-Protocol"], "+"); got != c.resumeWant {
					t.Errorf("the 101 of the resume selects %q, want %q", got, c.resumeWant)
				}
			})
		})
	}
}

func TestUnreadableSubprotocolsAreRefused(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		for _, list := range []string{"a, a", "a,,b", "a b", "a;b", ",", "\"a\"", "a\u00e9"} {
			wantRefused(t, w.try("/?client_id=a", "Sec-WebSocket-Protocol: "+list), "an offer of "+list, http.StatusBadRequest)
		}
		many := strings.TrimSuffix(strings.Repeat("p, ", 101), ", ")
		wantRefused(t, w.try("/?client_id=a", "Sec-WebSocket-Protocol: "+many), "an offer of 101", http.StatusBadRequest)
		if n := len(w.backend.Peers()); n != 0 {
			t.Errorf("%d upstreams were dialled for them", n)
		}
	})
}

// Rule 1: the upstream's other headers go to the client whose handshake they answer.
func TestTheUpstreamsHeadersAreOnThe101(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.backend.Answers(func(header string) string {
			return proxytest.SwitchingProtocols(header, "Set-Cookie: a=1", "Set-Cookie: b=2; Path=/", "X-Node: 7", "Connection: x-hop", "X-Hop: 1", "Content-Length: 5")
		})
		c := w.client("/?client_id=a")
		h := c.Answer.Header
		if !slices.Equal(h["Set-Cookie"], []string{"a=1", "b=2; Path=/"}) || h.Get("X-Node") != "7" {
			t.Errorf("the 101 has %v", h)
		}
		for name := range h {
			if !slices.Contains([]string{"Set-Cookie", "X-Node", "Upgrade", "Connection", "Sec-Websocket-Accept"}, name) {
				t.Errorf("the 101 has %s: %q", name, h[name])
			}
		}
		w.drop(c)
		if h := w.client("/?client_id=a").Answer.Header; h.Get("Set-Cookie") != "" {
			t.Errorf("the 101 of a resume, which no upstream has seen, has %v", h)
		}
	})
}

// Nothing that an upstream puts into a header can end it early.
func TestHeadersOfThe101CantBeSplit(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		for _, line := range []string{"X-A: 1\rSet-Cookie: evil=1", "X-A: 1\n\nevil", "X-A\r: 1", "X-A: 1\x00", "X-A: 1\r\n Set-Cookie: evil=1"} {
			w.backend.Answers(func(header string) string { return proxytest.SwitchingProtocols(header, line) })
			v := w.try("/?client_id=" + "abcdefgh"[:len(line)%8])
			if v.status == http.StatusBadGateway {
				continue
			}
			wantRefused(t, v, "an upstream that says "+line, http.StatusSwitchingProtocols)
			for _, value := range v.header["X-A"] {
				if strings.ContainsAny(value, "\r\n\x00") {
					t.Errorf("X-A came as %q", value)
				}
			}
			if v.header.Get("Set-Cookie") != "" {
				t.Errorf("%q became the headers %v", line, v.header)
			}
			w.settle()
			if v.client != nil {
				wantTexts(t, v.client, "the client")
			}
		}
	})
}

// What comes in one packet with a handshake belongs to the WebSocket.
func TestEarlyBytesReachTheOtherSide(t *testing.T) {
	tell := func(t *testing.T, w *world) {
		hello := string(proxytest.Masked(ws.OpText, true, "from the client"))
		long := strings.Repeat("long ", 500)
		w.backend.Answers(func(header string) string {
			return proxytest.SwitchingProtocols(header) + string(proxytest.Plain(ws.OpText, true, "from the upstream")) +
				string(proxytest.Plain(ws.OpText, true, long))[:1000] // and the rest later
		})
		rest := string(proxytest.Plain(ws.OpText, true, long))[1000:]
		for i, target := range []string{"/?client_id=a", "/"} { // sessions that are kept, and those that are not
			request := proxytest.ClientRequest(target) + hello + hello[:7]
			c, _, err := proxytest.OpenClient(t, w.connect(), request)
			if err != nil || c == nil {
				t.Fatalf("handshake for %s: %v", target, err)
			}
			up := w.backend.Peer(i)
			if err := c.Send([]byte(hello[7:])); err != nil {
				t.Fatal(err)
			}
			if err := up.Send([]byte(rest)); err != nil {
				t.Fatal(err)
			}
			up.WaitFor(2)
			c.WaitFor(2)
			wantTexts(t, up, "the upstream of "+target, "from the client", "from the client")
			wantTexts(t, c, "the client of "+target, "from the upstream", long)
			if target == "/" {
				continue
			}
			again, _, err := proxytest.OpenClient(t, w.connect(), request)
			if err != nil || again == nil {
				t.Fatalf("resume of %s: %v", target, err)
			}
			up.WaitFor(3)
			wantTexts(t, up, "the upstream after a resume", "from the client", "from the client", "from the client")
		}
	}
	t.Run("in memory", func(t *testing.T) { story(t, nil, tell) })
	t.Run("over sockets", func(t *testing.T) { socketStory(t, nil, tell) })
}

func TestAClientThatOnlySendsItsHandshakeSlowlyIsCutOff(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		conn := w.connect()
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /?client_id=a HTTP/1.1\r\nHost: x\r\n"); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, _ = io.ReadAll(conn)
		if waited := time.Since(begin); waited != w.cfg.Limits.HandshakeTimeout {
			t.Errorf("half a handshake was waited for %v, want %v", waited, w.cfg.Limits.HandshakeTimeout)
		}
	})
}
