package proxy

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/admin"
	"github.com/tideover/tideover/proxy/proxytest"
)

// What operators see of one session through its life.
func TestMetricsAndSessionsThroughADropAndAResume(t *testing.T) {
	story(t, func(c *config.Config) { c.Upstream.URL.Path = "/chat"; c.Upstream.URL.RawQuery = "secret=1" }, func(t *testing.T, w *world) {
		if status, _ := w.ask("/readyz"); status != 200 {
			t.Errorf("/readyz says %d, want 200", status)
		}
		if s := w.session(); s != nil {
			t.Errorf("before anybody came there is the session %v", s)
		}
		c := w.client("/?client_id=a")
		up := w.backend.Peer(0)
		c.Say(`{"id":1}`, `{"id":2}`, `{"id":1}`)
		up.Say("one")
		w.pass(time.Second) // received
		up.Say("two")
		w.settle()
		opened := w.start.UTC()
		w.wantSession("attached", map[string]any{
			"key": "a", "state": "attached", "since": opened.Format(time.RFC3339Nano), "upstream": "ws://127.0.0.1:9000/chat", "remote": c.Conn.LocalAddr().String(),
			"window_messages": 1.0, "window_bytes": 5.0, "messages_up": 3.0, "messages_down": 2.0,
			"replayed": 0.0, "duplicates_dropped": 1.0, "resumes": 0.0,
		})
		w.pass(10 * time.Millisecond)
		c.Drop()
		w.settle()
		dropped := time.Now().UTC()
		up.Say("three")
		w.pass(10 * time.Second)
		w.wantSession("away", map[string]any{
			"key": "a", "state": "away", "since": dropped.Truncate(time.Millisecond).Format(time.RFC3339Nano),
			"away_for_ms": 10_000.0, "grace_left_ms": 20_000.0,
			"upstream": "ws://127.0.0.1:9000/chat", "remote": c.Conn.LocalAddr().String(),
			"window_messages": 2.0, "window_bytes": 12.0, "messages_up": 3.0, "messages_down": 3.0,
			"replayed": 0.0, "duplicates_dropped": 1.0, "resumes": 0.0,
		})
		for series, want := range map[string]string{
			`tideover_sessions{state="attached"}`: "0", `tideover_sessions{state="away"}`: "1",
			`tideover_sessions_opened_total{mode="keyed"}`: "1", `tideover_client_legs_lost_total{cause="broken"}`: "1",
			`tideover_messages_total{direction="up"}`: "3", `tideover_messages_total{direction="down"}`: "3",
			`tideover_received_bytes_total{direction="up"}`: fmt.Sprint(3 * (6 + 8)), `tideover_received_bytes_total{direction="down"}`: "17",
			"tideover_duplicates_dropped_total": "1", "tideover_receipted_messages_total": "1", "tideover_dedup_ids": "2",
			"tideover_resumes_total": "0", "tideover_replayed_messages_total": "0", "tideover_buffer_bytes": "512",
		} {
			w.wantMetric(series, want)
		}
		id := w.session()["id"].(string)
		c = w.client("/?client_id=a")
		w.pass(time.Second)
		w.wantSession("attached again", map[string]any{
			"key": "a", "state": "attached", "since": dropped.Add(10 * time.Second).Truncate(time.Millisecond).Format(time.RFC3339Nano),
			"upstream": "ws://127.0.0.1:9000/chat", "remote": c.Conn.LocalAddr().String(),
			"window_messages": 0.0, "window_bytes": 0.0, "messages_up": 3.0, "messages_down": 3.0,
			"replayed": 2.0, "duplicates_dropped": 1.0, "resumes": 1.0,
		})
		status, body := w.ask("/api/sessions/" + id)
		var one map[string]any
		if err := json.Unmarshal([]byte(body), &one); status != 200 || err != nil || !reflect.DeepEqual(one, w.session()) {
			t.Errorf("/api/sessions/%s says %d %s (%v)", id, status, body, err)
		}
		c.Close(ws.StatusNormalClosure, "")
		w.pass(time.Second)
		if s := w.session(); s != nil {
			t.Errorf("after its end there is the session %v", s)
		}
		if status, _ := w.ask("/api/sessions/" + id); status != 404 {
			t.Errorf("a session that has left is answered with %d, want 404", status)
		}
		for series, want := range map[string]string{
			`tideover_sessions{state="attached"}`: "0", `tideover_sessions{state="away"}`: "0",
			`tideover_sessions_left_total{reason="client_closed"}`: "1", `tideover_client_legs_lost_total{cause="closed"}`: "1",
			"tideover_resumes_total": "1", "tideover_replayed_messages_total": "2", "tideover_receipted_messages_total": "3", "tideover_buffer_bytes": "0",
			`tideover_messages_total{direction="up"}`: "3", `tideover_messages_total{direction="down"}`: "3",
		} {
			w.wantMetric(series, want)
		}
	})
}

// wantSession compares the only session with want, but for its id.
func (w *world) wantSession(what string, want map[string]any) {
	w.t.Helper()
	got := w.session()
	delete(got, "id")
	if !reflect.DeepEqual(got, want) {
		w.t.Errorf("%s: the session is\n%v, want\n%v", what, got, want)
	}
}

// Monitoring takes a total that falls for a restart.
func TestTotalsNeverFallWhileSessionsComeAndGo(t *testing.T) {
	story(t, func(c *config.Config) { c.Session.Grace = 50 * time.Millisecond }, func(t *testing.T, w *world) {
		const workers, rounds = 8, 30
		var clients, scrapes sync.WaitGroup
		over := make(chan bool)
		for range 2 {
			scrapes.Go(func() {
				last := totals(w.p.Stats())
				for {
					now := totals(w.p.Stats())
					for name, n := range last {
						if now[name] < n {
							t.Errorf("%s fell from %d to %d", name, n, now[name])
						}
					}
					last = now
					select {
					case <-over:
						return
					case <-time.After(time.Millisecond):
					}
				}
			})
		}
		for worker := range workers {
			clients.Go(func() {
				for round := range rounds {
					target := fmt.Sprintf("/?client_id=%d.%d", worker, round)
					if round%3 == 0 {
						target = "/" // a session without a key
					}
					for leg := range 3 {
						c, _, err := proxytest.OpenClient(t, w.connect(), proxytest.ClientRequest(target))
						if err != nil || c == nil {
							t.Errorf("handshake for %s: %v", target, err)
							return
						}
						c.Say("a", "b")
						time.Sleep(time.Millisecond)
						if round%5 == 0 && leg == 2 {
							c.Close(ws.StatusNormalClosure, "")
							c.WaitEnd()
						} else {
							c.Drop()
						}
					}
				}
			})
		}
		clients.Wait()
		w.pass(time.Second)
		close(over)
		scrapes.Wait()
		s := w.p.Stats()
		if s.MessagesUp != workers*rounds*3*2 {
			t.Errorf("%d messages were counted, want %d", s.MessagesUp, workers*rounds*3*2)
		}
		if opened, left := sum(s.SessionsOpened), sum(s.SessionsLeft); opened != left || opened != uint64(len(w.backend.Peers())) {
			t.Errorf("%d sessions were opened and %d have left; the backend saw %d", opened, left, len(w.backend.Peers()))
		}
		if s.SessionsOpened["relay"] != workers*rounds/3*3 || s.SessionsOpened["keyed"] != workers*rounds*2/3 || s.Resumes+s.Supersedes != workers*rounds*2/3*2 {
			t.Errorf("opened %v, resumed %d, superseded %d", s.SessionsOpened, s.Resumes, s.Supersedes)
		}
	})
}

// totals flattens all that must never fall.
func totals(s admin.Stats) map[string]uint64 {
	all := map[string]uint64{}
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch n := v.Field(i).Interface().(type) {
		case uint64:
			all[name] = n
		case map[string]uint64:
			for label := range maps.Keys(n) {
				all[name+" "+label] = n[label]
			}
		}
	}
	return all
}
