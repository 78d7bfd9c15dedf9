package proxytest

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// An Upstream is a backend that shows a test every byte it is sent and answers with what the
// test wants, right or wrong. Each connection reads the header of one request, up to and
// with the empty line, and is then the test's; it is closed when serve returns.
type Upstream struct {
	ln    net.Listener
	serve func(conn net.Conn, header string)
	conns sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool // nil once the test is over
}

// NewUpstream starts an Upstream on loopback TCP, which ends with the test. serve runs in a
// goroutine for each connection, so it may call t.Error but not t.Fatal.
func NewUpstream(t testing.TB, serve func(conn net.Conn, header string)) *Upstream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ServeUpstream(t, ln, serve)
}

// NewUnixUpstream starts an Upstream on a Unix socket.
func NewUnixUpstream(t testing.TB, serve func(conn net.Conn, header string)) *Upstream {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "upstream.sock"))
	if err != nil {
		t.Fatal(err)
	}
	return ServeUpstream(t, ln, serve)
}

// ServeUpstream starts an Upstream on a listener of the test's, tls.NewListener's for
// example, and closes it with the test.
func ServeUpstream(t testing.TB, ln net.Listener, serve func(conn net.Conn, header string)) *Upstream {
	t.Helper()
	u := &Upstream{ln: ln, serve: serve, open: map[net.Conn]bool{}}
	u.conns.Go(u.accept)
	t.Cleanup(u.end)
	return u
}

// Addr is host:port, or the path of the socket.
func (u *Upstream) Addr() string { return u.ln.Addr().String() }

func (u *Upstream) accept() {
	for {
		conn, err := u.ln.Accept()
		if err != nil {
			return
		}
		u.mu.Lock()
		if u.open == nil {
			conn.Close()
		} else {
			u.open[conn] = true
			u.conns.Go(func() { u.handle(conn) })
		}
		u.mu.Unlock()
	}
}

func (u *Upstream) handle(conn net.Conn) {
	defer func() {
		conn.Close()
		u.mu.Lock()
		delete(u.open, conn)
		u.mu.Unlock()
	}()
	serveHeader(conn, u.serve)
}

func serveHeader(conn net.Conn, serve func(conn net.Conn, header string)) {
	var header []byte
	for one := make([]byte, 1); !bytes.HasSuffix(header, []byte("\r\n\r\n")); {
		// Byte by byte, so that what follows is left for serve.
		if _, err := conn.Read(one); err != nil {
			return
		}
		header = append(header, one[0])
	}
	serve(conn, string(header))
}

// PipeUpstream is an Upstream without a socket, for tests under testing/synctest: each call
// of the function it returns, which suits DialContext fields, is one connection to it. Unlike a
// socket's, a Write waits until the other side reads.
func PipeUpstream(serve func(conn net.Conn, header string)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			serveHeader(far, serve)
		}()
		return near, nil
	}
}

func (u *Upstream) end() {
	u.ln.Close()
	u.mu.Lock()
	for conn := range u.open {
		conn.Close()
	}
	u.open = nil
	u.mu.Unlock()
	u.conns.Wait()
}

// HeaderValues returns, in order, the values of the header with exactly this name in a
// request or response header, case and all.
func HeaderValues(header, name string) []string {
	var values []string
	for _, line := range strings.Split(header, "\r\n")[1:] {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// SwitchingProtocols is the right 101 for a handshake with this header, with extra lines
// ("Name: value") put in, and ends with the empty line.
func SwitchingProtocols(header string, lines ...string) string {
	key := strings.Join(HeaderValues(header, "Sec-WebSocket-Key"), "")
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 section 4.2.2
	lines = append([]string{
		"HTTP/1.1 101 Switching Protocols",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]),
	}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}
