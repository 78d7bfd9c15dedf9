// Package resume reads and writes what the tideover.v1 protocol adds to a WebSocket: the
// control messages, their escape, and the subprotocol names that a handshake carries.
// client/PROTOCOL.md describes the protocol.
package resume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Protocol is the subprotocol by which a client opts in.
const Protocol = "tideover.v1"

// tokenPrefix introduces the subprotocol that carries token and count.
const tokenPrefix = "tideover.resume."

// Escape starts a control message; a data text message that starts with it has one more put
// before it.
const Escape byte = 0x1E

// MaxControl is the longest control message in bytes; longer ones are an error.
const MaxControl = 4096

// MaxCount is the largest count that can be named: beyond it, a number in JSON is no longer
// exact for clients written in JavaScript.
const MaxCount = 1<<53 - 1

// Close codes of the proxy, for clients that opted in (and 4409 for all).
const (
	CodeGone       uint16 = 4404 // no such session, or the token is wrong
	CodeSuperseded uint16 = 4409 // another client leg has taken the session over
)

// Welcome is the first message to a client.
type Welcome struct {
	Session  string `json:"session"`
	Token    string `json:"token"`
	Resumed  bool   `json:"resumed"`
	Received uint64 `json:"received"`
	Protocol string `json:"protocol"`
	GraceMS  int64  `json:"grace_ms"`
}

// AppendWelcome appends the control message of w, its escape included.
func AppendWelcome(dst []byte, w Welcome) []byte {
	b, err := json.Marshal(struct {
		Type string `json:"type"`
		Welcome
	}{"welcome", w})
	if err != nil { // strings, numbers and a bool always marshal
		panic(err)
	}
	return append(append(dst, Escape), b...)
}

// AppendAck appends an acknowledgement of the first n messages.
func AppendAck(dst []byte, n uint64) []byte {
	dst = append(dst, Escape)
	dst = append(dst, `{"type":"ack","received":`...)
	return append(strconv.AppendUint(dst, n, 10), '}')
}

// AppendPong appends the answer to a ping.
func AppendPong(dst []byte) []byte {
	return append(append(dst, Escape), `{"type":"pong"}`...)
}

// AppendGap appends the news that messages from…to are lost.
func AppendGap(dst []byte, from, to uint64) []byte {
	dst = append(dst, Escape)
	dst = append(dst, `{"type":"gap","from":`...)
	dst = strconv.AppendUint(dst, from, 10)
	dst = append(dst, `,"to":`...)
	return append(strconv.AppendUint(dst, to, 10), '}')
}

// Kind is the type of a client's control message.
type Kind uint8

// The kinds.
const (
	Unknown Kind = iota // a type that this version does not know: to be ignored
	Ack
	Ping
	Pong
)

// ErrControl is wrapped by every error of Parse.
var ErrControl = errors.New("malformed tideover.v1 control message")

// Parse reads a control message without its escape. received is set for an Ack.
func Parse(text []byte) (kind Kind, received uint64, err error) {
	if len(text) > MaxControl {
		return Unknown, 0, fmt.Errorf("%w: longer than %d bytes", ErrControl, MaxControl)
	}
	var m struct {
		Type     *string         `json:"type"`
		Received json.RawMessage `json:"received"`
	}
	if err := json.Unmarshal(text, &m); err != nil || m.Type == nil {
		return Unknown, 0, fmt.Errorf("%w: not a JSON object with a type", ErrControl)
	}
	switch *m.Type {
	case "ack":
		n, err := parseCount(string(bytes.TrimSpace(m.Received)))
		if err != nil {
			return Unknown, 0, fmt.Errorf("%w: received must be a whole number from 0 to %d", ErrControl, uint64(MaxCount))
		}
		return Ack, n, nil
	case "ping":
		return Ping, 0, nil
	case "pong":
		return Pong, 0, nil
	}
	return Unknown, 0, nil
}

// parseCount reads a count in its one decimal spelling.
func parseCount(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > MaxCount || (len(s) > 1 && s[0] == '0') {
		return 0, ErrControl
	}
	return n, nil
}

// Offer is what a client's list of subprotocols says.
type Offer struct {
	V1       bool     // tideover.v1 is offered
	Resume   bool     // and a session to resume is named,
	Token    string   // by this token; empty if it could not be read
	Received uint64   // how many of the session's messages the client has
	App      []string // the application's own subprotocols, in their order
}

// ReadOffer splits a client's subprotocols. Without tideover.v1 among them, all belong to the
// application.
func ReadOffer(protocols []string) Offer {
	var o Offer
	for _, p := range protocols {
		if p == Protocol {
			o.V1 = true
		}
	}
	if !o.V1 {
		o.App = protocols
		return o
	}
	for _, p := range protocols {
		rest, isToken := strings.CutPrefix(p, tokenPrefix)
		switch {
		case isToken:
			// A second one, or one that can't be read, names no session.
			token, count, ok := strings.Cut(rest, ".")
			n, err := parseCount(count)
			if o.Resume || !ok || err != nil {
				token, n = "", 0
			}
			o.Resume, o.Token, o.Received = true, token, n
		case p != Protocol:
			o.App = append(o.App, p)
		}
	}
	return o
}
