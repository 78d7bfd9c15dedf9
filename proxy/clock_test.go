package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/proxytest"
)

// These stories are about when things happen, to the nanosecond of the fake clock.

func wantAt(t *testing.T, what string, at, begin time.Time, want time.Duration) {
	t.Helper()
	if got := at.Sub(begin); got != want {
		t.Errorf("%s came after %v, want %v", what, got, want)
	}
}

func wantWithin(t *testing.T, what string, at, begin time.Time, most time.Duration) {
	t.Helper()
	if got := at.Sub(begin); got <= 0 || got > most {
		t.Errorf("%s came after %v, want more than nothing and at most %v", what, got, most)
	}
}

// Rule 4.
func TestGraceIsOverToTheNanosecond(t *testing.T) {
	t.Run("nobody comes back", func(t *testing.T) {
		story(t, withEvents, func(t *testing.T, w *world) {
			c := w.client("/?client_id=a")
			up := w.backend.Peer(0)
			w.pass(time.Hour)
			c.Drop()
			dropped := time.Now()
			w.pass(w.cfg.Session.Grace - 1)
			wantOpen(t, up, "the upstream just before the end of the grace")
			wantTexts(t, up, "the upstream just before the end of the grace", tellJoined, tellAway)
			w.wantSessions(0, 1)
			w.pass(1)
			wantTexts(t, up, "the upstream at the end of the grace", tellJoined, tellAway, tellLeft)
			wantClose(t, up, "the upstream at the end of the grace", frame.CodeGoingAway)
			events := up.Messages()
			wantAt(t, "away", events[1].At, dropped, 0)
			wantAt(t, "left", events[2].At, dropped, w.cfg.Session.Grace)
			wantAt(t, "the upstream's Close", up.Ending().At, dropped, w.cfg.Session.Grace)
			w.client("/?client_id=a")
			if n := len(w.backend.Peers()); n != 2 {
				t.Errorf("a client that comes later finds %d upstreams dialled, want its own, the second", n)
			}
		})
	})
	t.Run("in the last nanosecond it comes back", func(t *testing.T) {
		story(t, withEvents, func(t *testing.T, w *world) {
			for range 3 {
				w.client("/?client_id=a").Drop()
				w.pass(w.cfg.Session.Grace - 1)
			}
			c := w.client("/?client_id=a")
			w.pass(time.Hour)
			wantOpen(t, c, "the client")
			wantTexts(t, w.backend.Peer(0), "the upstream", tellJoined, tellAway, tellReconnected, tellAway, tellReconnected, tellAway, tellReconnected)
			if n := len(w.backend.Peers()); n != 1 {
				t.Errorf("%d upstreams were dialled, want 1", n)
			}
		})
	})
}

func TestAwayIsHeldBackForAwayAfter(t *testing.T) {
	story(t, func(c *config.Config) { withEvents(c); c.Events.AwayAfter = 5 * time.Second }, func(t *testing.T, w *world) {
		w.client("/?client_id=a").Drop()
		up := w.backend.Peer(0)
		w.pass(5*time.Second - 1)
		c := w.client("/?client_id=a")
		w.pass(time.Minute)
		wantTexts(t, up, "the upstream of a client that was back in time", tellJoined)
		c.Drop()
		dropped := time.Now()
		w.pass(5 * time.Second)
		wantTexts(t, up, "the upstream after away_after", tellJoined, tellAway)
		wantAt(t, "away", up.Messages()[1].At, dropped, 5*time.Second)
		w.pass(w.cfg.Session.Grace)
		wantTexts(t, up, "the upstream after the grace", tellJoined, tellAway, tellLeft)
		wantAt(t, "left", up.Messages()[2].At, dropped, w.cfg.Session.Grace)
	})
}

// Rule 5: one ping asks, the pong to a second one proves. The first of a leg comes at a random moment of the interval.
func TestReceiptsAreAskedForInTime(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		interval := w.cfg.Replay.ReceiptInterval
		c := w.client("/?client_id=a")
		up := w.backend.Peer(0)
		w.pass(time.Hour)
		said := time.Now()
		up.Say("one")
		w.pass(interval)
		if pings := c.Pings(); len(pings) != 1 {
			t.Fatalf("%d pings after replay.receipt_interval, want 1", len(pings))
		} else {
			wantWithin(t, "the ping that asks", pings[0].At, said, interval)
		}
		w.drop(c) // with one pong sent
		c = w.client("/?client_id=a")
		wantTexts(t, c, "the client whose receipt was not proven", "one")
		resumed := time.Now()
		w.pass(2 * interval)
		if pings := c.Pings(); len(pings) != 2 {
			t.Fatalf("%d pings after two intervals, want 2", len(pings))
		} else {
			wantWithin(t, "the new leg's ping that asks", pings[0].At, resumed, interval)
			wantAt(t, "the ping that proves", pings[1].At, pings[0].At, interval)
		}
		w.wantMetric("tideover_receipted_messages_total", "1")
		w.drop(c)
		c = w.client("/?client_id=a")
		w.pass(time.Minute)
		wantTexts(t, c, "the client whose receipt was proven")
		if pings := c.Pings(); len(pings) != 0 {
			t.Errorf("%d pings ask a client that has everything", len(pings))
		}
	})
}

// Rule 2: the proxy's own pings keep both legs alive, and begin at different moments.
func TestHeartbeatsBeginAtRandomMomentsAndGoOnInTime(t *testing.T) {
	const interval, clients = 30 * time.Second, 100
	story(t, func(c *config.Config) {
		c.Heartbeat.Interval, c.Upstream.Heartbeat.Interval = interval, interval
		c.Heartbeat.Message = `{"type":"hb"}`
	}, func(t *testing.T, w *world) {
		var all [2][]*proxytest.Peer
		for i := range clients {
			all[0] = append(all[0], w.client(fmt.Sprintf("/?client_id=%d", i)))
		}
		all[1] = w.backend.Peers()
		w.pass(4*interval - 1)
		for side, peers := range all {
			leg := [...]string{"client", "upstream"}[side]
			var first []time.Duration
			for _, p := range peers {
				pings := p.Pings()
				if len(pings) != 4 {
					t.Fatalf("%s leg: %d pings in four intervals, want 4", leg, len(pings))
				}
				first = append(first, pings[0].At.Sub(w.start))
				for i := range pings[1:] {
					wantAt(t, leg+" leg: the next ping", pings[i+1].At, pings[i].At, interval)
				}
				if side == 0 {
					wantTexts(t, p, "heartbeat.message", slices.Repeat([]string{`{"type":"hb"}`}, 4)...)
					wantAt(t, "heartbeat.message", p.Messages()[0].At, pings[0].At, 0)
				}
			}
			slices.Sort(first)
			if first[0] > interval/5 || first[clients-1] < interval*4/5 || len(slices.Compact(first)) != clients {
				t.Errorf("%s leg: the first pings lie between %v and %v, %d moments for %d legs: want them spread over %v",
					leg, first[0], first[clients-1], len(slices.Compact(first)), clients, interval)
			}
		}
	})
}

// A client that is silent is away after its missed heartbeats; so is an upstream's session over.
func TestSilenceIsNoticedByMissedHeartbeats(t *testing.T) {
	const interval = 10 * time.Second
	beats := func(c *config.Config) {
		withEvents(c)
		c.Heartbeat = config.ClientHeartbeat{Interval: interval, MaxMissed: 2}
		c.Upstream.Heartbeat = config.Heartbeat{Interval: interval, MaxMissed: 3}
	}
	t.Run("client", func(t *testing.T) {
		story(t, beats, func(t *testing.T, w *world) {
			c := w.client("/?client_id=a")
			up := w.backend.Peer(0)
			w.pass(interval)
			c.Conn.(*proxytest.PipeConn).Silence(true)
			heard := c.Pings()[0].At
			w.pass(3 * interval)
			wantTexts(t, up, "the upstream", tellJoined, tellAway)
			wantAt(t, "away", up.Messages()[1].At, heard, 3*interval) // the first unanswered ping went one interval after it
			w.wantMetric(`tideover_client_legs_lost_total{cause="unheard"}`, "1")
		})
	})
	t.Run("client that only talks", func(t *testing.T) {
		story(t, beats, func(t *testing.T, w *world) {
			c := w.client("/?client_id=a")
			c.Mute(true)
			for range 20 {
				w.pass(interval / 2)
				c.Say("still here")
			}
			w.settle()
			wantOpen(t, c, "a client that answers no pings and says much")
		})
	})
	t.Run("upstream", func(t *testing.T) {
		story(t, beats, func(t *testing.T, w *world) {
			c := w.client("/?client_id=a")
			up := w.backend.Peer(0)
			w.pass(interval)
			up.Mute(true)
			last := up.Pings()[len(up.Pings())-1].At
			w.pass(4*interval + interval)
			if e := c.Ending(); e.Err == nil {
				t.Fatalf("the client of a silent upstream: %v, want an end", e)
			} else {
				wantAt(t, "the end", e.At, last, 4*interval)
			}
			w.wantMetric(`tideover_sessions_left_total{reason="upstream_lost"}`, "1")
		})
	})
}

func TestClosingHandshakesEndInTime(t *testing.T) {
	t.Run("of a client, with an upstream that does not answer", func(t *testing.T) {
		story(t, withEvents, func(t *testing.T, w *world) {
			c := w.client("/?client_id=a")
			up := w.backend.Peer(0)
			up.Mute(true)
			closed := time.Now()
			c.Close(ws.StatusNormalClosure, "done")
			w.settle()
			wantClose(t, c, "the client", frame.CodeNormal)
			wantClose(t, up, "the upstream", frame.CodeNormal)
			wantTexts(t, up, "the upstream", tellJoined, tellLeft)
			w.pass(closeTimeout - 1)
			if e := up.Ending(); e.Err != nil || w.p.live.Load() != 1 {
				t.Errorf("the upstream had no time to answer: %v, %d sessions", e, w.p.live.Load())
			}
			w.pass(1)
			if e := up.Ending(); e.Err == nil || w.p.live.Load() != 0 {
				t.Errorf("%v after the Close: %v, %d sessions", time.Since(closed), e, w.p.live.Load())
			}
		})
	})
	t.Run("of an upstream, with a client that does not answer and comes back", func(t *testing.T) {
		story(t, withEvents, func(t *testing.T, w *world) {
			c := w.client("/?client_id=a")
			up := w.backend.Peer(0)
			c.Mute(true)
			up.Say("last words")
			up.Close(4321, "enough")
			w.settle()
			wantTexts(t, c, "the client", "last words")
			wantClose(t, c, "the client", 4321)
			w.pass(closeTimeout)
			w.wantSessions(0, 1)
			c = w.client("/?client_id=a")
			wantTexts(t, c, "the client that came back", "last words")
			wantClose(t, c, "the client that came back", 4321)
			w.pass(closeTimeout)
			w.wantSessions(0, 0)
		})
	})
}

// Rule 6: an upstream's Close waits for a client that is away.
func TestAnUpstreamsCloseReachesAClientThatIsAway(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.drop(w.client("/?client_id=a"))
		up := w.backend.Peer(0)
		up.Say("one", "two")
		up.Close(4000, "moved")
		w.pass(w.cfg.Session.Grace - 1)
		c := w.client("/?client_id=a")
		wantTexts(t, c, "the client that came back", "one", "two")
		wantClose(t, c, "the client that came back", 4000)
		if reason := c.Ending().Reason; reason != "moved" {
			t.Errorf("the reason was %q, want %q", reason, "moved")
		}
		w.pass(time.Second)
		w.wantSessions(0, 0)
		w.wantMetric(`tideover_sessions_left_total{reason="upstream_closed"}`, "1")
	})
}

func TestClientsWithoutIdentityAreLoggedOnceAMinute(t *testing.T) {
	const line = "clients without a session key"
	story(t, nil, func(t *testing.T, w *world) {
		for range 6 { // five, 12 s apart, fit a minute
			w.client("/")
			w.pass(12 * time.Second)
		}
		w.client("/")
		lines := w.logged(line)
		if len(lines) != 2 {
			t.Fatalf("%d log lines in 72 s, want 2", len(lines))
		}
		for i, want := range []uint64{1, 5} {
			if got := lines[i].ContextMap()["clients"]; got != want {
				t.Errorf("line %d speaks of %v clients, want %d", i, got, want)
			}
			if got := lines[i].ContextMap()["missing"]; got != "query:client_id" {
				t.Errorf("line %d says that %v is missing", i, got)
			}
		}
		wantAt(t, "the second line", lines[1].Time, lines[0].Time, time.Minute)
	})
}

func TestAnOutageIsLoggedOnce(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		good := w.dial
		w.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route to host") }
		for i := range 50 {
			wantRefused(t, w.try(fmt.Sprintf("/?client_id=%d", i)), "a client in an outage", http.StatusBadGateway)
			w.pass(time.Second)
		}
		if n := len(w.logged("upstream gives no usable answer")); n != 1 {
			t.Errorf("%d log lines for 50 failures in 50 s, want 1", n)
		}
		w.dial = good
		w.client("/?client_id=a")
		w.client("/?client_id=b")
		if lines := w.logged("upstream reachable again"); len(lines) != 1 || lines[0].ContextMap()["turned_away"] != int64(50) {
			t.Errorf("the end of the outage is logged as %v", lines)
		}
		w.wantMetric(`tideover_upstream_dial_failures_total{kind="unreachable"}`, "50")
	})
}
