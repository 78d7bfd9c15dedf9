package proxy

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
)

// upgradeRequest is a good handshake, changed by edit.
func upgradeRequest(edit func(r *http.Request)) *http.Request {
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {testKey}}
	edit(r)
	return r
}

func TestIsUpgrade(t *testing.T) {
	for _, c := range []struct {
		connection, upgrade []string
		want                bool
	}{
		{[]string{"Upgrade"}, []string{"websocket"}, true},
		{[]string{"keep-alive, upgrade"}, []string{"WebSocket"}, true},
		{[]string{"keep-alive", "UPGRADE"}, []string{"h2c, websocket"}, true},
		{[]string{"Upgrade"}, []string{"h2c"}, false},
		{[]string{"Upgrade"}, nil, false},
		{[]string{"keep-alive"}, []string{"websocket"}, false},
		{nil, []string{"websocket"}, false},
		{[]string{"Upgraded"}, []string{"websockets"}, false},
		{nil, nil, false},
	} {
		r := upgradeRequest(func(r *http.Request) { r.Header = http.Header{"Connection": c.connection, "Upgrade": c.upgrade} })
		if got := isUpgrade(r); got != c.want {
			t.Errorf("Connection %q, Upgrade %q: isUpgrade is %v, want %v", c.connection, c.upgrade, got, c.want)
		}
	}
}

func TestCheckUpgrade(t *testing.T) {
	for _, c := range []struct {
		name   string
		edit   func(r *http.Request)
		status int
		header http.Header // of the answer
	}{
		{"good", func(*http.Request) {}, 0, nil},
		{"POST", func(r *http.Request) { r.Method = "POST" }, 405, http.Header{"Allow": {"GET"}}},
		{"HTTP/1.0", func(r *http.Request) { r.Proto, r.ProtoMinor = "HTTP/1.0", 0 }, 505, nil},
		{"HTTP/2", func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0 }, 505, nil},
		{"no Host", func(r *http.Request) { r.Host = "" }, 400, nil},
		{"body", func(r *http.Request) { r.ContentLength = 3 }, 400, nil},
		{"chunked body", func(r *http.Request) { r.ContentLength = -1 }, 400, nil},
		{"old version", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") }, 426,
			http.Header{"Sec-WebSocket-Version": {"13"}, "Upgrade": {"websocket"}, "Connection": {"Upgrade"}}},
		{"no version", func(r *http.Request) { r.Header.Del("Sec-WebSocket-Version") }, 426, http.Header{"Sec-WebSocket-Version": {"13"}}},
		{"two versions", func(r *http.Request) { r.Header.Add("Sec-WebSocket-Version", "8") }, 426, nil},
		{"no key", func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") }, 400, nil},
		{"two keys", func(r *http.Request) { r.Header.Add("Sec-WebSocket-Key", testKey) }, 400, nil},
		{"short key", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "c2hvcnQ=") }, 400, nil},
		{"key not base64", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", strings.Repeat("!", 24)) }, 400, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, msg := checkUpgrade(upgradeRequest(c.edit))
			if status != c.status || (msg == "") != (status == 0) {
				t.Fatalf("status %d %q, want %d", status, msg, c.status)
			}
			if status == 0 {
				return
			}
			w := httptest.NewRecorder()
			refuseUpgrade(w, status, msg)
			if w.Code != status || !strings.Contains(w.Body.String(), msg) {
				t.Errorf("answered %d %q", w.Code, w.Body)
			}
			for name, values := range c.header {
				if !slices.Equal(w.Header()[name], values) {
					t.Errorf("answered with %s %q, want %q", name, w.Header()[name], values)
				}
			}
		})
	}
}

func TestUpgradeOnly(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(upgradeOnly))
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 426 || resp.Header.Get("Upgrade") != "websocket" || !strings.Contains(string(body), "WebSocket") {
		t.Errorf("a plain request got %d, Upgrade %q, %q; want 426 and the way out", resp.StatusCode, resp.Header.Get("Upgrade"), body)
	}
}

// passing starts a server that passes plain requests to an upstream.
func passing(t *testing.T, upstream string, timeout time.Duration) (*httptest.Server, *passthrough, *observer.ObservedLogs) {
	t.Helper()
	return passingOverTLS(t, upstream, config.UpstreamTLS{}, timeout)
}

func passingOverTLS(t *testing.T, upstream string, own config.UpstreamTLS, timeout time.Duration) (*httptest.Server, *passthrough, *observer.ObservedLogs) {
	t.Helper()
	u, err := config.ParseURL(upstream)
	if err != nil {
		t.Fatalf("upstream %q: %v", upstream, err)
	}
	core, logs := observer.New(zap.InfoLevel)
	p := newPassthrough(config.Upstream{URL: u, ConnectTimeout: timeout}, upstreamTLS(t, u, own), newOutageLog(zap.New(core), u))
	server := httptest.NewServer(p)
	t.Cleanup(p.close)
	t.Cleanup(server.Close)
	return server, p, logs
}

// exchange sends raw bytes and returns all that comes back until the end.
func exchange(t *testing.T, address, raw string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, raw)
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("read answer: %v (got %q)", err, got)
	}
	return string(got)
}

func TestPassthroughRequest(t *testing.T) {
	for _, c := range []struct {
		name, url, request string
		header             []string // what the upstream gets, in any order
		body               string
	}{
		{"plain", "", "GET /a%2Fb|c?x=%20;y&%zz HTTP/1.1\r\nHost: app.example\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n" +
			"Cookie: a=1\r\nCookie: b=2\r\nTE: gzip\r\nKeep-Alive: 1\r\nProxy-Authorization: x\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=x\r\n\r\n",
			[]string{"GET /a%2Fb|c?x=%20;y&%zz HTTP/1.1", "Host: app.example", "Cookie: a=1", "Cookie: b=2",
				"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: app.example", "X-Forwarded-Proto: http"}, ""},
		{"behind a path", "/base", "POST //x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4\r\nAccept-Encoding: br\r\nUser-Agent: ua\r\n\r\nbody",
			[]string{"POST /base//x HTTP/1.1", "Host: h", "Content-Length: 4", "Accept-Encoding: br", "User-Agent: ua",
				"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: h", "X-Forwarded-Proto: http"}, "body"},
		{"two slashes", "", "GET //x//y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
			[]string{"GET //x//y HTTP/1.1", "Host: h", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: h", "X-Forwarded-Proto: http"}, ""},
		{"two slashes and a bar", "", "GET //x|y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
			[]string{"GET //x%7Cy HTTP/1.1", "Host: h", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: h", "X-Forwarded-Proto: http"}, ""},
		{"chunked", "/?k=1", "PUT /?x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
			[]string{"PUT /?k=1&x HTTP/1.1", "Host: h", "Transfer-Encoding: chunked",
				"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: h", "X-Forwarded-Proto: http"}, "4\r\nbody\r\n0\r\n\r\n"},
		{"another upgrade", "", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
			[]string{"GET / HTTP/1.1", "Host: h", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: h", "X-Forwarded-Proto: http"}, ""},
		{"absolute form", "", "GET http://other.example/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
			[]string{"GET /x HTTP/1.1", "Host: other.example", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: other.example", "X-Forwarded-Proto: http"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			type request struct{ header, body string }
			got := make(chan request, 1)
			up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
				body := make([]byte, len(c.body))
				io.ReadFull(conn, body)
				got <- request{header, string(body)}
				io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
			})
			server, _, _ := passing(t, "ws://"+up.Addr()+c.url, patience)
			if answer := exchange(t, server.Listener.Addr().String(), c.request); !strings.HasPrefix(answer, "HTTP/1.1 204 ") {
				t.Fatalf("client got %q, want 204", answer)
			}
			r := <-got
			lines := strings.Split(strings.TrimSuffix(r.header, "\r\n\r\n"), "\r\n")
			if lines[0] != c.header[0] {
				t.Errorf("upstream got %q, want %q", lines[0], c.header[0])
			}
			slices.Sort(lines)
			slices.Sort(c.header)
			if !slices.Equal(lines, c.header) {
				t.Errorf("upstream got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(c.header, "\n"))
			}
			if r.body != c.body {
				t.Errorf("upstream got the body %q, want %q", r.body, c.body)
			}
		})
	}
}

func TestPassthroughAnswer(t *testing.T) {
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		io.WriteString(conn, "HTTP/1.1 418 Teapot\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 6\r\n\r\n<html>")
	})
	server, _, _ := passing(t, "http://"+up.Addr(), patience)
	answer := exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	header, body, _ := strings.Cut(answer, "\r\n\r\n")
	if !strings.HasPrefix(header, "HTTP/1.1 418 ") || body != "<html>" {
		t.Errorf("client got %q, want the upstream's 418 and body", answer)
	}
	for name, want := range map[string][]string{"Set-Cookie": {"a=1", "b=2"}, "Content-Length": {"6"}, "X-Hop": nil, "Content-Type": nil} {
		if got := proxytest.HeaderValues(header, name); !slices.Equal(got, want) {
			t.Errorf("client got %s %q, want %q", name, got, want)
		}
	}
}

func TestPassthroughStreams(t *testing.T) {
	seen := make(chan struct{})
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
		<-seen // the second event waits until the client has the first
		io.WriteString(conn, "data: 2\n\n")
	})
	server, _, _ := passing(t, "http://"+up.Addr(), patience)
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	for i := range 2 {
		line, err := events.ReadString('\n')
		if want := fmt.Sprintf("data: %d\n", i+1); err != nil || line != want {
			t.Errorf("got %q (%v), want %q", line, err, want)
		}
		events.ReadString('\n')
		if i == 0 {
			close(seen)
		}
	}
}

// The connect timeout is not for thinking: long polls take their time.
func TestPassthroughSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := config.URL{Scheme: "ws", Host: "upstream"}
		core, logs := observer.New(zap.InfoLevel)
		p := newPassthrough(config.Upstream{URL: u, ConnectTimeout: 5 * time.Second}, nil, newOutageLog(zap.New(core), u))
		defer p.close()
		p.transport.DialContext = proxytest.PipeUpstream(func(conn net.Conn, header string) {
			time.Sleep(time.Hour)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		})
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != 200 || w.Body.String() != "hi" || logs.Len() != 0 {
			t.Errorf("an answer after an hour: %d %q, %d log lines; want it passed", w.Code, w.Body, logs.Len())
		}
	})
}

func TestPassthroughUnix(t *testing.T) {
	up := proxytest.NewUnixUpstream(t, func(conn net.Conn, header string) {
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n%.3s", proxytest.HeaderValues(header, "Host")[0])
	})
	server, _, _ := passing(t, "unix:"+up.Addr(), patience)
	answer := exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: abc\r\nConnection: close\r\n\r\n")
	if !strings.HasSuffix(answer, "\r\n\r\nabc") {
		t.Errorf("over a Unix socket, client got %q; want the Host it sent", answer)
	}
}

func TestPassthroughTLS(t *testing.T) {
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s", r.Proto, r.Host)
	}))
	backend.EnableHTTP2 = true
	backend.StartTLS()
	defer backend.Close()
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	proxytest.WriteFile(t, caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: backend.Certificate().Raw}))
	get := func(own config.UpstreamTLS) string {
		server, _, _ := passingOverTLS(t, strings.Replace(backend.URL, "https", "wss", 1), own, patience)
		return exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: abc\r\nConnection: close\r\n\r\n")
	}
	if answer := get(config.UpstreamTLS{}); !strings.HasPrefix(answer, "HTTP/1.1 502 ") {
		t.Errorf("unknown certificate authority: client got %q, want 502", answer)
	}
	if answer := get(config.UpstreamTLS{CAFile: caFile}); !strings.HasSuffix(answer, "HTTP/1.1 for abc") {
		t.Errorf("client got %q; want an answer over HTTP/1.1, for the client's Host", answer)
	}
}

func TestPassthroughFailures(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	garbage := proxytest.NewUpstream(t, func(conn net.Conn, header string) { io.WriteString(conn, "what?\r\n\r\n") })
	mute := proxytest.NewUpstream(t, func(conn net.Conn, header string) {})
	switching := proxytest.NewUpstream(t, func(conn net.Conn, header string) { io.WriteString(conn, proxytest.SwitchingProtocols(header)) })
	for _, c := range []struct {
		name, url string
		timeout   time.Duration
		status    string
	}{
		{"closed port", "ws://" + closedPort(t), patience, "502"},
		{"garbage", "ws://" + garbage.Addr(), patience, "502"},
		{"no answer", "ws://" + mute.Addr(), patience, "502"},
		{"101 that nobody asked for", "ws://" + switching.Addr(), patience, "502"},
		{"TLS that never comes", "wss://" + silent.Addr().String(), 100 * time.Millisecond, "504"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, _, logs := passing(t, c.url, c.timeout)
			for range 3 {
				answer := exchange(t, server.Listener.Addr().String(), "GET /?token=secret HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
				if !strings.HasPrefix(answer, "HTTP/1.1 "+c.status+" ") {
					t.Errorf("client got %q, want %s", answer, c.status)
				}
			}
			if logs.Len() != 1 {
				t.Errorf("three failures gave %d log lines, want one: %v", logs.Len(), logs.All())
			}
			for _, line := range logs.All() {
				if strings.Contains(fmt.Sprint(line), "secret") {
					t.Errorf("the client's query is in the log: %v", line)
				}
			}
		})
	}
}

// What a client does wrong is no outage of the upstream.
func TestPassthroughClientFaults(t *testing.T) {
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) { io.Copy(io.Discard, conn) })
	server, _, logs := passing(t, "http://"+up.Addr(), patience)
	address := server.Listener.Addr().String()
	answer := exchange(t, address, "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
		t.Errorf("malformed body: client got %q, want 400", answer)
	}
	answer = exchange(t, address, "CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 405 ") {
		t.Errorf("CONNECT: client got %q, want 405", answer)
	}
	if logs.Len() != 0 {
		t.Errorf("clients' faults are logged as an outage: %v", logs.All())
	}
}

// Handshakes and plain requests share one log of outages.
func TestOutageIsShared(t *testing.T) {
	socket := t.TempDir() + "/upstream.sock"
	d := dialerTo(t, "unix:"+socket, patience)
	p := newPassthrough(config.Upstream{URL: d.url, ConnectTimeout: patience}, nil, d.outages)
	defer p.close()
	server := httptest.NewServer(p)
	defer server.Close()
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	proxytest.ServeUpstream(t, ln, func(conn net.Conn, header string) {
		io.WriteString(conn, "HTTP/1.1 401 Login\r\nContent-Length: 0\r\n\r\n")
	})
	plain := func() string {
		return exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	}
	for name, success := range map[string]func() bool{
		"a refusal": func() bool {
			_, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
			return statusOf(err) == 401
		},
		"an answer": func() bool { return strings.HasPrefix(plain(), "HTTP/1.1 401 ") },
	} {
		d.outages.outage = outage{}
		d.logs.TakeAll()
		os.Rename(socket, socket+".away")
		for range 5 {
			d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
			plain()
		}
		os.Rename(socket+".away", socket)
		d.outages.circuit.probeAt = time.Now() // no pause
		if !success() {
			t.Errorf("%s: not 401", name)
		}
		all := d.logs.All()
		if len(all) != 2 || all[1].Message != "upstream reachable again" || all[1].ContextMap()["turned_away"] != int64(10) {
			t.Errorf("five failed handshakes, five failed requests, and %s: logged %v; want one line for the outage and one for its end after 10", name, all)
		}
	}
}
