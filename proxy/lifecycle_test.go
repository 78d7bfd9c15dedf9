package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/proxytest"
)

// stopping begins to stop the proxy; what it returns waits for the end and tells how long it took.
func (w *world) stopping() (took func() time.Duration) {
	begin := time.Now()
	ended := make(chan time.Duration, 1)
	go func() {
		if err := w.stop(); err != nil {
			w.t.Errorf("the proxy stopped with %v", err)
		}
		ended <- time.Since(begin)
	}()
	w.settle()
	return func() time.Duration { return <-ended }
}

func TestAStopTellsEverybody(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		keyed, plain, counted := w.client("/?client_id=a"), w.client("/"), w.counting("/")
		w.client("/?client_id=away").Drop()
		w.settle()
		took := w.stopping()()
		for name, c := range map[string]*proxytest.Peer{"with a key": keyed, "without": plain, "of tideover.v1": counted.Peer} {
			wantClose(t, c, "the client "+name, frame.CodeRestart)
		}
		for i, up := range w.backend.Peers() {
			wantClose(t, up, fmt.Sprintf("upstream %d", i), frame.CodeGoingAway)
			texts := up.Texts()
			if i == 1 { // nobody is told of sessions without a key
				wantTexts(t, up, "the upstream of a session without a key")
			} else if texts[len(texts)-1] != tellLeft {
				t.Errorf("upstream %d got %q, want it to end with left", i, texts)
			}
		}
		if took > time.Second {
			t.Errorf("the stop took %v though everybody answered", took)
		}
		if n := w.p.Stats().SessionsLeft["stopped"]; n != 4 {
			t.Errorf("%d sessions left because of the stop, want 4", n)
		}
	})
}

func TestAStopWaitsForNobodyLongerThanItsTime(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		silent, mute, held := w.client("/?client_id=a"), w.counting("/"), w.client("/?client_id=c")
		silent.Conn.(*proxytest.PipeConn).Silence(true)
		mute.Mute(true)
		held.Hold(true)
		for _, up := range w.backend.Peers() {
			up.Mute(true)
		}
		halfARequest := w.connect()
		if _, err := io.WriteString(halfARequest, "GET / HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
		w.settle()
		took := w.stopping()

		// Meanwhile it says that it is not ready, and takes nobody new.
		w.pass(time.Second)
		if status, body := w.ask("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "draining") {
			t.Errorf("/readyz says %d %q, want 503 and draining", status, body)
		}
		if status, _ := w.ask("/healthz"); status != http.StatusOK {
			t.Errorf("/healthz says %d, want 200", status)
		}
		if conn, err := w.toPublic(t.Context()); err == nil {
			conn.Close()
			t.Error("a stopping proxy still listens")
		}
		if _, err := io.WriteString(halfARequest, "Host: x\r\n"+strings.SplitN(proxytest.ClientRequest("/?client_id=b"), "\r\n", 3)[2]); err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(halfARequest)
		if strings.HasPrefix(string(answer), "HTTP/1.1 101 ") || len(w.backend.Peers()) != 3 {
			t.Errorf("a request that is completed after the stop began is answered with %.60q, and %d upstreams were dialled", answer, len(w.backend.Peers()))
		}

		if d := took(); d != closeTimeout {
			t.Errorf("the stop took %v, want %v", d, closeTimeout)
		}
		w.settle()
		for i, up := range w.backend.Peers() {
			if e := up.Ending(); e.Err == nil {
				t.Errorf("upstream %d is not closed", i)
			}
		}
		silent.Conn.(*proxytest.PipeConn).Silence(false)
		for _, c := range []*proxytest.Peer{silent, mute.Peer, held} {
			c.Hold(false)
			if e := c.WaitEnd(); e.Code != 1012 {
				t.Errorf("a client that listens again finds %v, want Close 1012", e)
			}
		}
	})
}

// A handshake that waits for another one's dial is under way too, though it has no place yet.
func TestAStopWaitsForHandshakesThatWaitForOthers(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		good := w.dial
		w.dial = func(context.Context, string, string) (net.Conn, error) {
			w.dial = good
			time.Sleep(time.Second)
			return nil, io.ErrUnexpectedEOF
		}
		first, second := w.begin("/?client_id=a"), w.begin("/?client_id=a")
		w.backend.Late(time.Second)
		took := w.stopping()
		took()
		wantRefused(t, <-first, "the client whose dial failed", http.StatusBadGateway)
		v := <-second
		wantRefused(t, v, "the client that waited", http.StatusSwitchingProtocols)
		w.settle()
		wantClose(t, v.client, "the client that waited", frame.CodeRestart)
		wantClose(t, w.backend.Peer(0), "its upstream", frame.CodeGoingAway)
	})
}

// A stop in the middle of a replay loses nothing silently: what the client got is a beginning
// without holes, and it is told that more is to come.
func TestAStopInTheMiddleOfAReplay(t *testing.T) {
	for _, size := range []int{100, 30 << 10, 700 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			story(t, func(c *config.Config) { c.Replay.MaxBytes = 4 << 20 }, func(t *testing.T, w *world) {
				const bytes = 3 << 20
				n := min(bytes/size, 900)
				w.drop(w.client("/?client_id=a"))
				up := w.backend.Peer(0)
				for i := range n {
					up.Say(fmt.Sprintf("%d %s", i, strings.Repeat("x", size)))
				}
				w.settle()
				c, _, err := proxytest.OpenClient(t, w.connect(), proxytest.ClientRequest("/?client_id=a"))
				if err != nil || c == nil {
					t.Fatalf("the resume failed: %v", err)
				}
				c.Hold(true)
				w.pass(100 * time.Millisecond)
				took := w.stopping()
				w.pass(time.Second)
				c.Hold(false)
				e := c.WaitEnd()
				got := c.Texts()
				wantNumbered(t, c, "the client", len(got))
				t.Logf("%d of %d messages, then %v", len(got), n, e)
				if e.Code != 1012 && e.Err == io.EOF {
					t.Errorf("after %d of %d messages: %v, which looks like all was said", len(got), n, e)
				}
				took()
			})
		})
	}
}

func TestAListenerThatFailsEndsTheProxy(t *testing.T) {
	cfg := config.Default()
	cfg.Admin = config.Admin{}
	p, err := New(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	broken := proxytest.ListenPipe("203.0.113.1:80")
	broken.Close()
	if err := p.serve(t.Context(), broken, nil); err == nil || !strings.Contains(err.Error(), "203.0.113.1:80") {
		t.Errorf("the proxy ended with %v, want an error that names the listener", err)
	}
}

func TestReloadHoldsForNewSessionsOnly(t *testing.T) {
	story(t, withEvents, func(t *testing.T, w *world) {
		old := w.client("/?client_id=old")
		for i := range 10 {
			old.Say(fmt.Sprintf(`{"id":%d}`, i))
		}
		w.settle()
		w.wantMetric("tideover_dedup_ids", "10")
		changed := *w.cfg
		changed.Session.Grace = 5 * time.Second
		changed.Events = config.Events{}
		changed.Limits.MaxSessions = 2
		changed.Limits.MaxBufferBytes = 1 << 20
		changed.Dedup.MaxIDs = 4
		if err := w.p.Reload(&changed); err != nil {
			t.Fatal(err)
		}
		w.rewire()
		w.wantMetric("tideover_dedup_ids", "4")
		w.wantMetric("tideover_buffer_limit_bytes", "1.048576e+06")
		fresh := w.client("/?client_id=new")
		wantRefused(t, w.try("/?client_id=more"), "a session over the new limit", http.StatusServiceUnavailable)
		old.Drop()
		fresh.Drop()
		w.pass(5 * time.Second)
		wantClose(t, w.backend.Peer(1), "the new session's upstream after the new grace", frame.CodeGoingAway)
		wantTexts(t, w.backend.Peer(1), "the new session's upstream")
		w.pass(25*time.Second - 1)
		wantOpen(t, w.backend.Peer(0), "the old session's upstream before the end of the old grace")
		old = w.client("/?client_id=old")
		old.Drop()
		w.pass(30 * time.Second) // what it began with still holds after a resume
		wantClose(t, w.backend.Peer(0), "the old session's upstream after the old grace", frame.CodeGoingAway)
		texts := w.backend.Peer(0).Texts()
		if got := strings.Join(texts[len(texts)-4:], ""); got != tellAway+tellReconnected+tellAway+tellLeft {
			t.Errorf("the old session's upstream was told %s", got)
		}
	})
}

func TestReloadRefusesWhatNeedsARestart(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		for key, change := range map[string]func(*config.Config){
			"listen":       func(c *config.Config) { c.Listen.Addr = ":9999" },
			"admin.listen": func(c *config.Config) { c.Admin.Listen = config.Address{} },
			"id path":      func(c *config.Config) { c.Dedup.IDPath = "a..b" },
		} {
			changed := *w.cfg
			changed.Session.Grace = time.Second
			change(&changed)
			if err := w.p.Reload(&changed); err == nil || !strings.HasPrefix(err.Error(), "reload: ") {
				t.Errorf("a change of %s is answered with %v", key, err)
			}
			if w.p.settings.Load().cfg != w.cfg {
				t.Errorf("a change of %s was refused, and yet the settings are others now", key)
			}
		}
	})
}

func TestListenAndServeOnUnixSockets(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "public.sock")
	upstream := proxytest.NewBackend(t)
	backend := proxytest.NewUnixUpstream(t, upstream.Serve)
	cfg := config.Default()
	cfg.Listen = config.Address{Network: "unix", Addr: path}
	cfg.Admin.Listen = config.Address{Network: "unix", Addr: filepath.Join(dir, "admin.sock")}
	cfg.Upstream.URL = config.URL{Scheme: "unix", Socket: backend.Addr()}
	run := func() (stop func() error) {
		t.Helper()
		p, err := New(cfg, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.ListenAndServe(ctx) }()
		return func() error { cancel(); return <-ended }
	}
	talk := func() *proxytest.Peer {
		t.Helper()
		late := time.Now().Add(proxytest.Patience)
		for {
			conn, err := net.Dial("unix", path)
			if err == nil {
				c, _, err := proxytest.OpenClient(t, conn, proxytest.ClientRequest("/?client_id=a"))
				if err != nil || c == nil {
					t.Fatalf("handshake over a unix socket: %v", err)
				}
				return c
			}
			if time.Now().After(late) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
	}

	// A socket that a killed process has left behind.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("there is no stale socket to begin with: %v", err)
	}
	stop := run()
	c := talk()
	c.Say("hello")
	up := upstream.Peer(0)
	up.Say("who is there?")
	up.WaitFor(1)
	c.WaitFor(1)
	if got := proxytest.HeaderValues(up.Request, "X-Forwarded-For"); got != nil {
		t.Errorf("X-Forwarded-For of a client without an address is %q", got)
	}

	// One that somebody listens on is not taken away.
	if err := run()(); err == nil || !strings.Contains(err.Error(), "listen: unix:"+path) {
		t.Errorf("a second proxy on the same socket: %v, want an error that names it", err)
	}
	c.Say("still there?")
	up.WaitFor(2)
	if err := stop(); err != nil {
		t.Errorf("the proxy stopped with %v", err)
	}
	if e := c.WaitEnd(); e.Code != 1012 {
		t.Errorf("the client: %v, want Close 1012", e)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}

	// A file that is no socket is nobody's to remove.
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run()(); err == nil {
		t.Error("a proxy listens where a file was")
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file holds %q now", b)
	}
}
