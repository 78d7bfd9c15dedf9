package session

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file is a second reading of RFC 6455, written for tests and independent of package
// frame: what the session sends is judged by it, byte for byte.

// A wireFrame is one frame with its payload unmasked.
type wireFrame struct {
	op      byte
	fin     bool
	payload []byte
	raw     []byte // as it was on the wire
}

// A wireMessage is one data message.
type wireMessage struct {
	text bool
	body string
}

func (f wireFrame) String() string {
	switch f.op {
	case 0x8:
		if len(f.payload) < 2 {
			return "close"
		}
		return fmt.Sprintf("close %d %q", binary.BigEndian.Uint16(f.payload), f.payload[2:])
	case 0x9:
		return fmt.Sprintf("ping %q", f.payload)
	case 0xA:
		return fmt.Sprintf("pong %q", f.payload)
	}
	name := map[byte]string{0: "more", 1: "text", 2: "binary"}[f.op]
	if !f.fin {
		name += " (unfinished)"
	}
	if len(f.payload) > 200 {
		return fmt.Sprintf("%s %q… (%d bytes)", name, f.payload[:20], len(f.payload))
	}
	text := strings.ReplaceAll(string(f.payload), "\x1e", "␞") // the escape of tideover.v1
	if strings.Contains(text, `"`) && strconv.CanBackquote(text) {
		return name + " " + text
	}
	return fmt.Sprintf("%s %q", name, text)
}

// A wireReader is a strict endpoint: it takes the bytes of one direction of a leg and fails on
// whatever RFC 6455 forbids there.
type wireReader struct {
	fromClient bool
	limit      int // of a message, the headers of later fragments included; 0: none
	buf        []byte
	open       bool // a fragmented message is under way
	text       bool
	msg        []byte
	size       int
	closed     bool // a Close has come: nothing may follow
	messages   []wireMessage
}

// feed takes bytes and returns the frames that are whole now.
func (r *wireReader) feed(b []byte) (frames []wireFrame, err error) {
	r.buf = append(r.buf, b...)
	for len(r.buf) > 0 {
		if r.closed {
			return frames, fmt.Errorf("%d bytes after the Close frame", len(r.buf))
		}
		f, n, err := r.parse()
		if err != nil {
			return frames, err
		}
		if n == 0 {
			break
		}
		r.buf = r.buf[n:]
		frames = append(frames, f)
		if err := r.sequence(f); err != nil {
			return frames, err
		}
	}
	return frames, nil
}

func (r *wireReader) parse() (f wireFrame, n int, err error) {
	b := r.buf
	if b[0]&0x70 != 0 {
		return f, 0, fmt.Errorf("reserved bits in %#x", b[0])
	}
	f.fin, f.op = b[0]&0x80 != 0, b[0]&0xf
	if f.op > 2 && f.op < 8 || f.op > 10 {
		return f, 0, fmt.Errorf("opcode %d", f.op)
	}
	if len(b) < 2 {
		return f, 0, nil
	}
	masked := b[1]&0x80 != 0
	if masked != r.fromClient {
		return f, 0, fmt.Errorf("masked is %v", masked)
	}
	length, at := uint64(b[1]&0x7f), 2
	if f.op >= 8 && (length > 125 || !f.fin) {
		return f, 0, fmt.Errorf("control frame of length code %d, fin %v", length, f.fin)
	}
	if length >= 126 {
		size := 2
		if length == 127 {
			size = 8
		}
		if len(b) < at+size {
			return f, 0, nil
		}
		length = 0
		for _, c := range b[at : at+size] {
			length = length<<8 | uint64(c)
		}
		at += size
		if length < 126 || size == 8 && length < 65536 || length>>63 != 0 {
			return f, 0, fmt.Errorf("length %d encoded in %d bytes", length, size)
		}
	}
	var key []byte
	if masked {
		if len(b) < at+4 {
			return f, 0, nil
		}
		key, at = b[at:at+4], at+4
	}
	if uint64(len(b)-at) < length {
		return f, 0, nil
	}
	n = at + int(length)
	f.raw = append([]byte(nil), b[:n]...)
	f.payload = append([]byte(nil), b[at:n]...)
	if masked {
		for i := range f.payload {
			f.payload[i] ^= key[i%4]
		}
	}
	return f, n, nil
}

func (r *wireReader) sequence(f wireFrame) error {
	if f.op >= 8 {
		if f.op != 8 {
			return nil
		}
		r.closed = true
		if len(f.payload) == 0 {
			return nil
		}
		if len(f.payload) == 1 {
			return fmt.Errorf("close frame with one byte")
		}
		switch code := binary.BigEndian.Uint16(f.payload); {
		case code < 1000, code > 1014 && code < 3000, code >= 5000, code >= 1004 && code <= 1006:
			return fmt.Errorf("close code %d on the wire", code)
		}
		if !utf8.Valid(f.payload[2:]) {
			return fmt.Errorf("close reason is not UTF-8")
		}
		return nil
	}
	if (f.op == 0) != r.open {
		return fmt.Errorf("opcode %d while a fragmented message open is %v", f.op, r.open)
	}
	r.size += len(f.raw)
	if f.op != 0 {
		r.text, r.msg, r.size = f.op == 1, nil, len(f.payload)
	}
	if r.limit > 0 && r.size > r.limit {
		return fmt.Errorf("message of %d bytes", r.size)
	}
	r.msg = append(r.msg, f.payload...)
	r.open = !f.fin
	if f.fin {
		if r.text && !utf8.Valid(r.msg) {
			return fmt.Errorf("text message is not UTF-8: %q", r.msg)
		}
		r.messages = append(r.messages, wireMessage{r.text, string(r.msg)})
		r.msg = nil
	}
	return nil
}

// build returns one frame; key nil means unmasked.
func build(op byte, fin bool, payload string, key []byte) []byte {
	b := []byte{op, 0}
	if fin {
		b[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 65536:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if key != nil {
		b[1] |= 0x80
		b = append(b, key...)
	}
	for i := range len(payload) {
		c := payload[i]
		if key != nil {
			c ^= key[i%4]
		}
		b = append(b, c)
	}
	return b
}

// closePayload is the payload of a Close frame; code 0 is an empty one.
func closePayload(code int, reason string) string {
	if code == 0 {
		return ""
	}
	return string([]byte{byte(code >> 8), byte(code)}) + reason
}
