package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
)

// Two clients come with a key that nobody knows yet, while the first one's upstream is still
// thinking: there is one upstream, and the second client takes the session over.
func TestTwoClientsWithOneNewKeyShareOneUpstream(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		w.backend.Late(2 * time.Second)
		// The more often, the likelier it shows if the second one could slip in first.
		for i := range 30 {
			target := fmt.Sprintf("/?client_id=%d", i)
			first, second := w.begin(target), w.begin(target)
			w.pass(2 * time.Second)
			one, two := <-first, <-second
			wantRefused(t, one, "the first client", http.StatusSwitchingProtocols)
			wantRefused(t, two, "the second client", http.StatusSwitchingProtocols)
			if n := len(w.backend.Peers()); n != i+1 {
				t.Fatalf("%d clients' upstreams were dialled, want %d: one for both", n, i+1)
			}
			wantClose(t, one.client, "the first client", 4409)
			wantOpen(t, two.client, "the second client")
			two.client.Say("hello")
			w.settle()
			wantTexts(t, w.backend.Peer(i), "the upstream of both", tellJoined, "hello")
		}
		w.wantSessions(30, 0)
	})
}

func TestTheSecondOfTwoNewClientsIsRefusedWhereConflictsAre(t *testing.T) {
	reject := func(c *config.Config) { c.Session.OnConflict = config.ConflictReject }
	story(t, reject, func(t *testing.T, w *world) {
		w.backend.Late(2 * time.Second)
		for i := range 30 {
			target := fmt.Sprintf("/?client_id=%d", i)
			first, second := w.begin(target), w.begin(target)
			w.pass(2 * time.Second)
			one, two := <-first, <-second
			wantRefused(t, one, "the first client", http.StatusSwitchingProtocols)
			wantRefused(t, two, "the second client", http.StatusConflict)
			wantOpen(t, one.client, "the first client")
		}
		if n := len(w.backend.Peers()); n != 30 {
			t.Errorf("%d upstreams were dialled, want 30", n)
		}
		w.wantMetric(`tideover_handshakes_refused_total{reason="conflict"}`, "30")
	})
}

func TestAFailedDialLeavesTheKeyToWhoeverWaits(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		good := w.dial
		w.dial = func(context.Context, string, string) (net.Conn, error) {
			w.dial = good
			time.Sleep(time.Second)
			return nil, errors.New("no route to host")
		}
		first, second, third := w.begin("/?client_id=a"), w.begin("/?client_id=a"), w.begin("/?client_id=other")
		wantRefused(t, <-third, "a client with another key", http.StatusSwitchingProtocols)
		w.pass(time.Second)
		wantRefused(t, <-first, "the one whose dial failed", http.StatusBadGateway)
		wantRefused(t, <-second, "the one who waited", http.StatusSwitchingProtocols)
		w.wantSessions(2, 0)
	})
}

// What an upstream says instead of 101 may have no end. It is the business of one client.
func TestAnEndlessRefusalHoldsNeitherKeyNorPlace(t *testing.T) {
	story(t, func(c *config.Config) { c.Limits.MaxSessions = 1 }, func(t *testing.T, w *world) {
		good := w.dial
		w.dial = proxytest.PipeUpstream(func(conn net.Conn, _ string) {
			_, err := io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\n\r\nno")
			for err == nil {
				time.Sleep(time.Second)
				_, err = io.WriteString(conn, " and no")
			}
		})
		stuck := w.connect()
		if _, err := io.WriteString(stuck, proxytest.ClientRequest("/?client_id=a")); err != nil {
			t.Fatal(err)
		}
		w.pass(10 * time.Second)
		w.dial = good
		c := w.client("/?client_id=a")
		c.Say("hello")
		w.pass(time.Second)
		wantTexts(t, w.backend.Peer(0), "the new client's upstream", "hello")
		stuck.Close()
		w.pass(2 * time.Second) // the refusing upstream notices
	})
}

// Whatever becomes of a handshake or a session, its place under limits.max_sessions is free
// afterwards, and while it is taken there is none for others.
func TestEveryPlaceComesBack(t *testing.T) {
	one := func(c *config.Config) {
		c.Limits.MaxSessions = 1
		c.Session.Grace = 10 * time.Second
	}
	for name, use := range map[string]func(t *testing.T, w *world){
		"failed dial": func(t *testing.T, w *world) {
			w.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route to host") }
			wantRefused(t, w.try("/?client_id=a"), "without an upstream", http.StatusBadGateway)
		},
		"dial timeout": func(t *testing.T, w *world) {
			w.backend.Late(time.Hour)
			v := w.begin("/?client_id=a")
			w.pass(w.cfg.Upstream.ConnectTimeout)
			wantRefused(t, <-v, "with an upstream that is too slow", http.StatusGatewayTimeout)
			w.pass(time.Hour) // the backend wakes up
		},
		"broken answer": func(t *testing.T, w *world) {
			w.backend.Answers(func(string) string { return "SSH-2.0-OpenSSH_9.2\r\n" })
			wantRefused(t, w.try("/?client_id=a"), "with nonsense for an answer", http.StatusBadGateway)
		},
		"refusal": func(t *testing.T, w *world) {
			w.backend.Answers(func(string) string { return proxytest.Refusal(401, "Unauthorized", "who are you?") })
			wantRefused(t, w.try("/?client_id=a"), "a client that the upstream refuses", http.StatusUnauthorized)
		},
		"client gone while dialling": func(t *testing.T, w *world) {
			w.backend.Late(3 * time.Second)
			conn := w.connect()
			if _, err := io.WriteString(conn, proxytest.ClientRequest("/?client_id=a")); err != nil {
				t.Fatal(err)
			}
			w.settle()
			conn.Close()
			w.pass(3 * time.Second)
		},
		"session closed by its client": func(t *testing.T, w *world) {
			c := w.client("/?client_id=a")
			c.Close(ws.StatusNormalClosure, "")
			w.settle()
		},
		"grace over": func(t *testing.T, w *world) {
			w.client("/?client_id=a").Drop()
			w.settle()
			wantRefused(t, w.try("/?client_id=b"), "another client while the session is away", http.StatusServiceUnavailable)
			w.pass(w.cfg.Session.Grace)
		},
		"session closed by its upstream": func(t *testing.T, w *world) {
			w.client("/?client_id=a")
			w.backend.Peer(0).Close(ws.StatusNormalClosure, "")
			w.settle()
		},
		"upstream lost": func(t *testing.T, w *world) {
			w.client("/?client_id=a")
			w.backend.Peer(0).Drop()
			w.settle()
		},
		"client without a key": func(t *testing.T, w *world) {
			w.client("/").Drop()
			w.settle()
		},
		"client of tideover.v1": func(t *testing.T, w *world) {
			w.client("/", "Sec-WebSocket-Protocol: tideover.v1").Close(ws.StatusNormalClosure, "")
			w.settle()
		},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, one, func(t *testing.T, w *world) {
				good := w.dial
				use(t, w)
				if n := w.p.live.Load(); n != 0 {
					t.Errorf("%d places are taken, want none", n)
				}
				w.backend.Answers(nil)
				w.dial = good
				w.client("/?client_id=c")
				v := w.try("/?client_id=d")
				wantRefused(t, v, "a client over limits.max_sessions", http.StatusServiceUnavailable)
				if v.header.Get("Retry-After") == "" {
					t.Error("503 without Retry-After")
				}
			})
		})
	}
}

func TestAWaitingHandshakeGivesUpInTime(t *testing.T) {
	story(t, func(c *config.Config) {
		c.Limits.HandshakeTimeout = 3 * time.Second
		c.Upstream.ConnectTimeout = 8 * time.Second
	}, func(t *testing.T, w *world) {
		w.backend.Late(5 * time.Second)
		first := w.begin("/?client_id=a")
		w.pass(time.Second)
		second := w.begin("/?client_id=a")
		w.pass(3*time.Second - 1)
		select {
		case v := <-second:
			t.Fatalf("the second client was answered with %d before limits.handshake_timeout", v.status)
		default:
		}
		w.pass(1)
		wantRefused(t, <-second, "a client that waits for another one's dial", http.StatusGatewayTimeout)
		w.pass(time.Second)
		wantRefused(t, <-first, "the client that dials", http.StatusSwitchingProtocols)
	})
}
