package dedup

import (
	"bytes"
	"hash/maphash"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// An ID stands for one id by value: 128 bits, comparable with ==, good in this process
// only.
//
// It is a pair of 64-bit hashes (hash/maphash) under two random keys of this process,
// with another two for numbers, so that the string "1" is never the number 1.
// maphash is meant to resist collisions where an adversary chooses the input, and its keys
// never leave the process, nor do the hashes: from outside one can only try ids and see
// whether a message was dropped. Two given ids collide under both keys, which
// are chosen independently, with a chance of about 2^-128; among 100,000 remembered
// ids, for one message, that is below 2^-110. SHA-256 would cost several times as much for
// each message, against an attacker who gains nothing: with scope session a collision
// drops only the attacker's own message, and with scope global whoever can guess another's id
// needs no collision to send it first.
type ID struct{ a, b uint64 }

// in returns what stands for id in a scope. Two ids in two scopes come to the same only if both pairs of independent
// hashes differ by just what the scopes do: as unlikely as that two ids are the same.
func (id ID) in(scope uint64) ID {
	// Odd numbers from splitmix64 (see session.random): scopes, which are small, and ids that tests count up don't meet.
	return ID{id.a + scope*0x9e3779b97f4a7c15, id.b ^ scope*0xbf58476d1ce4e5b9}
}

// A keyPair hashes to 128 bits.
type keyPair struct{ a, b maphash.Seed }

var (
	stringKeys = keyPair{maphash.MakeSeed(), maphash.MakeSeed()}
	numberKeys = keyPair{maphash.MakeSeed(), maphash.MakeSeed()}
)

// sum hashes b; a pairHash that is given the same bytes in pieces comes to the same.
func (k keyPair) sum(b []byte) ID {
	return ID{maphash.Bytes(k.a, b), maphash.Bytes(k.b, b)}
}

type pairHash struct{ a, b maphash.Hash }

func (h *pairHash) init(k keyPair) {
	h.a.SetSeed(k.a)
	h.b.SetSeed(k.b)
}

func (h *pairHash) write(b []byte) {
	h.a.Write(b)
	h.b.Write(b)
}

func (h *pairHash) sum() ID { return ID{h.a.Sum64(), h.b.Sum64()} }

// stringID is the id of a string whose raw text, without quotes, is valid JSON.
func stringID(raw []byte, escaped bool) (ID, bool) {
	if len(raw) == 0 || !utf8.Valid(raw) {
		return ID{}, false
	}
	if !escaped {
		return stringKeys.sum(raw), true
	}
	var h pairHash
	h.init(stringKeys)
	var buf [utf8.UTFMax]byte
	for len(raw) > 0 {
		n := bytes.IndexByte(raw, '\\')
		if n < 0 {
			n = len(raw)
		}
		if n > 0 {
			h.write(raw[:n])
			raw = raw[n:]
			continue
		}
		r, n := unescape(raw)
		if n == 0 {
			return ID{}, false
		}
		h.write(buf[:utf8.EncodeRune(buf[:], r)])
		raw = raw[n:]
	}
	return h.sum(), true
}

// equalEscaped reports whether the raw text of a string, which is valid JSON, means want.
func equalEscaped(raw []byte, want string) bool {
	var buf [utf8.UTFMax]byte
	for len(raw) > 0 {
		piece := raw[:1]
		n := 1
		if raw[0] == '\\' {
			var r rune
			if r, n = unescape(raw); n == 0 {
				return false
			}
			piece = buf[:utf8.EncodeRune(buf[:], r)]
		}
		if len(want) < len(piece) || want[:len(piece)] != string(piece) {
			return false
		}
		want, raw = want[len(piece):], raw[n:]
	}
	return want == ""
}

// unescape decodes the valid escape that raw begins with, and tells how many bytes it takes;
// none if it is half of a surrogate pair (RFC 8259, section 8.2).
func unescape(raw []byte) (rune, int) {
	switch raw[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r := hex4(raw[2:])
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if len(raw) >= 12 && raw[6] == '\\' && raw[7] == 'u' {
			if r = utf16.DecodeRune(r, hex4(raw[8:])); r != utf8.RuneError {
				return r, 12
			}
		}
		return 0, 0
	}
	return rune(raw[1]), 2 // quote, backslash, slash
}

// hex4 is the number that four hexadecimal digits mean, below 0 if they aren't ones.
func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// Bounds of a number: no id has so many digits between zeros, nor such an exponent, whose
// sums stay far from overflow.
const (
	maxDigits   = 100
	maxExponent = 1_000_000_000
)

// numberID is the id of a number whose text is valid JSON. What is hashed is the exact
// value, never rounded: sign, digits without zeros at either end, and the power of ten
// of the last digit. 1, 1.0, 1e0 and 10e-1 come to "1e0"; 0 and -0 to "0".
func numberID(raw []byte) (ID, bool) {
	var exponent int64
	mantissa := raw
	if e := bytes.IndexAny(raw, "eE"); e >= 0 {
		var ok bool
		if exponent, ok = parseExponent(raw[e+1:]); !ok {
			return ID{}, false
		}
		mantissa = raw[:e]
	}
	// Digits before first and behind last are zeros.
	first := bytes.IndexAny(mantissa, "123456789")
	if first < 0 {
		return numberKeys.sum([]byte("0")), true
	}
	last := bytes.LastIndexAny(mantissa, "123456789")
	point := bytes.IndexByte(mantissa, '.')
	if point < 0 {
		point = len(mantissa)
	}
	if last < point {
		exponent += int64(point - last - 1)
	} else {
		exponent -= int64(last - point)
	}

	digits, rest := mantissa[first:last+1], mantissa[:0]
	if first < point && point < last {
		digits, rest = mantissa[first:point], mantissa[point+1:last+1]
	}
	if len(digits)+len(rest) > maxDigits {
		return ID{}, false
	}

	var buf [maxDigits + 24]byte // sign, digits, e, an exponent of at most 20
	value := buf[:0]
	if raw[0] == '-' {
		value = append(value, '-')
	}
	value = append(append(value, digits...), rest...)
	value = strconv.AppendInt(append(value, 'e'), exponent, 10)
	return numberKeys.sum(value), true
}

// parseExponent reads what follows the e of a valid number; false if it is absurd.
func parseExponent(b []byte) (int64, bool) {
	negative := b[0] == '-'
	if negative || b[0] == '+' {
		b = b[1:]
	}
	var n int64
	for _, c := range b {
		if n = n*10 + int64(c-'0'); n > maxExponent {
			return 0, false
		}
	}
	if negative {
		n = -n
	}
	return n, true
}
