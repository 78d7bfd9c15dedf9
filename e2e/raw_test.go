package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A rawClient has done its handshake and may now send anything.
type rawClient struct {
	net.Conn
	buffered io.Reader
}

func (c *rawClient) Read(p []byte) (int, error) {
	c.SetDeadline(time.Now().Add(patience))
	return c.buffered.Read(p)
}

func (c *rawClient) Write(p []byte) (int, error) {
	c.SetDeadline(time.Now().Add(patience))
	return c.Conn.Write(p)
}

// dialRaw opens a WebSocket at url.
func dialRaw(t *testing.T, url string) *rawClient {
	t.Helper()
	c, err := tryRaw(url)
	if err != nil {
		t.Fatalf("connect to %s: %v", url, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func tryRaw(url string) (*rawClient, error) {
	dialer := ws.Dialer{Timeout: patience}
	conn, early, _, err := dialer.Dial(context.Background(), url)
	if err != nil {
		return nil, err
	}
	c := &rawClient{conn, conn}
	if early != nil {
		c.buffered = early
	}
	return c, nil
}

func (c *rawClient) send(t *testing.T, bytes string) {
	t.Helper()
	if _, err := io.WriteString(c, bytes); err != nil {
		t.Fatalf("send %.40q: %v", bytes, err)
	}
}

func (c *rawClient) sendText(t *testing.T, text string) {
	t.Helper()
	c.send(t, masked(text))
}

// wantText reads up to the next message and compares.
func (c *rawClient) wantText(t *testing.T, text string) {
	t.Helper()
	if got := c.readText(t); got != text {
		t.Fatalf("received %q, want %q", got, text)
	}
}

// readText reads up to the next message, answering pings.
func (c *rawClient) readText(t *testing.T) string {
	t.Helper()
	text, err := wsutil.ReadServerText(c)
	if err != nil {
		t.Fatalf("receive a message: %v", err)
	}
	return string(text)
}

// wantEcho shows that the session is alive in both directions. Only messages of before, which a client
// that resumes may get again, may come first.
func (c *rawClient) wantEcho(t *testing.T, text string, before ...string) {
	t.Helper()
	c.sendText(t, text)
	for {
		got := c.readText(t)
		if got == text {
			return
		}
		if !slices.Contains(before, got) {
			t.Fatalf("received %q, want %q", got, text)
		}
	}
}

// wantClose reads up to the end of the connection, answering pings and the Close. That one must have this
// code, and nothing may follow it. Code 1006 stands for no Close.
func (c *rawClient) wantClose(t *testing.T, code ws.StatusCode) {
	t.Helper()
	got, reason := ws.StatusAbnormalClosure, ""
	for {
		f, err := ws.ReadFrame(c)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the connection ended with %v after code %d %q, want an orderly end", err, got, reason)
		}
		if got != ws.StatusAbnormalClosure {
			t.Fatalf("a frame came after the Close: %v", f.Header)
		}
		switch f.Header.OpCode {
		case ws.OpPing:
			io.WriteString(c, frame(0x8A, mask, string(f.Payload)))
		case ws.OpClose:
			got, reason = ws.ParseCloseFrameData(f.Payload)
			io.WriteString(c, frame(0x88, mask, string(f.Payload)))
		}
	}
	if got != code {
		t.Errorf("closed with %d %q, want %d", got, reason, code)
	}
}

const mask = "\xa1\xb2\xc3\xd4"

// masked is a client's text message.
func masked(text string) string { return frame(0x81, mask, text) }

// frame is a frame with this first byte and, unless it is empty, this mask.
func frame(first byte, mask, payload string) string {
	b := []byte{first, byte(len(payload))}
	if len(payload) > 125 {
		b = []byte{first, 126, byte(len(payload) >> 8), byte(len(payload))}
	}
	if mask != "" {
		b[1] |= 0x80
		b = append(b, mask...)
	}
	for i := range len(payload) {
		key := byte(0)
		if mask != "" {
			key = mask[i%4]
		}
		b = append(b, payload[i]^key)
	}
	return string(b)
}

// newEcho starts an upstream whose WebSockets send every text message back. On the path /raw it does what
// the test wants instead, after the 101.
func newEcho(t *testing.T, raw func(conn net.Conn, header string)) string {
	t.Helper()
	return proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		if raw != nil && strings.HasPrefix(header, "GET /raw") {
			raw(conn, header)
			return
		}
		io.WriteString(conn, proxytest.SwitchingProtocols(header))
		for {
			text, op, err := wsutil.ReadClientData(conn)
			if err != nil {
				return
			}
			if wsutil.WriteServerMessage(conn, op, text) != nil {
				return
			}
		}
	}).Addr()
}

// get makes a request and returns the answer with its body.
func get(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return response, string(body)
}

// handshake is a request to open a WebSocket, as it should be, with lines put in.
func handshake(target string, lines ...string) string {
	lines = append([]string{
		"GET " + target + " HTTP/1.1", "Host: example.com", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// answerTo sends bytes to addr and returns the status of the answer.
func answerTo(addr, bytes string) (status int, err error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, bytes); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, fmt.Errorf("no answer: %w", err)
	}
	response.Body.Close()
	return response.StatusCode, nil
}
