package proxy

import (
	"bufio"
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
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
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
// conn's own errors are wrapped too.
func readAnswer(conn io.Reader, key string, protocols []string) (*answer, error) {
	watched := &watchedReader{Reader: conn}
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
	removeHopByHop(h)
	h.Del("Content-Length") // a 101 has no body, whatever it says (RFC 9110 section 8.6)
	for _, name := range handshakeHeaders {
		h.Del(name)
	}
	return &answer{early: early, header: h, protocol: protocol}, nil
}

// A watchedReader remembers why reading failed. To a parser half a line before a failure
// is a malformed line, which hides that the upstream was only slow.
type watchedReader struct {
	io.Reader
	err error // never io.EOF
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// checkSwitch checks a 101 and returns the subprotocol it selects.
func checkSwitch(resp *http.Response, key string, protocols []string) (protocol string, err error) {
	h := resp.Header
	accept, chosen := h.Values("Sec-WebSocket-Accept"), h.Values("Sec-WebSocket-Protocol")
	switch {
	case !resp.ProtoAtLeast(1, 1):
		return "", fmt.Errorf("%w: 101 in %s, which cannot switch protocols (RFC 9110 section 7.8)", errBroken, resp.Proto)
	case !hasToken(h["Upgrade"], "websocket"):
		return "", fmt.Errorf("%w: 101 with Upgrade %q, not websocket (RFC 6455 section 4.1)", errBroken, h["Upgrade"])
	case !hasToken(h["Connection"], "upgrade"):
		return "", fmt.Errorf("%w: 101 with Connection %q, not upgrade (RFC 6455 section 4.1)", errBroken, h["Connection"])
	case len(accept) != 1 || accept[0] != acceptOf(key):
		return "", fmt.Errorf("%w: 101 with the wrong Sec-WebSocket-Accept %q (RFC 6455 section 4.1)", errBroken, accept)
	case strings.Join(h.Values("Sec-WebSocket-Extensions"), "") != "":
		return "", fmt.Errorf("%w: 101 with extensions %q, though none was offered (RFC 6455 section 4.1)",
			errBroken, h.Values("Sec-WebSocket-Extensions"))
	case len(chosen) == 0:
		return "", nil
	case len(chosen) > 1 || !slices.Contains(protocols, chosen[0]):
		return "", fmt.Errorf("%w: 101 with subprotocol %q, where %q were offered (RFC 6455 section 4.1)", errBroken, chosen, protocols)
	}
	return chosen[0], nil
}
