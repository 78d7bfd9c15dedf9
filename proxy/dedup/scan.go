package dedup

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// maxDepth bounds how deeply a message may nest: deeper ones pass uninspected.
const maxDepth = 1024

// Find returns the id of msg, one whole unmasked text message. It allocates nothing,
// and only reads msg.
//
// There is an id if msg is one valid JSON text (RFC 8259), an object, in which the
// path leads through objects to a number or to a string that isn't empty (that is how
// many applications say "none"). If a key occurs twice in an object the last one
// counts with all that is in it, as in nearly every parser. Keys are compared exactly,
// after their escapes are decoded.
//
// No id, so that the message passes: invalid JSON, more than one JSON text, a byte order
// mark, nesting deeper than 1024, null, a boolean, an object or an array in the id's
// place, an id with invalid UTF-8 or with half of a surrogate pair (parsers
// disagree about both, some make them all the same character), and a number of more
// than 100 digits or with an exponent beyond ±1e9.
func (p Path) Find(msg []byte) (ID, bool) {
	if len(p.keys) == 0 || len(msg) < 2 {
		return ID{}, false
	}
	// Most applications' messages bear no id: don't parse them. Without any escape
	// a key can only stand there literally.
	if !bytes.Contains(msg, p.suffix) && bytes.IndexByte(msg, '\\') < 0 {
		return ID{}, false
	}
	s := scanner{msg: msg}
	if !s.scan(p.keys) {
		return ID{}, false
	}
	switch s.found.kind {
	case stringValue:
		return stringID(msg[s.found.start+1:s.found.end-1], s.found.escaped)
	case numberValue:
		return numberID(msg[s.found.start:s.found.end])
	}
	return ID{}, false
}

type kind uint8

const (
	otherValue  kind = iota // true, false, null, or none at all
	stringValue             // with its quotes
	numberValue
	openValue // an object or array whose contents follow
)

// A token is where one value or key stands in the message.
type token struct {
	start, end int
	kind       kind
	escaped    bool // a string with at least one escape
}

// A scanner walks over one JSON text, once, without recursion, and checks all of it:
// what stands behind an id can still make it invalid or replace it.
type scanner struct {
	msg   []byte
	pos   int
	depth int // containers open around pos
	// onPath counts the outermost open objects that the path leads through; the
	// innermost container is one of them if onPath == depth.
	onPath  int
	objects [maxDepth / 64]uint64 // bit n: the container at depth n+1 is an object
	found   token                 // the last value seen in the id's place
}

// scan reports whether the message is one valid JSON object.
func (s *scanner) scan(keys []string) bool {
	s.space()
	if s.peek() != '{' {
		return false
	}
	wanted := true // the value at pos is one the path leads to
	for {
		v, ok := s.value()
		if !ok {
			return false
		}
		if wanted {
			// A later value of the same key takes the place of the earlier one.
			s.found = token{}
			switch {
			case v.kind == openValue && s.inObject() && s.onPath < len(keys):
				s.onPath = s.depth
			case s.onPath == len(keys):
				s.found = v
			}
		}
		if v.kind != openValue && !s.closeContainers() {
			return false
		}
		if s.depth == 0 {
			return s.pos == len(s.msg)
		}
		wanted = false
		if s.inObject() {
			key, ok := s.key()
			if !ok {
				return false
			}
			wanted = s.onPath == s.depth && s.isKey(key, keys[s.depth-1])
		}
	}
}

// value steps over the value at pos; of an object or array that isn't empty only over
// its beginning.
func (s *scanner) value() (token, bool) {
	start := s.pos
	switch c := s.peek(); c {
	case '"':
		return s.str()
	case '{', '[':
		if s.depth == maxDepth {
			return token{}, false
		}
		s.pos++
		s.space()
		if s.peek() == c+2 { // '}' or ']'
			s.pos++
			return token{}, true
		}
		word, bit := s.depth/64, uint64(1)<<(s.depth%64)
		if c == '{' {
			s.objects[word] |= bit
		} else {
			s.objects[word] &^= bit
		}
		s.depth++
		return token{kind: openValue}, true
	case 't':
		return token{}, s.literal("true")
	case 'f':
		return token{}, s.literal("false")
	case 'n':
		return token{}, s.literal("null")
	default:
		ok := s.number()
		return token{start: start, end: s.pos, kind: numberValue}, ok
	}
}

// closeContainers steps, behind a value, over all the containers that end there, to the
// next value or key, or to the end of the message.
func (s *scanner) closeContainers() bool {
	for {
		s.space()
		if s.depth == 0 {
			return true
		}
		c := s.peek()
		s.pos++
		switch {
		case c == ',':
			s.space()
			return true
		case c == '}' && s.inObject(), c == ']' && !s.inObject():
			if s.onPath == s.depth {
				s.onPath--
			}
			s.depth--
		default:
			return false
		}
	}
}

// key steps over a member's name, the colon and the space around it.
func (s *scanner) key() (token, bool) {
	if s.peek() != '"' {
		return token{}, false
	}
	key, ok := s.str()
	if !ok {
		return key, false
	}
	s.space()
	if s.peek() != ':' {
		return key, false
	}
	s.pos++
	s.space()
	return key, true
}

func (s *scanner) isKey(t token, want string) bool {
	raw := s.msg[t.start+1 : t.end-1]
	if t.escaped {
		return equalEscaped(raw, want)
	}
	return string(raw) == want
}

// str steps over the string at pos (RFC 8259, section 7).
func (s *scanner) str() (token, bool) {
	msg, i := s.msg, s.pos+1
	escaped := false
	for {
		i = special(msg, i)
		if i == len(msg) || msg[i] < ' ' {
			return token{}, false
		}
		if msg[i] == '"' {
			i++
			t := token{start: s.pos, end: i, kind: stringValue, escaped: escaped}
			s.pos = i
			return t, true
		}
		escaped = true
		n := escapeLen(msg[i:])
		if n == 0 {
			return token{}, false
		}
		i += n
	}
}

// escapeLen is the length of the escape that b begins with, 0 if it isn't a valid one.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) >= 6 && hex4(b[2:]) >= 0 {
			return 6
		}
	}
	return 0
}

// special returns where in b, from i on, the first byte stands that is no plain part of a
// string: a quote, a backslash or a control character; len(b) if there is none.
func special(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(b); i += 8 {
		// Eight bytes at once: x-n borrows into a byte's top bit where the byte is below n.
		// A borrow goes on only into higher bytes, so that the lowest hit is a true one.
		x := binary.LittleEndian.Uint64(b[i:])
		quote, backslash := x^('"'*ones), x^('\\'*ones)
		hit := ((x - ' '*ones) &^ x) | ((quote - ones) &^ quote) | ((backslash - ones) &^ backslash)
		if hit &= tops; hit != 0 {
			return i + bits.TrailingZeros64(hit)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < ' ' || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

// number steps over the number at pos (RFC 8259, section 6).
func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.pos++
	}
	switch {
	case s.peek() == '0':
		s.pos++
	case !s.digits():
		return false
	}
	if s.peek() == '.' {
		s.pos++
		if !s.digits() {
			return false
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		return s.digits()
	}
	return true
}

// digits steps over decimal digits and reports whether there was one.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.msg) && s.msg[s.pos]-'0' <= 9 {
		s.pos++
	}
	return s.pos > start
}

func (s *scanner) literal(word string) bool {
	if len(s.msg)-s.pos < len(word) || string(s.msg[s.pos:s.pos+len(word)]) != word {
		return false
	}
	s.pos += len(word)
	return true
}

func (s *scanner) space() {
	for s.pos < len(s.msg) {
		c := s.msg[s.pos]
		if c > ' ' || c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return
		}
		s.pos++
	}
}

// peek is the byte at pos; 0, which is valid nowhere in JSON, at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.msg) {
		return s.msg[s.pos]
	}
	return 0
}

func (s *scanner) inObject() bool {
	top := s.depth - 1
	return s.objects[top/64]>>(top%64)&1 != 0
}
