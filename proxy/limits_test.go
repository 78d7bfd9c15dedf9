package proxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/proxytest"
)

// Rule 8, for all sessions together. Limits for each session alone once let 1,200 sessions of
// 8 MB fill a server's memory.
func TestOverTheBufferLimitTheLongestAwayEndFirst(t *testing.T) {
	const sessions, each = 12, 60 << 10 // in buffers of 64 KiB
	story(t, func(c *config.Config) {
		c.Limits.MaxBufferBytes = 8 * 64 << 10
		c.Session.Grace = time.Hour
	}, func(t *testing.T, w *world) {
		var clients []*proxytest.Peer
		for i := range sessions {
			clients = append(clients, w.client(fmt.Sprintf("/?client_id=%d", i)))
		}
		ups := w.backend.Peers()
		order := rand.New(rand.NewPCG(1, 2)).Perm(sessions) // they go away in another order than they came
		for _, i := range order {
			clients[i].Drop()
			w.pass(time.Second)
		}
		say := func(i int) {
			ups[i].Say(strings.Repeat("x", each))
			w.pass(time.Second)
		}
		for _, i := range order[4:] { // eight buffers, as many as there may be
			say(i)
		}
		w.wantSessions(0, sessions)
		// One more, of the session that has been away for longest: it is the first one to end.
		say(order[0])
		wantClose(t, ups[order[0]], "the upstream of the longest away", frame.CodeTryAgainLater)
		w.wantSessions(0, sessions-1)
		// Those without a buffer don't help by ending.
		say(order[5]) // doubles its own: two sessions too many for the limit
		ended := []int{}
		for i, up := range ups {
			if up.Ending().Code != 0 {
				ended = append(ended, slices.Index(order, i))
			}
		}
		slices.Sort(ended)
		if !slices.Equal(ended, []int{0, 4}) {
			t.Errorf("of the sessions in the order of their going away, %v were ended, want 0 and 4", ended)
		}
		w.wantMetric(`tideover_sessions_left_total{reason="evicted"}`, "2")
		w.wantMetric("tideover_buffer_bytes", fmt.Sprint(8*64<<10))
		if n := len(w.logged("ended the sessions that were away for longest")); n != 2 {
			t.Errorf("%d log lines, want one for each time", n)
		}
		for place, i := range order {
			if place == 0 || place == 4 {
				continue
			}
			c := w.client(fmt.Sprintf("/?client_id=%d", i))
			w.pass(time.Second)
			want := map[bool]int{true: 1}[place > 4]
			if place == 5 {
				want = 2
			}
			if got := len(c.Messages()); got != want {
				t.Errorf("the session that went away as number %d has %d messages for its client, want %d", place, got, want)
			}
		}
		w.wantMetric("tideover_buffer_bytes", "0")
	})
}

// Buffers that fill up right after an eviction are looked at again, also if nothing comes after that.
func TestTheBufferLimitHoldsForTheLastBurstToo(t *testing.T) {
	story(t, func(c *config.Config) { c.Limits.MaxBufferBytes = 100 << 10 }, func(t *testing.T, w *world) {
		for i := range 4 {
			w.client(fmt.Sprintf("/?client_id=%d", i)).Drop()
			w.pass(time.Second)
		}
		ups := w.backend.Peers()
		for _, up := range ups { // all in one moment, one after the other
			up.Say(strings.Repeat("x", 60<<10))
			w.settle()
		}
		w.pass(time.Second)
		if held := w.p.buffered.Load(); held > 100<<10 {
			t.Errorf("%d bytes are held for as long as nothing happens, want 102400 at most", held)
		}
		w.wantSessions(0, 1)
	})
}

// Attached sessions are never ended for their buffers: they wait, and lose nothing.
func TestOverTheBufferLimitAttachedSessionsWait(t *testing.T) {
	const limit, messages = 256 << 10, 300
	story(t, func(c *config.Config) { c.Limits.MaxBufferBytes = limit }, func(t *testing.T, w *world) {
		var clients []*proxytest.Peer
		for i := range 4 {
			c := w.client(fmt.Sprintf("/?client_id=%d", i))
			c.Hold(true)
			clients = append(clients, c)
		}
		ups := w.backend.Peers()
		said := make(chan bool, 4)
		for _, up := range ups {
			go func() {
				for i := range messages {
					if up.Send(proxytest.Plain(ws.OpText, true, fmt.Sprintf("%d %s", i, strings.Repeat("x", 10<<10)))) != nil {
						return // its session was ended
					}
				}
				said <- true
			}()
		}
		w.pass(10 * time.Second)
		select {
		case <-said:
			t.Error("an upstream could send everything while nobody read")
		default:
		}
		// Each may have read beyond the limit what one read brought before it knew, and buffers
		// are up to twice as large as what is in them; the upstreams have 12 MB to say.
		if held := w.p.buffered.Load(); held < limit/2 || held > 4*limit {
			t.Errorf("%d bytes are held, want about the limit, %d", held, limit)
		}
		w.wantSessions(4, 0)
		clients[3].Drop() // this one's buffer helps the others
		w.pass(time.Second)
		for _, c := range clients {
			c.Hold(false)
		}
		w.pass(time.Minute)
		for i, c := range clients[:3] {
			wantNumbered(t, c, fmt.Sprintf("client %d", i), messages)
		}
	})
}

// wantNumbered wants n messages that begin with their number, counted from 0.
func wantNumbered(t *testing.T, who *proxytest.Peer, what string, n int) {
	t.Helper()
	got := who.Texts()
	if len(got) != n {
		t.Errorf("%s: got %d messages, want %d (%v)", what, len(got), n, who.Ending())
	}
	for i, text := range got {
		if number, _, _ := strings.Cut(text, " "); number != fmt.Sprint(i) {
			t.Errorf("%s: message %d is number %s", what, i, number)
			return
		}
	}
}

// Rule 8, for one session. What a client has not received never exceeds the window.
func TestAFullWindowMakesTheUpstreamWait(t *testing.T) {
	const messages = 500
	for name, change := range map[string]func(*config.Config){
		"attached, by messages": func(c *config.Config) { c.Replay.MaxMessages = 10 },
		"attached, by bytes":    func(c *config.Config) { c.Replay.MaxBytes = 64 << 10 },
		"away":                  func(c *config.Config) { c.Replay.MaxBytes = 64 << 10; c.Replay.Overflow = config.OverflowPause },
	} {
		t.Run(name, func(t *testing.T) {
			story(t, change, func(t *testing.T, w *world) {
				c := w.client("/?client_id=a")
				c.Hold(true)
				if name == "away" {
					c.Drop()
					w.settle()
				}
				up := w.backend.Peer(0)
				done := false
				go func() {
					for i := range messages {
						up.Say(fmt.Sprintf("%d %s", i, strings.Repeat("x", 2<<10)))
					}
					done = true
				}()
				for range 10 {
					w.pass(time.Second / 2)
					s := w.session()
					if got := s["window_messages"].(float64); got > float64(w.cfg.Replay.MaxMessages) {
						t.Fatalf("the window holds %v messages, limit %d", got, w.cfg.Replay.MaxMessages)
					}
					if got := s["window_bytes"].(float64); got > float64(w.cfg.Replay.MaxBytes) {
						t.Fatalf("the window holds %v bytes, limit %d", got, w.cfg.Replay.MaxBytes)
					}
				}
				if done {
					t.Error("the upstream could send everything while nobody read")
				}
				if name == "away" {
					c = w.client("/?client_id=a")
				}
				c.Hold(false)
				w.pass(time.Minute)
				wantNumbered(t, c, "the client", messages)
			})
		})
	}
}

func TestAnOverflowWhileAwayEndsTheSession(t *testing.T) {
	story(t, func(c *config.Config) { withEvents(c); c.Replay.MaxMessages = 3 }, func(t *testing.T, w *world) {
		w.drop(w.client("/?client_id=a"))
		up := w.backend.Peer(0)
		up.Say("1", "2", "3")
		w.settle()
		wantOpen(t, up, "the upstream of a window that is just full")
		up.Say("4")
		w.settle()
		wantClose(t, up, "the upstream of a window that is more than full", frame.CodeTryAgainLater)
		wantTexts(t, up, "the upstream", tellJoined, tellAway, tellLeft)
		c := w.client("/?client_id=a")
		wantTexts(t, c, "the client of a new session")
		w.wantMetric(`tideover_sessions_left_total{reason="overflow"}`, "1")
	})
}

// A session that came back while the longest away were looked for is not theirs any more.
func TestAnEvictionSparesWhoCameBack(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.client("/?client_id=a").Drop()
		w.pass(time.Second)
		r := w.relay()
		defer r.release()
		since := r.core.Since()
		c := w.client("/?client_id=a")
		if r.evict(since) {
			t.Error("an attached session was evicted")
		}
		c.Drop()
		w.settle()
		if r.evict(since) {
			t.Error("a session that is away anew was evicted")
		}
		wantOpen(t, w.client("/?client_id=a"), "the client")
	})
}
