package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/engine"
	"github.com/tideover/tideover/proxy/proxytest"
)

// A world is a running proxy with a backend behind it and clients before it: in memory, on the
// fake clock of a testing/synctest bubble, or over sockets.
type world struct {
	t       *testing.T
	p       *Proxy
	cfg     *config.Config
	logs    *observer.ObservedLogs
	backend *proxytest.Backend
	start   time.Time
	stop    func() error // ends the proxy and waits for that; idempotent

	// connections to the proxy's listeners, and from it to the backend
	toPublic, toAdmin func(context.Context) (net.Conn, error)
	dial              func(ctx context.Context, network, address string) (net.Conn, error)

	settle func() // lets everybody do what can be done without time passing; only in a bubble
}

// story tells what happens in a world whose configuration is the default one, changed by
// change. At the end of each story the proxy is stopped, and then nothing may be left of its
// sessions.
func story(t *testing.T, change func(*config.Config), tell func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		public, admin := proxytest.ListenPipe("203.0.113.1:80"), proxytest.ListenPipe("203.0.113.1:9090")
		upstream := proxytest.ListenPipe("203.0.113.2:9000")
		w := newWorld(t, upstream, change)
		w.settle = synctest.Wait
		w.p.engine = engine.NewPortable(engine.Options{Linger: closeTimeout}) // loops wait for sockets: no fake clock there
		dialer := func(l *proxytest.PipeListener) func(context.Context) (net.Conn, error) {
			return func(ctx context.Context) (net.Conn, error) { return l.Dial(ctx) }
		}
		w.toPublic, w.toAdmin = dialer(public), dialer(admin)
		w.dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return upstream.Dial(ctx) }
		w.run(public, admin)
		tell(t, w)
		w.end()
	})
}

// socketStory is a story over loopback sockets, on the real clock.
func socketStory(t *testing.T, change func(*config.Config), tell func(t *testing.T, w *world)) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	dialer := func(l net.Listener) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}
	}
	public, admin, upstream := listen(), listen(), listen()
	w := newWorld(t, upstream, change)
	w.settle = func() {}
	w.toPublic, w.toAdmin = dialer(public), dialer(admin)
	w.dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer(upstream)(ctx) }
	w.run(public, admin)
	tell(t, w)
	w.end()
}

func newWorld(t *testing.T, upstream net.Listener, change func(*config.Config)) *world {
	t.Helper()
	cfg := config.Default()
	cfg.HTTP.Passthrough = false
	// Off: the first beat comes at a random moment, into any story that is not about it.
	cfg.Heartbeat.Interval, cfg.Upstream.Heartbeat.Interval = 0, 0
	if change != nil {
		change(cfg)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	p, err := New(cfg, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, p: p, cfg: cfg, logs: logs, start: time.Now(), backend: proxytest.NewBackend(t)}
	proxytest.ServeUpstream(t, upstream, w.backend.Serve)
	w.rewire()
	return w
}

func (w *world) run(public, admin net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = w.p.serve(ctx, public, admin)
	}()
	w.stop = func() error {
		cancel()
		<-done
		return err
	}
	w.t.Cleanup(func() { _ = w.stop() })
}

// relay is one of the proxy's, to be released.
func (w *world) relay() *relay {
	for r := range w.p.sessions.all {
		r.hold()
		return r
	}
	w.t.Helper()
	w.t.Fatal("there is no session")
	return nil
}

// end is the end of a story.
func (w *world) end() {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Errorf("the proxy stopped with %v", err)
	}
	w.settle()
	w.wantNothingLeft()
}

// rewire makes the current settings dial the backend of this world; a reload makes others.
func (w *world) rewire() {
	w.p.settings.Load().dialer.netDial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return w.dial(ctx, network, address)
	}
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	w.settle()
}

// drop has a client lose its connection; the proxy notices before anything else happens.
func (w *world) drop(c interface{ Drop() }) {
	c.Drop()
	w.settle()
}

func (w *world) connect() net.Conn {
	w.t.Helper()
	conn, err := w.toPublic(w.t.Context())
	if err != nil {
		w.t.Fatalf("connect to the proxy: %v", err)
	}
	return conn
}

// client opens a WebSocket through the proxy.
func (w *world) client(target string, lines ...string) *proxytest.Peer {
	w.t.Helper()
	c, answer, err := proxytest.OpenClient(w.t, w.connect(), proxytest.ClientRequest(target, lines...))
	if err != nil {
		w.t.Fatalf("handshake for %s: %v", target, err)
	}
	if c == nil {
		body, _ := io.ReadAll(answer.Body)
		w.t.Fatalf("handshake for %s: refused with %s: %s", target, answer.Status, body)
	}
	w.settle()
	return c
}

// A verdict is how a handshake was answered.
type verdict struct {
	status int // 0: not at all
	header http.Header
	body   string
	err    error
	client *proxytest.Peer // for a 101
}

// try makes a handshake that may well be refused.
func (w *world) try(target string, lines ...string) verdict {
	w.t.Helper()
	return w.tryOn(w.connect(), target, lines...)
}

func (w *world) tryOn(conn net.Conn, target string, lines ...string) verdict {
	c, answer, err := proxytest.OpenClient(w.t, conn, proxytest.ClientRequest(target, lines...))
	if err != nil {
		conn.Close()
		return verdict{err: err}
	}
	v := verdict{status: answer.StatusCode, header: answer.Header, client: c}
	if c == nil {
		body, err := io.ReadAll(answer.Body)
		v.body, v.err = string(body), err
		conn.Close()
	}
	return v
}

// begin is try in the background: the channel has the verdict once there is one.
func (w *world) begin(target string, lines ...string) <-chan verdict {
	w.t.Helper()
	conn := w.connect()
	c := make(chan verdict, 1)
	go func() { c <- w.tryOn(conn, target, lines...) }()
	w.settle()
	return c
}

// ask makes a request to the admin listener.
func (w *world) ask(path string) (status int, body string) {
	w.t.Helper()
	conn, err := w.toAdmin(w.t.Context())
	if err != nil {
		w.t.Fatalf("ask for %s: %v", path, err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		w.t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatalf("ask for %s: %v", path, err)
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatalf("ask for %s: %v", path, err)
	}
	w.settle()
	return answer.StatusCode, string(text)
}

// metric is the value of a series, as /metrics spells its name and labels.
func (w *world) metric(series string) string {
	w.t.Helper()
	_, body := w.ask("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	w.t.Errorf("/metrics has no %s", series)
	return ""
}

func (w *world) wantMetric(series, want string) {
	w.t.Helper()
	if got := w.metric(series); got != want {
		w.t.Errorf("%s is %s, want %s", series, got, want)
	}
}

// session is the only session that the admin API shows; nil if there is none.
func (w *world) session() map[string]any {
	w.t.Helper()
	_, body := w.ask("/api/sessions")
	var list struct{ Sessions []map[string]any }
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		w.t.Fatalf("/api/sessions: %v: %s", err, body)
	}
	switch len(list.Sessions) {
	case 0:
		return nil
	case 1:
		return list.Sessions[0]
	}
	w.t.Fatalf("/api/sessions shows %d sessions, want one: %s", len(list.Sessions), body)
	return nil
}

// wantSessions checks how many sessions are attached and away.
func (w *world) wantSessions(attached, away int64) {
	w.t.Helper()
	if s := w.p.Stats(); s.SessionsAttached != attached || s.SessionsAway != away {
		w.t.Errorf("%d sessions attached and %d away, want %d and %d", s.SessionsAttached, s.SessionsAway, attached, away)
	}
}

func (w *world) wantNothingLeft() {
	w.t.Helper()
	p := w.p
	if n := p.live.Load(); n != 0 {
		w.t.Errorf("%d places under limits.max_sessions are still taken", n)
	}
	if n := p.buffered.Load(); n != 0 {
		w.t.Errorf("%d bytes are still accounted for", n)
	}
	if n := p.relays.Len(); n != 0 {
		w.t.Errorf("%d sessions are still held by somebody", n)
	}
	for i := range p.sessions.shards {
		for r := range p.sessions.shards[i].byKey.all {
			w.t.Errorf("key %q is still in the registry", r.key)
		}
		for key := range p.sessions.shards[i].pending {
			w.t.Errorf("key %q is still reserved", key)
		}
		for r := range p.sessions.shards[i].byID.all {
			w.t.Errorf("session %s is still in the registry", r.id)
		}
	}
	s := p.Stats()
	if opened, left := sum(s.SessionsOpened), sum(s.SessionsLeft); opened != left {
		w.t.Errorf("%d sessions were opened, %d have left", opened, left)
	}
}

func sum(m map[string]uint64) (total uint64) {
	for _, n := range m {
		total += n
	}
	return total
}

// logged returns the log lines with this message.
func (w *world) logged(message string) []observer.LoggedEntry {
	return w.logs.FilterMessageSnippet(message).All()
}

// Events as tests tell the backend of them.
const (
	tellJoined      = `{"event":"joined"}`
	tellAway        = `{"event":"away"}`
	tellReconnected = `{"event":"reconnected"}`
	tellLeft        = `{"event":"left"}`
)

// withEvents turns all events on.
func withEvents(c *config.Config) {
	for at, text := range map[*config.Template]string{
		&c.Events.Joined: tellJoined, &c.Events.Away: tellAway, &c.Events.Reconnected: tellReconnected, &c.Events.Left: tellLeft,
	} {
		template, err := config.ParseTemplate(text)
		if err != nil {
			panic(err)
		}
		*at = template
	}
}

func wantTexts(t *testing.T, who *proxytest.Peer, what string, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if got := who.Texts(); !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %.300q, want %.300q", what, got, want)
	}
}

func wantClose(t *testing.T, who *proxytest.Peer, what string, code uint16) {
	t.Helper()
	if e := who.Ending(); e.Code != ws.StatusCode(code) {
		t.Errorf("%s: %v, want Close %d", what, e, code)
	}
}

func wantOpen(t *testing.T, who *proxytest.Peer, what string) {
	t.Helper()
	if e := who.Ending(); e.Code != 0 || e.Err != nil {
		t.Errorf("%s: %v, want it open", what, e)
	}
}

func wantRefused(t *testing.T, v verdict, what string, status int) {
	t.Helper()
	if v.status != status {
		t.Errorf("%s: answered with %d %q (%v), want %d", what, v.status, v.body, v.err, status)
	}
}
