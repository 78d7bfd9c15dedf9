package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// fakeSource is a proxy that never changes.
type fakeSource struct {
	notReady error
	stats    Stats
	list     []Session
	asked    int // how many sessions the last list looked at
	statsOf  int // calls of Stats
}

func (f *fakeSource) Ready() error { return f.notReady }

func (f *fakeSource) Stats() Stats {
	f.statsOf++
	return f.stats
}

func (f *fakeSource) Session(id string) (Session, bool) {
	for _, s := range f.list {
		if s.ID == id {
			return s, true
		}
	}
	return Session{}, false
}

func (f *fakeSource) Sessions(each func(Session) bool) {
	f.asked = 0
	for _, s := range f.list {
		f.asked++
		if !each(s) {
			return
		}
	}
}

func ask(h http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

func wantAnswer(t *testing.T, w *httptest.ResponseRecorder, status int, contentType string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d; body: %s", w.Code, status, w.Body)
	}
	if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, contentType) {
		t.Errorf("Content-Type %q, want %s", got, contentType)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Access-Control-Allow-Origin": ""} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestHealthAndReadiness(t *testing.T) {
	src := &fakeSource{}
	h := NewHandler(src)
	w := ask(h, "GET", "/healthz")
	wantAnswer(t, w, 200, "text/plain")
	if w.Body.String() != "ok\n" {
		t.Errorf("healthz says %q", w.Body)
	}
	wantAnswer(t, ask(h, "GET", "/readyz"), 200, "text/plain")

	src.notReady = errors.New("draining: 17 sessions left")
	w = ask(h, "GET", "/readyz")
	wantAnswer(t, w, 503, "text/plain")
	if want := "not ready: draining: 17 sessions left\n"; w.Body.String() != want {
		t.Errorf("readyz says %q, want %q", w.Body, want)
	}
	wantAnswer(t, ask(h, "GET", "/healthz"), 200, "text/plain")
}

func TestUnknownPathsListWhatExists(t *testing.T) {
	h := NewHandler(&fakeSource{list: []Session{{ID: "a"}}})
	for _, target := range []string{"/", "/metric", "/healthz/", "/api", "/api/sessions/", "/api/sessions/a/b"} {
		for _, method := range []string{"GET", "POST"} {
			w := ask(h, method, target)
			wantAnswer(t, w, 404, "application/json")
			var body struct {
				Error string
				Paths []struct{ Path, Is string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatalf("%s: %v: %s", target, err, w.Body)
			}
			var paths []string
			for _, p := range body.Paths {
				paths = append(paths, p.Path)
				if p.Is == "" {
					t.Errorf("%s is not explained", p.Path)
				}
			}
			want := "/healthz /readyz /metrics /api/sessions /api/sessions/{id}"
			if got := strings.Join(paths, " "); got != want {
				t.Errorf("%s lists %s, want %s", target, got, want)
			}
			if !strings.Contains(body.Error, target) {
				t.Errorf("error %q does not name %s", body.Error, target)
			}
		}
	}
}

func TestOnlyReading(t *testing.T) {
	h := NewHandler(&fakeSource{list: []Session{{ID: "a"}}})
	for _, target := range []string{"/healthz", "/readyz", "/metrics", "/api/sessions", "/api/sessions/a"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
			w := ask(h, method, target)
			wantAnswer(t, w, 405, "application/json")
			if got := w.Header().Get("Allow"); got != "GET, HEAD" {
				t.Errorf("%s %s: Allow %q", method, target, got)
			}
		}
		for _, method := range []string{"GET", "HEAD"} {
			if w := ask(h, method, target); w.Code != 200 {
				t.Errorf("%s %s: %d, want 200", method, target, w.Code)
			}
		}
	}
}

func TestForeignHostOnLoopback(t *testing.T) {
	h := NewHandler(&fakeSource{})
	for _, test := range []struct {
		local net.Addr
		host  string
		want  int
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "localhost:9090", 200},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "LocalHost", 200},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "proxy.localhost.:9090", 200},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "127.0.0.1:9090", 200},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "10.1.2.3", 200},
		{&net.TCPAddr{IP: net.IPv6loopback}, "[::1]:9090", 200},
		{&net.TCPAddr{IP: net.IPv6loopback}, "[::1]", 200},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "", 200}, // HTTP/1.0, no browser
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "evil.example:9090", 403},
		{&net.TCPAddr{IP: net.IPv4(127, 8, 0, 1)}, "evil.example", 403},
		{&net.TCPAddr{IP: net.IPv6loopback}, "localhost.evil.example:9090", 403},
		{&net.TCPAddr{IP: net.IPv6loopback}, "evillocalhost", 403},
		{&net.TCPAddr{IP: net.IPv6loopback}, "127.0.0.1.evil.example", 403},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 5)}, "tideover.default.svc:9090", 200},
		{&net.UnixAddr{Name: "/run/admin", Net: "unix"}, "anything", 200},
	} {
		for _, target := range []string{"/api/sessions", "/healthz"} {
			r := httptest.NewRequest("GET", target, nil)
			r.Host = test.host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, test.local)))
			if w.Code != test.want {
				t.Errorf("%s with Host %q at %v: %d, want %d", target, test.host, test.local, w.Code, test.want)
			}
		}
	}
}

// A server sets what the check of Host relies on.
func TestForeignHostAtARealServer(t *testing.T) {
	server := httptest.NewServer(NewHandler(&fakeSource{}))
	defer server.Close()
	for host, want := range map[string]int{"": 200, "evil.example": 403} {
		r, err := http.NewRequest("GET", server.URL+"/api/sessions", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("Host %q: %d, want %d; %s", host, resp.StatusCode, want, body)
		}
	}
}

// since is in a zone of its own: the API tells UTC.
var since = time.Date(2026, 7, 1, 14, 0, 0, 123_456_789, time.FixedZone("", 2*3600))

func sampleSessions(attached, away int) []Session {
	var list []Session
	for i := range attached {
		list = append(list, Session{ID: fmt.Sprintf("at%d", i), State: Attached, Since: since, Remote: "192.0.2.1:1000"})
	}
	for i := range away {
		list = append(list, Session{
			ID: fmt.Sprintf("aw%d", i), Key: `client "7"`, State: Away, Since: since,
			AwayFor: 1500 * time.Millisecond, GraceLeft: 28_500 * time.Millisecond,
			Upstream: "ws://127.0.0.1:9000", Remote: "192.0.2.1:1000", WindowMessages: 1, WindowBytes: 2, MessagesUp: 3, MessagesDown: 4,
			Replayed: 5, DuplicatesDropped: 6, Resumes: 7,
		})
	}
	return list
}

func TestOneSession(t *testing.T) {
	h := NewHandler(&fakeSource{list: sampleSessions(1, 1)})
	w := ask(h, "GET", "/api/sessions/aw0")
	wantAnswer(t, w, 200, "application/json")
	want := `{"id":"aw0","key":"client \"7\"","state":"away","since":"2026-07-01T12:00:00.123Z","away_for_ms":1500,"grace_left_ms":28500,` +
		`"upstream":"ws://127.0.0.1:9000","remote":"192.0.2.1:1000","window_messages":1,"window_bytes":2,"messages_up":3,"messages_down":4,` +
		`"replayed":5,"duplicates_dropped":6,"resumes":7}` + "\n"
	if w.Body.String() != want {
		t.Errorf("got  %swant %s", w.Body, want)
	}
	w = ask(h, "GET", "/api/sessions/at0")
	wantAnswer(t, w, 200, "application/json")
	if strings.Contains(w.Body.String(), "_ms") {
		t.Errorf("an attached session has no time away: %s", w.Body)
	}
	w = ask(h, "GET", "/api/sessions/other")
	wantAnswer(t, w, 404, "application/json")
	if !strings.Contains(w.Body.String(), `\"other\"`) {
		t.Errorf("the error does not name the id: %s", w.Body)
	}
}

func TestGraceLeftIsNeverNegative(t *testing.T) {
	text, err := json.Marshal(Session{State: Away, GraceLeft: -time.Second})
	if err != nil || !strings.Contains(string(text), `"away_for_ms":0,"grace_left_ms":0`) {
		t.Errorf("%s, %v; want both times, at 0", text, err)
	}
}

func TestSessionList(t *testing.T) {
	h := NewHandler(&fakeSource{list: sampleSessions(1500, 3)})
	for _, test := range []struct {
		query       string
		listed      int
		first, last string
		total       int
		cut         bool
	}{
		{"", 1000, "at0", "at999", 1503, true},
		{"?limit=2", 2, "at0", "at1", 1503, true},
		{"?limit=1503", 1503, "at0", "aw2", 1503, false},
		{"?limit=1000000", 1503, "at0", "aw2", 1503, false},
		{"?limit=0", 0, "", "", 1503, true},
		{"?state=away", 3, "aw0", "aw2", 3, false},
		{"?state=away&limit=3", 3, "aw0", "aw2", 3, false},
		{"?state=away&limit=2", 2, "aw0", "aw1", 3, true},
		{"?state=attached", 1000, "at0", "at999", 1500, true},
	} {
		w := ask(h, "GET", "/api/sessions"+test.query)
		wantAnswer(t, w, 200, "application/json")
		var got struct {
			Sessions []struct{ ID string }
			Total    int
			Cut      bool
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", test.query, err)
		}
		if got.Total != test.total || got.Cut != test.cut || len(got.Sessions) != test.listed {
			t.Errorf("%s: %d listed, total %d, cut %v; want %d, %d, %v", test.query, len(got.Sessions), got.Total, got.Cut, test.listed, test.total, test.cut)
		} else if n := test.listed; n > 0 && (got.Sessions[0].ID != test.first || got.Sessions[n-1].ID != test.last) {
			t.Errorf("%s: from %s to %s, want from %s to %s", test.query, got.Sessions[0].ID, got.Sessions[n-1].ID, test.first, test.last)
		}
	}
	w := ask(NewHandler(&fakeSource{}), "GET", "/api/sessions")
	if want := `{"sessions":[],"total":0,"cut":false}` + "\n"; w.Body.String() != want {
		t.Errorf("without sessions: %s, want %s", w.Body, want)
	}
}

func TestSessionListRefusesNonsense(t *testing.T) {
	h := NewHandler(&fakeSource{list: sampleSessions(1, 1)})
	for query, want := range map[string]string{
		"?limit=-1":                   "limit",
		"?limit=ten":                  "limit",
		"?limit=99999999999999999999": "limit",
		"?state=left":                 "attached or away",
		"?state=Away":                 "attached or away",
	} {
		w := ask(h, "GET", "/api/sessions"+query)
		wantAnswer(t, w, 400, "application/json")
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %s, want a word about %s", query, w.Body, want)
		}
	}
}

// goneWriter is a client that stops reading after some bytes.
type goneWriter struct {
	http.ResponseWriter
	left int
}

func (g *goneWriter) Write(b []byte) (int, error) {
	if g.left -= len(b); g.left < 0 {
		return 0, errors.New("gone")
	}
	return g.ResponseWriter.Write(b)
}

func TestSessionListIsStreamed(t *testing.T) {
	src := &fakeSource{list: sampleSessions(0, 20_000)}
	h := NewHandler(src)
	h.ServeHTTP(&goneWriter{httptest.NewRecorder(), 100 << 10}, httptest.NewRequest("GET", "/api/sessions?limit=20000", nil))
	if src.asked == 0 || src.asked > 1000 {
		t.Errorf("%d of 20,000 sessions were looked at for a client that left after 100 KiB", src.asked)
	}
}
