// Package frame reads and writes WebSocket frames (RFC 6455, section 5) over byte
// slices. It keeps nothing, allocates nothing but what its callers append to, and never
// looks at a payload: what a frame carries is for the session to judge.
package frame

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Opcodes of RFC 6455, section 5.2.
const (
	Continuation byte = 0x0
	Text         byte = 0x1
	Binary       byte = 0x2
	Close        byte = 0x8
	Ping         byte = 0x9
	Pong         byte = 0xA
)

// MaxHeader is the longest frame header: two bytes, a 64-bit length, a masking key.
const MaxHeader = 14

// MaxControlPayload is the longest payload of a control frame (RFC 6455, section 5.5).
const MaxControlPayload = 125

// Close codes that the proxy sends, or knows the meaning of (RFC 6455, section 7.4.1, and the IANA registry).
const (
	CodeNormal        uint16 = 1000
	CodeGoingAway     uint16 = 1001
	CodeProtocolError uint16 = 1002
	CodeUnsupported   uint16 = 1003 // a kind of message that the peer doesn't take
	CodeNoStatus      uint16 = 1005 // never on the wire: a Close frame without a code
	CodeInvalidData   uint16 = 1007
	CodeTooBig        uint16 = 1009
	CodeInternalError uint16 = 1011
	CodeRestart       uint16 = 1012
	CodeTryAgainLater uint16 = 1013
)

// An Error is a violation of the protocol, with the close code that answers it.
type Error struct {
	Code   uint16
	Reason string
}

func (e *Error) Error() string { return e.Reason }

// Violations. They are values, so that a flood of bad frames allocates nothing.
var (
	ErrReservedBits    = &Error{CodeProtocolError, "reserved bits set without a negotiated extension"} // 5.2
	ErrOpcode          = &Error{CodeProtocolError, "unknown opcode"}                                   // 5.2
	ErrControlTooLong  = &Error{CodeProtocolError, "control frame longer than 125 bytes"}              // 5.5
	ErrControlFragment = &Error{CodeProtocolError, "fragmented control frame"}                         // 5.5
	ErrLength          = &Error{CodeProtocolError, "payload length with its top bit set"}              // 5.2
	ErrNotMasked       = &Error{CodeProtocolError, "frame from a client is not masked"}                // 5.1
	ErrMasked          = &Error{CodeProtocolError, "frame from a server is masked"}                    // 5.1
	ErrContinuation    = &Error{CodeProtocolError, "continuation frame without a message to continue"} // 5.4
	ErrInterleaved     = &Error{CodeProtocolError, "new message begun inside a fragmented one"}        // 5.4
	ErrTooBig          = &Error{CodeTooBig, "message longer than limits.max_message_bytes"}            // 7.4.1
	ErrCloseLength     = &Error{CodeProtocolError, "close frame with one byte of payload"}             // 5.5.1
	ErrCloseCode       = &Error{CodeProtocolError, "close frame with a code that must not be sent"}    // 7.4
	ErrCloseReason     = &Error{CodeInvalidData, "close frame whose reason is not UTF-8"}              // 5.5.1
)

// Header is one frame's header.
type Header struct {
	Len    int64 // payload bytes
	Size   int   // bytes of the header itself
	Op     byte
	Fin    bool
	Masked bool
	Mask   [4]byte
}

// Control reports whether the frame is a control frame (RFC 6455, section 5.5).
func (h *Header) Control() bool { return h.Op >= 8 }

// Total is the length of the whole frame, header and payload, in bytes.
func (h *Header) Total() int64 { return int64(h.Size) + h.Len }

// Parse reads a frame header at the start of b. ok is false while b is too short for it; err
// is what a header that no peer may send violates. The length is not bounded here
// beyond what the RFC demands: compare it with a limit before allocating for it. A length that
// is not encoded in the fewest bytes (5.2 asks for that) is let through: frames are forwarded as
// they are, and the endpoint gives the verdict that it would give without a proxy.
func Parse(b []byte) (h Header, ok bool, err *Error) {
	if len(b) < 2 {
		return h, false, nil
	}
	b0, b1 := b[0], b[1]
	h.Fin, h.Op, h.Masked = b0&0x80 != 0, b0&0x0f, b1&0x80 != 0
	if b0&0x70 != 0 {
		return h, false, ErrReservedBits
	}
	if h.Op > Pong || (h.Op > Binary && h.Op < Close) {
		return h, false, ErrOpcode
	}
	h.Len, h.Size = int64(b1&0x7f), 2
	if h.Op >= Close {
		if h.Len > MaxControlPayload {
			return h, false, ErrControlTooLong
		}
		if !h.Fin {
			return h, false, ErrControlFragment
		}
	}
	switch h.Len {
	case 126:
		h.Size = 4
		if len(b) < 4 {
			return h, false, nil
		}
		h.Len = int64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		h.Size = 10
		if len(b) < 10 {
			return h, false, nil
		}
		if h.Len = int64(binary.BigEndian.Uint64(b[2:])); h.Len < 0 {
			return h, false, ErrLength
		}
	}
	if h.Masked {
		if len(b) < h.Size+4 {
			return h, false, nil
		}
		copy(h.Mask[:], b[h.Size:])
		h.Size += 4
	}
	return h, true, nil
}

// Message returns the length of the message that b begins with, header included, if it is of the plainest kind: one data frame
// with less than 64 KiB of payload that is all in b and breaks no rule, masked or not as asked. Else it is 0, and Parse tells
// what b begins with.
func Message(b []byte, masked bool) int {
	if len(b) < 2 || b[0] != 0x80|Text && b[0] != 0x80|Binary {
		return 0
	}
	n, m := int(b[1]), 2
	if masked {
		n ^= 0x80
		m = 6
	}
	switch {
	case n < 126:
		n += m
	case n == 126 && len(b) >= 4:
		n = int(binary.BigEndian.Uint16(b[2:])) + m + 2
	default: // not masked as asked, too, has its top bit set
		return 0
	}
	if n > len(b) {
		return 0
	}
	return n
}

// AppendHeader appends the header of a frame with the shortest length encoding; mask is
// nil for a frame that is not masked.
func AppendHeader(dst []byte, fin bool, op byte, length int64, mask *[4]byte) []byte {
	b0 := op
	if fin {
		b0 |= 0x80
	}
	var m byte
	if mask != nil {
		m = 0x80
	}
	switch {
	case length < 126:
		dst = append(dst, b0, m|byte(length))
	case length < 1<<16:
		dst = append(dst, b0, m|126, byte(length>>8), byte(length))
	default:
		dst = append(dst, b0, m|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(length))
	}
	if mask != nil {
		dst = append(dst, mask[:]...)
	}
	return dst
}

// Append appends a whole frame with FIN set. With a mask the payload is masked on the way;
// payload itself is left alone.
func Append(dst []byte, op byte, payload []byte, mask *[4]byte) []byte {
	dst = AppendHeader(dst, true, op, int64(len(payload)), mask)
	at := len(dst)
	dst = append(dst, payload...)
	if mask != nil {
		Mask(dst[at:], *mask, 0)
	}
	return dst
}

// Mask masks or unmasks b in place (RFC 6455, section 5.3); offset is the position of b[0] in
// the frame's payload.
func Mask(b []byte, mask [4]byte, offset int) { ws.Cipher(b, mask, offset) }

// AppendClose appends a Close frame. CodeNoStatus stands for an empty payload. A reason
// longer than a control frame can hold is cut at a character.
func AppendClose(dst []byte, code uint16, reason string, mask *[4]byte) []byte {
	if code == CodeNoStatus {
		return Append(dst, Close, nil, mask)
	}
	var p [MaxControlPayload]byte
	binary.BigEndian.PutUint16(p[:], code)
	if len(reason) > len(p)-2 {
		cut := len(p) - 2
		for cut > 0 && !utf8.RuneStart(reason[cut]) {
			cut--
		}
		reason = reason[:cut]
	}
	n := 2 + copy(p[2:], reason)
	return Append(dst, Close, p[:n], mask)
}

// ParseClose reads the (unmasked) payload of a Close frame (RFC 6455, section 5.5.1). An empty
// one is CodeNoStatus.
func ParseClose(p []byte) (code uint16, reason []byte, err *Error) {
	if len(p) == 0 {
		return CodeNoStatus, nil, nil
	}
	if len(p) == 1 {
		return 0, nil, ErrCloseLength
	}
	code = binary.BigEndian.Uint16(p)
	if !ValidCode(code) {
		return 0, nil, ErrCloseCode
	}
	if !utf8.Valid(p[2:]) {
		return 0, nil, ErrCloseReason
	}
	return code, p[2:], nil
}

// ValidCode reports whether a Close frame may carry code (RFC 6455, section 7.4, and what the
// IANA registry has added since: 1012 to 1014).
func ValidCode(code uint16) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code >= 1000 && code <= 1014:
		return code < 1004 || code > 1006
	}
	return false
}

// A Sequence checks that frames come in an order that RFC 6455, section 5.4, allows: the
// choke point where messages begin and end. The zero value is ready.
type Sequence struct {
	open bool // a fragmented message has begun and not ended
}

// Open reports whether a fragmented message is under way.
func (s *Sequence) Open() bool { return s.open }

// Data takes the next data frame's header and reports whether it begins and whether it ends
// a message. Control frames are not for it.
func (s *Sequence) Data(h *Header) (first, last bool, err *Error) {
	if h.Op == Continuation {
		if !s.open {
			return false, false, ErrContinuation
		}
	} else {
		if s.open {
			return false, false, ErrInterleaved
		}
		first = true
	}
	s.open = !h.Fin
	return first, h.Fin, nil
}
