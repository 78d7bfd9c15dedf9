package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
)

const (
	// maxAnswerHeaderBytes bounds the header of the upstream's answer to a handshake.
	maxAnswerHeaderBytes = 64 << 10
	// answerBufferBytes is read ahead while a header is parsed, and so also bounds
	// upstreamConn.Early.
	answerBufferBytes = 4 << 10
	// maxInterimAnswers is how many 1xx answers may come before the real one.
	maxInterimAnswers = 5
)

// acceptOf is the Sec-WebSocket-Accept that answers key (RFC 6455 section 4.2.2).
func acceptOf(key string) string {
	var text [64]byte
	sum := sha1.Sum(append(append(text[:0], key...), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// An answer is what an upstream said to a handshake: refused, or all the rest.
type answer struct {
	refused  *refusal // its Body still reads from the connection
	early    []byte
	header   http.Header
	protocol string
}

// readAnswer reads the upstream's answer to the handshake with key and protocols, and
// checks it as RFC 6455 section 4.1 asks of clients. What is wrong with it is an errBroken;
// conn's own errors are wrapped too. s is what it may use meanwhile.
func readAnswer(conn io.Reader, s *scratch, key string, protocols []string) (*answer, error) {
	n, _ := conn.Read(s.in[:]) // what is wrong with conn is wrong again at the next read
	if a := s.switched(s.in[:n], key, protocols); a != nil {
		return a, nil
	}
	return readAnyAnswer(conn, bytes.Clone(s.in[:n]), key, protocols)
}

// switched takes a 101 of the usual form apart, whose header is complete; nil for all else,
// which does not say that it is wrong.
func (s *scratch) switched(b []byte, key string, protocols []string) *answer {
	defer s.fields.forget()
	const status = "HTTP/1.1 101"
	line := bytes.Index(b, crlf)
	end := bytes.Index(b, emptyLine)
	if end < 0 || !bytes.HasPrefix(b, []byte(status)) || bytes.ContainsFunc(b[:line], isOdd) || line > len(status) && b[len(status)] != ' ' {
		return nil
	}
	if line == end || !s.fields.parse(string(b[line+len(crlf):end+len(crlf)])) {
		return nil
	}
	h := s.fields.header
	for _, name := range [...]string{"Content-Length", "Transfer-Encoding", "Trailer", "Pragma"} { // of which net/http makes something
		if h[name] != nil {
			return nil
		}
	}
	if hasToken(h["Connection"], "close") {
		return nil
	}
	protocol, err := checkSwitch(&http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h}, key, protocols)
	if err != nil {
		return nil
	}
	a := &answer{protocol: protocol, early: bytes.Clone(b[end+len(emptyLine):])}
	if removeHandshake(h); len(h) > 0 {
		a.header = h.Clone()
	}
	return a
}

var crlf, emptyLine = []byte("\r\n"), []byte("\r\n\r\n")

func isOdd(c rune) bool { return c < ' ' || c >= 0x7f }

// removeHandshake deletes what is not for the client.
func removeHandshake(h http.Header) {
	removeHopByHop(h)
	for name := range h {
		if isHandshake(name) || name == "Content-Length" { // a 101 has no body, whatever it says (RFC 9110 section 8.6)
			delete(h, name)
		}
	}
}

// readAnyAnswer is readAnswer, after first was read from conn.
func readAnyAnswer(conn io.Reader, first []byte, key string, protocols []string) (*answer, error) {
	watched := &watchedReader{Reader: conn, first: first}
	header := &io.LimitedReader{R: watched, N: maxAnswerHeaderBytes}
	buffered := bufio.NewReaderSize(header, answerBufferBytes)
	var resp *http.Response
	for interim := 0; ; interim++ {
		var err error
		resp, err = http.ReadResponse(buffered, nil)
		switch {
		case err != nil && header.N <= 0:
			return nil, fmt.Errorf("%w: its header is larger than %d bytes", errBroken, maxAnswerHeaderBytes)
		case err != nil && watched.err != nil:
			return nil, fmt.Errorf("%w: %w", errBroken, watched.err)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errBroken, err)
		case resp.StatusCode < 100:
			return nil, fmt.Errorf("%w: status %q", errBroken, resp.Status)
		}
		if resp.StatusCode == http.StatusSwitchingProtocols || resp.StatusCode >= 200 {
			break
		}
		if interim == maxInterimAnswers {
			return nil, fmt.Errorf("%w: more than %d interim answers (1xx)", errBroken, maxInterimAnswers)
		}
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		header.N = math.MaxInt64 // the body is streamed, so it needs no limit
		return &answer{refused: newRefusal(resp)}, nil
	}
	protocol, err := checkSwitch(resp, key, protocols)
	if err != nil {
		return nil, err
	}
	early := make([]byte, buffered.Buffered())
	_, _ = io.ReadFull(buffered, early) // can't fail: all of it is buffered
	h := resp.Header
	removeHandshake(h)
	return &answer{early: early, header: h, protocol: protocol}, nil
}

// A watchedReader remembers why reading failed. To a parser half a line before a failure
// is a malformed line, which hides that the upstream was only slow.
type watchedReader struct {
	io.Reader
	first []byte // comes before it
	err   error  // never io.EOF
}

func (r *watchedReader) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// checkSwitch checks a 101 and returns the subprotocol it selects.
func checkSwitch(resp *http.Response, key string, protocols []string) (protocol string, err error) {
	h := resp.Header
	accept, chosen := h["Sec-Websocket-Accept"], h["Sec-Websocket-Protocol"]
	switch {
	case !resp.ProtoAtLeast(1, 1):
		return "", fmt.Errorf("%w: 101 in %s, which cannot switch protocols (RFC 9110 section 7.8)", errBroken, resp.Proto)
	case !hasToken(h["Upgrade"], "websocket"):
		return "", fmt.Errorf("%w: 101 with Upgrade %q, not websocket (RFC 6455 section 4.1)", errBroken, h["Upgrade"])
	case !hasToken(h["Connection"], "upgrade"):
		return "", fmt.Errorf("%w: 101 with Connection %q, not upgrade (RFC 6455 section 4.1)", errBroken, h["Connection"])
	case len(accept) != 1 || accept[0] != acceptOf(key):
		return "", fmt.Errorf("%w: 101 with the wrong Sec-WebSocket-Accept %q (RFC 6455 section 4.1)", errBroken, accept)
	case strings.Join(h["Sec-Websocket-Extensions"], "") != "":
		return "", fmt.Errorf("%w: 101 with extensions %q, though none was offered (RFC 6455 section 4.1)",
			errBroken, h["Sec-Websocket-Extensions"])
	case len(chosen) == 0:
		return "", nil
	case len(chosen) > 1 || !slices.Contains(protocols, chosen[0]):
		return "", fmt.Errorf("%w: 101 with subprotocol %q, where %q were offered (RFC 6455 section 4.1)", errBroken, chosen, protocols)
	}
	return chosen[0], nil
}
