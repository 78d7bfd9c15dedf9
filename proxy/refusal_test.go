package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// refusing is a server that dials for each request and relays the refusal it must get.
func refusing(t *testing.T, d testDialer) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := d.dial(r.Context(), r, testAddr, nil)
		var refused *refusal
		if !errors.As(err, &refused) {
			t.Errorf("dial: %v, %v; want a refusal", conn, err)
			return
		}
		refused.relay(r.Context(), w)
	}))
	t.Cleanup(server.Close)
	return server
}

// ask sends a handshake to a server and returns the answer to it.
func ask(t *testing.T, address string) (net.Conn, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+testKey+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	return conn, resp
}

func TestRefusalIsRelayed(t *testing.T) {
	big := strings.Repeat("0123456789", 200_000) // 2 MB
	for _, c := range []struct {
		name   string
		answer string // of the upstream
		status int
		header http.Header // exactly, but for Date
		body   string
	}{
		{"login needed", "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\nwww-authenticate: Bearer\r\nContent-Length: 5\r\n\r\nlogin",
			401, http.Header{"Www-Authenticate": {"Basic realm=\"a\"", "Bearer"}, "Content-Length": {"5"}}, "login"},
		{"redirect", "HTTP/1.1 302 Found\r\nLocation: https://x/?a=%20\r\nContent-Length: 0\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n",
			302, http.Header{"Location": {"https://x/?a=%20"}, "Content-Length": {"0"}, "Set-Cookie": {"a=1", "b=2"}}, ""},
		{"chunked", "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nContent-Type: text/x\r\nRetry-After: 3\r\n\r\n3\r\nbus\r\n1\r\ny\r\n0\r\n\r\n",
			503, http.Header{"Content-Type": {"text/x"}, "Retry-After": {"3"}}, "busy"},
		{"until the end", "HTTP/1.1 403 No\r\nX-Why: a\r\n\r\nforbidden", 403, http.Header{"X-Why": {"a"}}, "forbidden"},
		{"HTTP/1.0", "HTTP/1.0 404 Not Found\r\nServer: old\r\n\r\n<html>", 404, http.Header{"Server": {"old"}}, "<html>"},
		{"encoded", "HTTP/1.1 400 Bad\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
			400, http.Header{"Content-Encoding": {"gzip"}, "Content-Length": {"3"}}, "\x1f\x8b\x08"},
		{"hop by hop", "HTTP/1.1 400 Bad\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nTrailer: X\r\nX-End: 1\r\nProxy-Status: p\r\nContent-Length: 0\r\n\r\n",
			400, http.Header{"X-End": {"1"}, "Proxy-Status": {"p"}, "Content-Length": {"0"}}, ""},
		{"other version", "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\nSec-WebSocket-Version: 8\r\nContent-Length: 0\r\n\r\n",
			426, http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"8"}, "Content-Length": {"0"}}, ""},
		{"no handshake at all", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, http.Header{"Content-Length": {"2"}}, "hi"},
		{"no content", "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", 204, http.Header{"X": {"1"}}, ""},
		{"interim answers first", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n",
			429, http.Header{"Content-Length": {"0"}}, ""},
		{"strange status", "HTTP/1.1 799 Hm\r\nContent-Length: 0\r\n\r\n", 799, http.Header{"Content-Length": {"0"}}, ""},
		{"long", fmt.Sprintf("HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n%s", len(big), big),
			500, http.Header{"Content-Length": {fmt.Sprint(len(big))}}, big},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := proxytest.NewUpstream(t, func(conn net.Conn, header string) { io.WriteString(conn, c.answer) })
			d := dialerTo(t, "ws://"+up.Addr(), patience)
			_, resp := ask(t, refusing(t, d).Listener.Addr().String())
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Errorf("read body: %v", err)
			}
			resp.Header.Del("Date")
			if resp.StatusCode != c.status || fmt.Sprint(resp.Header) != fmt.Sprint(c.header) {
				t.Errorf("client got %d %v, want %d %v", resp.StatusCode, resp.Header, c.status, c.header)
			}
			if string(body) != c.body {
				t.Errorf("client got a body of %d bytes, %.40q; want %d, %.40q", len(body), body, len(c.body), c.body)
			}
			if n := d.logs.Len(); n != 0 {
				t.Errorf("a refusal is an answer, but there are %d log lines about an outage", n)
			}
		})
	}
}

// Half a body must not look like a whole one.
func TestRefusalBreaksOff(t *testing.T) {
	for name, answer := range map[string]string{
		"length":  "HTTP/1.1 500 Oh\r\nContent-Length: 10\r\n\r\nhalf",
		"chunked": "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		up := proxytest.NewUpstream(t, func(conn net.Conn, header string) { io.WriteString(conn, answer) })
		_, resp := ask(t, refusing(t, dialerTo(t, "ws://"+up.Addr(), patience)).Listener.Addr().String())
		if body, err := io.ReadAll(resp.Body); err == nil || string(body) != "half" {
			t.Errorf("%s: client read %q and error %v; want half, and an error", name, body, err)
		}
	}
}

// A body that stalls is given up after the connect timeout; one that only takes long is not.
func TestRefusalStalls(t *testing.T) {
	for _, stalls := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := dialerTo(t, "ws://upstream", 5*time.Second)
			closed := false
			d.netDial = proxytest.PipeUpstream(func(conn net.Conn, header string) {
				io.WriteString(conn, "HTTP/1.1 500 Oh\r\nContent-Length: 40\r\n\r\n")
				for range 40 {
					if !stalls {
						time.Sleep(4 * time.Second)
						io.WriteString(conn, "x")
					}
				}
				io.Copy(io.Discard, conn)
				closed = true
			})
			_, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
			var refused *refusal
			if !errors.As(err, &refused) {
				t.Fatalf("dial: %v, want a refusal", err)
			}
			w := httptest.NewRecorder()
			begun := time.Now()
			var aborted any
			func() {
				defer func() { aborted = recover() }()
				refused.relay(t.Context(), w)
			}()
			took := time.Since(begun)
			synctest.Wait()
			if stalls && (aborted != http.ErrAbortHandler || took != 5*time.Second) {
				t.Errorf("a stalled body: relay ended after %v with %v, want 5 s and http.ErrAbortHandler", took, aborted)
			}
			if !stalls && (aborted != nil || w.Body.Len() != 40) {
				t.Errorf("a slow body: relay ended after %v with %v and %d bytes, want all 40", took, aborted, w.Body.Len())
			}
			if !closed {
				t.Errorf("stalls %v: the upstream's connection stays open", stalls)
			}
		})
	}
}

func TestRefusalEndsWithItsClient(t *testing.T) {
	closed, answered := make(chan struct{}), make(chan struct{})
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		defer close(closed)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
		<-answered // the body waits until the client has the header
		io.WriteString(conn, "data: 1\n\n")
		io.Copy(io.Discard, conn)
	})
	conn, resp := ask(t, refusing(t, dialerTo(t, "ws://"+up.Addr(), patience)).Listener.Addr().String())
	close(answered)
	first := make([]byte, len("data: 1\n\n"))
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatalf("the first event is not flushed: %v", err)
	}
	conn.Close()
	select {
	case <-closed:
	case <-time.After(patience / 2):
		t.Error("the client has gone, but the upstream's connection stays open")
	}
}
