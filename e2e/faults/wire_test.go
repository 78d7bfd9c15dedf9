package faults

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// First bytes of whole frames (RFC 6455, section 5.2).
const (
	fin          = 0x80
	continuation = 0x0
	text         = 0x1
	binaryOp     = 0x2
	closeOp      = 0x8
	ping         = 0x9
	pong         = 0xA
)

// someMask is a masking key with four different bytes.
const someMask = "\xa1\x02\xfe\x7b"

// build makes a frame: first byte, a masking key of 4 bytes or none, payload, and the length encoding as a
// number of bits (7, 16 or 64; 0 for the shortest).
func build(first byte, mask, payload string, bits int) string {
	n := len(payload)
	if bits == 0 {
		bits = 7
		if n > 125 {
			bits = 16
		}
		if n > 0xffff {
			bits = 64
		}
	}
	var second byte
	if mask != "" {
		second = 0x80
	}
	b := make([]byte, 0, n+14)
	switch bits {
	case 7:
		b = append(b, first, second|byte(n))
	case 16:
		b = binary.BigEndian.AppendUint16(append(b, first, second|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, second|127), uint64(n))
	}
	b = append(b, mask...)
	for i := range n {
		c := payload[i]
		if mask != "" {
			c ^= mask[i%4]
		}
		b = append(b, c)
	}
	return string(b)
}

// masked is a client's frame.
func masked(first byte, payload string) string { return build(first, someMask, payload, 0) }

// plain is a server's frame.
func plain(first byte, payload string) string { return build(first, "", payload, 0) }

func closePayload(code int, reason string) string {
	return string([]byte{byte(code >> 8), byte(code)}) + reason
}

// A wireFrame is a frame as it came, its payload unmasked.
type wireFrame struct {
	first   byte
	masked  bool
	payload string
}

func (f wireFrame) op() byte { return f.first & 0x0f }

// code is a Close frame's; 1005 stands for none.
func (f wireFrame) code() int {
	if len(f.payload) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16([]byte(f.payload)))
}

// readFrame reads one frame of less than 64 MiB.
func readFrame(r io.Reader) (wireFrame, error) {
	f, _, err := readRaw(r)
	return f, err
}

// readRaw reads one frame and tells how many bits its length was encoded in.
func readRaw(r io.Reader) (f wireFrame, bits int, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return f, 0, err
	}
	f.first, f.masked = b[0], b[1]&0x80 != 0
	n := uint64(b[1] & 0x7f)
	bits = 7
	if n >= 126 {
		bits = 16
		if n == 127 {
			bits = 64
		}
		clear(b[:])
		if _, err := io.ReadFull(r, b[8-bits/8:]); err != nil {
			return f, 0, noEOF(err)
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	if n >= 64<<20 {
		return f, 0, fmt.Errorf("a frame of %d bytes", n)
	}
	var mask [4]byte
	if f.masked {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return f, 0, noEOF(err)
		}
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return f, 0, noEOF(err)
	}
	if f.masked {
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
	}
	f.payload = string(payload)
	return f, bits, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// request is a handshake as it should be, with lines put in before the empty one.
func request(target string, lines ...string) string {
	lines = append([]string{
		"GET " + target + " HTTP/1.1", "Host: example.com", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// sampleAccept answers the key that request sends (RFC 6455, section 1.3).
const sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

// A wire is one side of an open WebSocket, to be written to and read from as one likes.
type wire struct {
	net.Conn
	r       *bufio.Reader
	answer  *http.Response
	sending sync.Mutex // for those who write from several goroutines
}

// open makes a handshake over conn.
func open(conn net.Conn, target string, lines ...string) (*wire, error) {
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request(target, lines...)); err != nil {
		conn.Close()
		return nil, err
	}
	w := &wire{Conn: conn, r: bufio.NewReader(conn)}
	var err error
	if w.answer, err = http.ReadResponse(w.r, nil); err != nil {
		conn.Close()
		return nil, err
	}
	if w.answer.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(w.answer.Body, 200))
		conn.Close()
		return nil, fmt.Errorf("handshake for %s answered with %s: %q", target, w.answer.Status, body)
	}
	return w, nil
}

// dial opens a WebSocket at addr.
func dial(addr, target string, lines ...string) (*wire, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	return open(conn, target, lines...)
}

// mustDial is dial for tests; the wire is closed with the test.
func mustDial(t *testing.T, addr, target string, lines ...string) *wire {
	t.Helper()
	w, err := dial(addr, target, lines...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// message reads up to the end of the next message, which it returns as one frame, and answers pings as every
// client does.
func (w *wire) message() (wireFrame, error) {
	body := ""
	for {
		f, err := readFrame(w.r)
		if err != nil {
			return f, err
		}
		switch f.op() {
		case ping:
			if _, err := io.WriteString(w, masked(fin|pong, f.payload)); err != nil {
				return f, err
			}
		case pong:
		case closeOp:
			return f, fmt.Errorf("closed with %d", f.code())
		default:
			if body += f.payload; f.first&fin != 0 {
				f.payload = body
				return f, nil
			}
		}
	}
}

// echo sends a text and waits for it to come back; other messages before it are passed over.
func (w *wire) echo(text_ string) error {
	w.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(w, masked(fin|text, text_)); err != nil {
		return err
	}
	for {
		f, err := w.message()
		if err != nil {
			return fmt.Errorf("no echo of %q: %w", text_, err)
		}
		if f.payload == text_ {
			return nil
		}
	}
}

func (w *wire) mustEcho(t *testing.T, text string) {
	t.Helper()
	if err := w.echo(text); err != nil {
		t.Fatal(err)
	}
}

// abort closes the connection with a reset.
func (w *wire) abort() {
	if tcp, ok := w.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	w.Close()
}

// status sends bytes to addr and returns the status of the answer.
func status(addr, bytes string) (int, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
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

// readHeader reads the header of a request, up to and with the empty line, and returns where to go on.
func readHeader(conn net.Conn) (rest *bufio.Reader, header string, err error) {
	rest = bufio.NewReaderSize(conn, 4<<10)
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		line, err := rest.ReadString('\n')
		if err != nil {
			return nil, "", err
		}
		b.WriteString(line)
	}
	return rest, b.String(), nil
}

// switching is the right answer to a handshake with this header.
func switching(header string) string { return proxytest.SwitchingProtocols(header) }
