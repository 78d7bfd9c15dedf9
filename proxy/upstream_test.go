package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/engine"
	"github.com/tideover/tideover/proxy/proxytest"
)

const testKey = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455 section 1.3

// A testDialer is a dialer and what it logs.
type testDialer struct {
	*dialer
	logs *observer.ObservedLogs
}

func dialerTo(t testing.TB, upstream string, timeout time.Duration) testDialer {
	t.Helper()
	u, err := config.ParseURL(upstream)
	if err != nil {
		t.Fatalf("upstream %q: %v", upstream, err)
	}
	core, logs := observer.New(zap.InfoLevel)
	d := newDialer(config.Upstream{URL: u, ConnectTimeout: timeout}, upstreamTLS(t, u, config.UpstreamTLS{}), newOutageLog(zap.New(core), u))
	return testDialer{d, logs}
}

// upstreamTLS is what own means for u; nil for plain text.
func upstreamTLS(t testing.TB, u config.URL, own config.UpstreamTLS) *pemFiles[tls.Config] {
	t.Helper()
	if !u.TLS() {
		return nil
	}
	files, err := openUpstreamTLS(config.Upstream{URL: u, TLS: own}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// dial opens a WebSocket for a client that is there until ctx is done.
func (d testDialer) dial(ctx context.Context, r *http.Request, client net.Addr, protocols []string) (*upstreamConn, error) {
	a := attempt{strict: true}
	defer context.AfterFunc(ctx, a.abandon)()
	return d.open(&a, r, client.String(), protocols)
}

// patience is a connect timeout that no test wants to see pass.
const patience = 60 * time.Second

var testAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}

// handshake is a client's handshake as a server has read it, for target, with more header lines.
func handshake(t testing.TB, target string, lines ...string) *http.Request {
	t.Helper()
	raw := "GET " + target + " HTTP/1.1\r\nHost: chat.example:8080\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + testKey + "\r\n" +
		strings.Join(append(lines, "\r\n"), "\r\n")
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatalf("test's own request: %v", err)
	}
	return r
}

// sentFor dials for r and returns the header that the upstream got.
func sentFor(t *testing.T, urlPath string, r *http.Request, addr net.Addr, protocols ...string) string {
	t.Helper()
	got := make(chan string, 1)
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		got <- header
		io.WriteString(conn, proxytest.SwitchingProtocols(header))
	})
	d := dialerTo(t, "ws://"+up.Addr()+urlPath, patience)
	conn, err := d.dial(t.Context(), r, addr, protocols)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	conn.Conn.Close()
	return <-got
}

func TestDialSendsEndToEndHeaders(t *testing.T) {
	r := handshake(t, "/ws?x=1",
		"Cookie: a=1", "Cookie: b=2", "Authorization: Bearer t", "Origin: https://app.example", "User-Agent: ua/1 (x)",
		"Accept-Language: de, en;q=0.5", "X-Custom: one", "x-custom: two", "X-Custom: one", "X-Empty:", "X-Real-Ip: 203.0.113.9",
		// And what must not pass:
		"Connection: X-Private, close", "X-Private: secret", "Keep-Alive: timeout=5", "TE: trailers", "Trailer: X-T",
		"Proxy-Authorization: Basic x", "Proxy-Connection: keep-alive", "Content-Length: 0",
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Sec-WebSocket-Protocol: tideover.v1, chat",
		"Sec-WebSocket-Accept: x",
		"X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 10.0.0.2", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "Forwarded: for=10.0.0.1")
	header := sentFor(t, "", r, testAddr, "chat", "chat.v2")

	key := strings.Join(proxytest.HeaderValues(header, "Sec-WebSocket-Key"), "")
	if nonce, err := base64.StdEncoding.DecodeString(key); err != nil || len(nonce) != 16 || key == testKey {
		t.Errorf("Sec-WebSocket-Key %q is not 16 bytes of the proxy's own", key)
	}
	want := []string{
		"GET /ws?x=1 HTTP/1.1", "Host: chat.example:8080", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key, "Sec-WebSocket-Protocol: chat, chat.v2",
		"Cookie: a=1", "Cookie: b=2", "Authorization: Bearer t", "Origin: https://app.example", "User-Agent: ua/1 (x)",
		"Accept-Language: de, en;q=0.5", "X-Custom: one", "X-Custom: two", "X-Custom: one", "X-Empty: ", "X-Real-Ip: 203.0.113.9",
		"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: http", "X-Forwarded-Host: chat.example:8080",
	}
	lines := strings.Split(strings.TrimSuffix(header, "\r\n\r\n"), "\r\n")
	if lines[0] != want[0] {
		t.Errorf("request line %q, want %q", lines[0], want[0])
	}
	if got := proxytest.HeaderValues(header, "X-Custom"); !slices.Equal(got, []string{"one", "two", "one"}) {
		t.Errorf("X-Custom passed as %q, want one, two, one in this order", got)
	}
	slices.Sort(lines)
	slices.Sort(want)
	if !slices.Equal(lines, want) {
		t.Errorf("upstream got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestDialSendsNothingTheClientLeftOut(t *testing.T) {
	r := handshake(t, "/", "X-Forwarded-For: 10.0.0.1") // which nobody believes
	r.TLS = &tls.ConnectionState{}
	header := sentFor(t, "", r, &net.UnixAddr{Name: "@", Net: "unix"})
	for _, name := range []string{"User-Agent", "Accept-Encoding", "Sec-WebSocket-Protocol", "X-Forwarded-For"} {
		if got := proxytest.HeaderValues(header, name); got != nil {
			t.Errorf("upstream got %s %q, want none", name, got)
		}
	}
	if got := proxytest.HeaderValues(header, "X-Forwarded-Proto"); !slices.Equal(got, []string{"https"}) {
		t.Errorf("X-Forwarded-Proto %q for a client over TLS, want https", got)
	}
	if got := r.Header.Get("Sec-WebSocket-Key"); got != testKey {
		t.Errorf("dial changed the client's request: its key is now %q", got)
	}
}

func TestDialTarget(t *testing.T) {
	for _, c := range []struct{ url, target, want string }{
		{"", "/", "/"},
		{"", "/ws", "/ws"},
		{"", "/a%2Fb?x=%20", "/a%2Fb?x=%20"},
		{"", "/a%2fb%7E|x", "/a%2fb%7E|x"},
		{"", "//twice//", "//twice//"},
		{"", "/?", "/?"},
		{"", "/?a?b&&c=;%zz", "/?a?b&&c=;%zz"},
		{"", "/../x/./y", "/../x/./y"},
		{"", "http://other.example/abs%2F?q", "/abs%2F?q"},
		{"", "http://other.example", "/"},
		{"/", "/ws", "/ws"},
		{"/base", "/ws", "/base/ws"},
		{"/base/", "/ws", "/base/ws"},
		{"/base//", "/", "/base/"},
		{"/b%2Fc", "/%2F", "/b%2Fc/%2F"},
		{"/base?k=1", "/ws", "/base/ws?k=1"},
		{"/base?k=1", "/ws?x=2", "/base/ws?k=1&x=2"},
		{"/base?k=1", "/ws?", "/base/ws?k=1"},
	} {
		header := sentFor(t, c.url, handshake(t, c.target), testAddr)
		line, _, _ := strings.Cut(header, "\r\n")
		if want := "GET " + c.want + " HTTP/1.1"; line != want {
			t.Errorf("URL path %q, client asks for %q: sent %q, want %q", c.url, c.target, line, want)
		}
	}
}

// serving starts an upstream that answers each handshake with what answer makes of its header.
func serving(t *testing.T, answer func(header string) string) *proxytest.Upstream {
	return proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		io.WriteString(conn, answer(header))
		io.Copy(io.Discard, conn)
	})
}

func TestDialResult(t *testing.T) {
	const early = "\x81\x05hello\x81\x01"
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		// One write: the frames arrive in the same segment as the 101.
		io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"+
			proxytest.SwitchingProtocols(header, "sec-websocket-protocol: chat", "Set-Cookie: a=1", "set-cookie: b=2", "X-Node: 7", "Date: today",
				"Connection: X-Hop", "X-Hop: 1", "Keep-Alive: 5", "Content-Length: 3", "Sec-WebSocket-Extensions: ")+early)
		io.Copy(conn, conn) // an echo
	})
	d := dialerTo(t, "ws://"+up.Addr(), patience)
	got, err := d.dial(t.Context(), handshake(t, "/"), testAddr, []string{"soup", "chat"})
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer got.Conn.Close()
	if string(got.Early) != early {
		t.Errorf("early bytes %q, want %q", got.Early, early)
	}
	if got.Protocol != "chat" {
		t.Errorf("protocol %q, want chat", got.Protocol)
	}
	want := http.Header{"Set-Cookie": {"a=1", "b=2"}, "X-Node": {"7"}, "Date": {"today"}}
	if fmt.Sprint(got.Header) != fmt.Sprint(want) {
		t.Errorf("headers for the client's 101: %v, want %v", got.Header, want)
	}
	switch got.Conn.(type) {
	case *net.TCPConn, *engine.Conn:
	default:
		t.Errorf("Conn is a %T, not the socket itself", got.Conn)
	}
	io.WriteString(got.Conn, "ping")
	echo := make([]byte, 4)
	if _, err := io.ReadFull(got.Conn, echo); err != nil || string(echo) != "ping" {
		t.Errorf("after the early bytes: read %q, %v; want the echo", echo, err)
	}
}

// More than the read buffer may follow the 101 at once; none of it may be lost.
func TestDialManyEarlyBytes(t *testing.T) {
	sent := bytes.Repeat([]byte("0123456789abcde\n"), 4<<10) // 64 KiB
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		conn.Write(append([]byte(proxytest.SwitchingProtocols(header)), sent...))
	})
	d := dialerTo(t, "ws://"+up.Addr(), patience)
	got, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer got.Conn.Close()
	if len(got.Early) > answerBufferBytes {
		t.Errorf("%d early bytes, want at most %d", len(got.Early), answerBufferBytes)
	}
	rest, err := io.ReadAll(got.Conn)
	if err != nil || !bytes.Equal(append(got.Early, rest...), sent) {
		t.Errorf("of %d bytes behind the 101, %d early and %d later arrived (%v), or they differ", len(sent), len(got.Early), len(rest), err)
	}
}

// The deadline of the handshake must not stay behind on the connection.
func TestDialLeavesNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dialerTo(t, "ws://upstream", 5*time.Second)
		d.netDial = proxytest.PipeUpstream(func(conn net.Conn, header string) {
			time.Sleep(4 * time.Second)
			io.WriteString(conn, proxytest.SwitchingProtocols(header))
			time.Sleep(time.Hour)
			io.WriteString(conn, "x")
		})
		got, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
		if err != nil {
			t.Fatalf("dial: %v", err)
		}
		defer got.Conn.Close()
		if _, err := io.ReadFull(got.Conn, make([]byte, 1)); err != nil {
			t.Errorf("read an hour later: %v; want the byte that was sent then", err)
		}
	})
}

// A deadlineless conn brings its answer late, whatever the deadline.
type deadlineless struct{ net.Conn }

func (deadlineless) SetDeadline(time.Time) error { return nil }

// An answer that comes just when the time is over must not get through with the deadline
// that is being set.
func TestDialAnswerAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dialerTo(t, "ws://upstream", 5*time.Second)
		connect := proxytest.PipeUpstream(func(conn net.Conn, header string) {
			time.Sleep(6 * time.Second)
			io.WriteString(conn, proxytest.SwitchingProtocols(header))
		})
		d.netDial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := connect(ctx, network, address)
			return deadlineless{conn}, err
		}
		conn, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
		if conn != nil || statusOf(err) != 504 {
			t.Errorf("got %v, %v (status %d); want 504", conn, err, statusOf(err))
		}
	})
}

// The connect timeout is for everything together, not for each step.
func TestDialTimeoutIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dialerTo(t, "ws://upstream", 5*time.Second)
		begun := time.Now()
		connect := proxytest.PipeUpstream(func(conn net.Conn, header string) {
			time.Sleep(4 * time.Second)
			io.WriteString(conn, proxytest.SwitchingProtocols(header))
		})
		d.netDial = func(ctx context.Context, network, address string) (net.Conn, error) {
			time.Sleep(4 * time.Second)
			return connect(ctx, network, address)
		}
		_, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
		if took := time.Since(begun); statusOf(err) != 504 || took != 5*time.Second {
			t.Errorf("4 s to connect and 4 s to answer: %v (status %d) after %v; want 504 after 5 s", err, statusOf(err), took)
		}
		time.Sleep(time.Minute) // lets the upstream finish
	})
}

func TestDialUpstreamClosesEarly(t *testing.T) {
	for _, part := range []string{"", "HTTP/1.1 101 Swit", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs"} {
		up := proxytest.NewUpstream(t, func(conn net.Conn, header string) { io.WriteString(conn, part) })
		d := dialerTo(t, "ws://"+up.Addr(), patience)
		if _, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil); statusOf(err) != 502 {
			t.Errorf("closed after %q: %v (status %d), want 502", part, err, statusOf(err))
		}
	}
}

func TestDialTooSlow(t *testing.T) {
	const timeout = 100 * time.Millisecond
	wait := func(conn net.Conn, header string) { io.Copy(io.Discard, conn) }
	silent, err := net.Listen("tcp", "127.0.0.1:0") // never accepts, though the system does
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, d := range map[string]testDialer{
		"no answer": dialerTo(t, "ws://"+proxytest.NewUpstream(t, wait).Addr(), timeout),
		"half an answer": dialerTo(t, "ws://"+proxytest.NewUpstream(t, func(conn net.Conn, header string) {
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade:")
			wait(conn, header)
		}).Addr(), timeout),
		"an answer in drops": dialerTo(t, "ws://"+proxytest.NewUpstream(t, func(conn net.Conn, header string) {
			for _, b := range []byte(proxytest.SwitchingProtocols(header)) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(timeout / 10) // 13 timeouts in all
			}
		}).Addr(), timeout),
		"no TLS": dialerTo(t, "wss://"+silent.Addr().String(), timeout),
		"no connection": func() testDialer {
			d := dialerTo(t, "ws://192.0.2.1", timeout)
			d.netDial = func(ctx context.Context, network, address string) (net.Conn, error) {
				<-ctx.Done()
				return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
			}
			return d
		}(),
	} {
		begun := time.Now()
		_, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
		if statusOf(err) != 504 || !errors.Is(err, errTooSlow) {
			t.Errorf("%s: %v (status %d), want 504", name, err, statusOf(err))
		}
		if took := time.Since(begun); took > patience {
			t.Errorf("%s: gave up after %v, though the connect timeout is %v", name, took, timeout)
		}
	}
}

// closedPort is an address where nothing listens.
func closedPort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestDialUnreachable(t *testing.T) {
	for _, upstream := range []string{"ws://" + closedPort(t), "http://" + closedPort(t), "wss://" + closedPort(t), "unix:" + t.TempDir() + "/none.sock"} {
		d := dialerTo(t, upstream+map[bool]string{true: "/?secret=1"}[!strings.HasPrefix(upstream, "unix")], patience)
		_, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
		if statusOf(err) != 502 || !errors.Is(err, errUnreachable) {
			t.Errorf("%s: %v (status %d), want unreachable, 502", upstream, err, statusOf(err))
		} else if !strings.Contains(err.Error(), upstream) || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q must name %s, without its query", err, upstream)
		}
		if n := d.logs.Len(); n != 1 {
			t.Errorf("%s: %d log lines, want one", upstream, n)
		}
	}
}

func TestDialClientGone(t *testing.T) {
	asked := make(chan struct{}, 1)
	closed := make(chan struct{})
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		asked <- struct{}{}
		io.Copy(io.Discard, conn)
		close(closed)
	})
	d := dialerTo(t, "ws://"+up.Addr(), patience)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := d.dial(ctx, handshake(t, "/"), testAddr, nil)
	if !errors.Is(err, errClientGone) || statusOf(err) != 499 {
		t.Errorf("client went during the handshake: %v (status %d), want errClientGone", err, statusOf(err))
	}
	if n := d.logs.Len(); n != 0 {
		t.Errorf("a client that went is no outage, but there are %d log lines", n)
	}
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("the connection to the upstream stays open")
	}
}

func TestDialTLS(t *testing.T) {
	authority := proxytest.NewAuthority(t)
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	proxytest.WriteFile(t, caFile, authority.PEM())
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{authority.Issue("example.com").Certificate},
		NextProtos:   []string{"h2", "http/1.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	names := make(chan string, 2)
	up := proxytest.ServeUpstream(t, ln, func(conn net.Conn, header string) {
		state := conn.(*tls.Conn).ConnectionState()
		names <- state.NegotiatedProtocol + " for " + state.ServerName
		io.WriteString(conn, proxytest.SwitchingProtocols(header)+"\x81\x01x")
	})
	_, port, _ := net.SplitHostPort(up.Addr())
	for _, scheme := range []string{"wss", "https"} {
		d := dialerTo(t, scheme+"://example.com:"+port, patience)
		d.netDial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "example.com:"+port {
				t.Errorf("dialled %q", address)
			}
			return new(net.Dialer).DialContext(ctx, network, up.Addr())
		}
		if _, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil); statusOf(err) != 502 || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("unknown certificate authority: %v, want 502", err)
		}
		d.tls = upstreamTLS(t, d.url, config.UpstreamTLS{CAFile: caFile})
		conn, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
		if err != nil {
			t.Fatalf("dial over TLS: %v", err)
		}
		if all, err := io.ReadAll(conn.Conn); err != nil || string(conn.Early)+string(all) != "\x81\x01x" {
			t.Errorf("frames over TLS: %q and %q (%v)", conn.Early, all, err)
		}
		conn.Conn.Close()
		if name := <-names; name != "http/1.1 for example.com" {
			t.Errorf("TLS negotiated %q, want http/1.1 for example.com", name)
		}
	}
}

func TestDialUnix(t *testing.T) {
	up := proxytest.NewUnixUpstream(t, func(conn net.Conn, header string) {
		if host := proxytest.HeaderValues(header, "Host"); !slices.Equal(host, []string{"chat.example:8080"}) {
			t.Errorf("Host %q", host)
		}
		io.WriteString(conn, proxytest.SwitchingProtocols(header))
	})
	d := dialerTo(t, "unix:"+up.Addr(), patience)
	conn, err := d.dial(t.Context(), handshake(t, "/ws"), testAddr, nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	conn.Conn.Close()
}

// The tests above believe in proxytest's idea of the handshake; this one asks a server
// that others wrote.
func TestDialGobwas(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		upgrader := ws.Upgrader{Protocol: func(p []byte) bool { return string(p) == "chat" }}
		if _, err := upgrader.Upgrade(conn); err != nil {
			t.Errorf("gobwas/ws refuses the handshake: %v", err)
		}
		ws.WriteFrame(conn, ws.NewTextFrame([]byte("hello")))
	}()
	d := dialerTo(t, "ws://"+ln.Addr().String(), patience)
	conn, err := d.dial(t.Context(), handshake(t, "/"), testAddr, []string{"soup", "chat"})
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer conn.Conn.Close()
	frame, err := ws.ReadFrame(io.MultiReader(bytes.NewReader(conn.Early), conn.Conn))
	if err != nil || string(frame.Payload) != "hello" || conn.Protocol != "chat" {
		t.Errorf("first frame %q (%v) in protocol %q; want hello in chat", frame.Payload, err, conn.Protocol)
	}
}
