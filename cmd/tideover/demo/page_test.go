package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"go.uber.org/zap/zaptest"
)

func TestPageAnswersToItsOwnHostOnly(t *testing.T) {
	p := newPage(sub("page"), nil, "demo.example", zaptest.NewLogger(t))
	for host, want := range map[string]int{
		"127.0.0.1:8080":      http.StatusOK,
		"192.168.1.20":        http.StatusOK,
		"[::1]:8080":          http.StatusOK,
		"localhost:8080":      http.StatusOK,
		"LOCALHOST":           http.StatusOK,
		"demo.example:8080":   http.StatusOK, // asked to listen on it
		"evil.example:8080":   http.StatusMisdirectedRequest,
		"127.0.0.1.evil.test": http.StatusMisdirectedRequest,
		"localhost.evil.test": http.StatusMisdirectedRequest,
		"":                    http.StatusMisdirectedRequest,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("Host %q: got %d, want %d", host, w.Code, want)
		}
	}
}

func TestPageObeysItsOwnPageOnly(t *testing.T) {
	p := newPage(sub("page"), nil, "", zaptest.NewLogger(t))
	p.admit(&visit{id: "v", network: newNetwork(0), views: []*view{{column: column{ID: "direct", addr: "127.0.0.1:1"}}}})
	const own, evil = "http://127.0.0.1:8080", "http://evil.example"
	upgrade := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"}
	for _, tc := range []struct {
		name, method, path string
		header             map[string]string
		refused            bool
	}{
		{"own page switches", "POST", "/visits/v/network", map[string]string{"Origin": own, "Sec-Fetch-Site": "same-origin"}, false},
		{"own page in an older browser", "POST", "/visits/v/network", map[string]string{"Origin": own}, false},
		{"another site switches", "POST", "/visits/v/network", map[string]string{"Origin": evil, "Sec-Fetch-Site": "cross-site"}, true},
		{"another site in an older browser", "POST", "/visits/v/network", map[string]string{"Origin": evil}, true},
		{"another port of this machine", "POST", "/visits/v/network", map[string]string{"Origin": "http://127.0.0.1:9999", "Sec-Fetch-Site": "same-site"}, true},
		{"a page without origin", "POST", "/visits/v/report", map[string]string{"Origin": "null"}, true},
		{"another site opens a socket", "GET", "/chat/v/direct/chat", with(upgrade, "Origin", evil), true},
		{"own page opens a socket", "GET", "/chat/v/direct/chat", with(upgrade, "Origin", own), false},
		{"another site begins a visit", "GET", "/live", map[string]string{"Sec-Fetch-Site": "cross-site"}, true},
		{"a link from another site", "GET", "/", map[string]string{"Sec-Fetch-Site": "cross-site"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(`{"do":"back"}`))
			r.Host = "127.0.0.1:8080"
			for name, value := range tc.header {
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			if refused := w.Code == http.StatusForbidden; refused != tc.refused {
				t.Errorf("got %d, want refused: %v", w.Code, tc.refused)
			}
		})
	}
}

func TestPageAllowsNothingForeignInItsPolicy(t *testing.T) {
	p := newPage(sub("page"), nil, "", zaptest.NewLogger(t))
	for _, path := range []string{"/", "/page.css", "/page.js", "/icon.svg"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "localhost"
		p.ServeHTTP(w, r)
		if w.Code != http.StatusOK || w.Header().Get("Content-Security-Policy") != policy {
			t.Errorf("GET %s: got %d with policy %q", path, w.Code, w.Header().Get("Content-Security-Policy"))
		}
	}
	for _, word := range []string{"unsafe", "*", "http:", "https:"} {
		if strings.Contains(policy, word) {
			t.Errorf("the policy allows %q: %s", word, policy)
		}
	}
}

func TestPageRefusesWhatItCannotRead(t *testing.T) {
	p := newPage(sub("page"), nil, "", zaptest.NewLogger(t))
	p.admit(&visit{id: "v", network: newNetwork(0)})
	for _, tc := range []struct {
		name, method, path, body string
		want                     int
	}{
		{"an unknown order", "POST", "/visits/v/network", `{"do":"burn"}`, http.StatusBadRequest},
		{"no JSON", "POST", "/visits/v/network", `pull`, http.StatusBadRequest},
		{"a report without end", "POST", "/visits/v/report", `{"direct":{"sent":["` + strings.Repeat("x", maxReportBytes), http.StatusBadRequest},
		{"a report on an unknown column", "POST", "/visits/v/report", `{"nowhere":{"sent":["a"]}}`, http.StatusNoContent},
		{"an unknown visit", "POST", "/visits/w/network", `{"do":"pull"}`, http.StatusNotFound},
		{"an unknown column", "GET", "/chat/v/nowhere/", "", http.StatusNotFound},
		{"an order by GET", "GET", "/visits/v/network", "", http.StatusNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body))
			r.Host = "localhost"
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			if w.Code != tc.want {
				t.Errorf("got %d %s, want %d", w.Code, strings.TrimSpace(w.Body.String()), tc.want)
			}
		})
	}
}

func TestPageHasRoomForSomeVisitsOnly(t *testing.T) {
	d := startPage(t)
	for range maxVisits {
		d.visit(t)
	}
	resp, err := http.Get(d.url + "/live")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one visit too many: got %s", resp.Status)
	}
}

// A visitor of the naive column, cut off while the others talk: everything
// that the page says of it must be so.
func TestVisitCountsWhatAVisitorLosesAndDoubles(t *testing.T) {
	d := startPage(t)
	v := d.visit(t)
	src := v.description.Columns[0].Src

	you, read := d.join(t, src)
	v.await(t, "the others to see the visitor", func(s viewSnapshot) bool { return presenceOf(s) == presenceOnline })

	// One message of the others is shown.
	v.report(t, nil, []string{readMessage(t, read).ID})
	v.await(t, "a shown message", func(s viewSnapshot) bool { return s.ToYou.Once == 1 })

	// One of the visitor's is said twice.
	mine := chatMessage{Type: "message", Username: visitor, ID: "mine-1", Number: 1, Text: "hello"}
	for range 2 {
		text, _ := json.Marshal(mine)
		writeFrame(t, you, ws.NewTextFrame(text))
	}
	v.report(t, []string{mine.ID}, nil)
	v.await(t, "a doubled message", func(s viewSnapshot) bool { return s.FromYou.Sent == 1 && s.FromYou.Twice == 1 })

	v.order(t, "pull")
	v.await(t, "the others to see the visitor leave", func(s viewSnapshot) bool {
		return presenceOf(s) == presenceLeft && s.Noise == noise{Left: 1}
	})
	if _, err := io.Copy(io.Discard, you); err == nil {
		t.Error("the visitor's socket ended well, want a reset")
	}
	v.await(t, "messages that wait", func(s viewSnapshot) bool { return s.ToYou.Waiting >= 2 })

	v.order(t, "back")
	_, read = d.join(t, src)
	v.await(t, "the others to see the visitor join again", func(s viewSnapshot) bool {
		return presenceOf(s) == presenceOnline && s.Noise == noise{Left: 1, Joined: 1}
	})
	v.report(t, nil, []string{readMessage(t, read).ID})
	v.await(t, "lost messages", func(s viewSnapshot) bool { return s.ToYou.Lost >= 2 && s.ToYou.Once == 2 })
}

func TestVisitServesTheApplicationOfItsColumn(t *testing.T) {
	d := startPage(t)
	v := d.visit(t)
	resp, err := http.Get(d.url + v.description.Columns[0].Src)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `id="messages"`) {
		t.Errorf("the chat application: got %s\n%s", resp.Status, body)
	}
	if got := resp.Header.Values("Content-Security-Policy"); len(got) != 1 || got[0] != policy {
		t.Errorf("its policy: got %q", got)
	}
}

// demoPage is a running page whose only column is the naive one.
type demoPage struct {
	url  string
	addr string
}

func startPage(t *testing.T) demoPage {
	t.Helper()
	backend := startBackendWith(t, sub("chat"))
	columns := []column{{ID: "direct", Title: "Straight", addr: backend}}
	l := listenLoopback(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l, newPage(sub("page"), columns, "127.0.0.1", zaptest.NewLogger(t))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("stop the page: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return demoPage{url: "http://" + l.Addr().String(), addr: l.Addr().String()}
}

// openVisit is what the page's script knows of its visit.
type openVisit struct {
	page        demoPage
	description visitDescription
	figures     chan snapshot
}

// visit opens the stream of figures, as the page does.
func (d demoPage) visit(t *testing.T) *openVisit {
	t.Helper()
	resp, err := http.Get(d.url + "/live")
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("open a visit: %s", resp.Status)
	}
	v := &openVisit{page: d, figures: make(chan snapshot)}
	lines := bufio.NewScanner(resp.Body)
	next := func(into any) bool {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return json.Unmarshal([]byte(data), into) == nil
			}
		}
		return false
	}
	if !next(&v.description) {
		t.Fatalf("no description of the visit: %v", lines.Err())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(v.figures)
		for {
			var s snapshot
			if !next(&s) {
				return
			}
			select {
			case v.figures <- s:
			case <-t.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		resp.Body.Close()
		<-done
	})
	return v
}

// await reads figures until those of the first column are right.
func (v *openVisit) await(t *testing.T, what string, ok func(viewSnapshot) bool) {
	t.Helper()
	var last snapshot
	eventually(t, what, func() bool {
		s, open := <-v.figures
		if !open {
			t.Fatalf("the figures ended while waiting for %s; the last were %+v", what, last)
		}
		last = s
		return ok(s.Columns[0])
	})
}

func (v *openVisit) order(t *testing.T, do string) {
	t.Helper()
	v.post(t, "network", map[string]string{"do": do})
}

func (v *openVisit) report(t *testing.T, sent, shown []string) {
	t.Helper()
	v.post(t, "report", map[string]any{"direct": map[string]any{"sent": sent, "shown": shown}})
}

func (v *openVisit) post(t *testing.T, what string, body any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(v.page.url+"/visits/"+v.description.ID+"/"+what, "application/json", strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("post %s: %s", what, resp.Status)
	}
}

// join opens the visitor's socket, as the chat application does.
func (d demoPage) join(t *testing.T, src string) (net.Conn, io.Reader) {
	t.Helper()
	dialer := ws.Dialer{Header: ws.HandshakeHeaderHTTP{"Origin": {d.url}}}
	conn, early, _, err := dialer.Dial(t.Context(), "ws://"+d.addr+strings.Replace(src, "/?", "/chat?", 1))
	if err != nil {
		t.Fatalf("join through the page: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	if early != nil {
		return conn, early
	}
	return conn, conn
}

// readMessage returns the next message of the others.
func readMessage(t *testing.T, source io.Reader) chatMessage {
	t.Helper()
	incoming := newReader(source, ws.StateClientSide)
	for {
		text, err := readText(incoming, io.Discard, ws.StateClientSide)
		if err != nil {
			t.Fatalf("read a message: %v", err)
		}
		var m chatMessage
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		if m.Type == "message" && m.Username != visitor {
			return m
		}
	}
}

func presenceOf(s viewSnapshot) presenceState {
	for _, p := range s.People {
		if p.Name == visitor {
			return p.State
		}
	}
	return ""
}

func with(header map[string]string, name, value string) map[string]string {
	more := map[string]string{name: value}
	for k, v := range header {
		more[k] = v
	}
	return more
}
