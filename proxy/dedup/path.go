// Package dedup tells whether a client message was handed over before: it reads the
// id that a text message bears (Path) and remembers ids for a while (Cache).
//
// The principle throughout: when in doubt, a message passes. A duplicate that gets
// through is what happens without a proxy; a message taken for another one is lost.
package dedup

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxSegments bounds the length of a path.
const maxSegments = 32

// A Path says where in a JSON object its id stands: the keys to follow from the
// outermost object inwards. It is immutable and safe for concurrent use. The zero
// Path finds nothing.
type Path struct {
	keys []string
	// suffix is the last key with its closing quote, as it stands in a message that has no
	// escapes. Without the opening one: bytes.Index hops from one first byte to the next,
	// and quotes are many.
	suffix []byte
}

// ParsePath reads a dotted path such as "id" or "meta.request.id". A key that has a
// dot itself, and the elements of arrays, can't be named.
func ParsePath(s string) (Path, error) {
	fail := func(why string) (Path, error) {
		return Path{}, fmt.Errorf("parse id path %q: %s", s, why)
	}
	switch {
	case s == "":
		return fail("it is empty; name a key, such as id or meta.id")
	case !utf8.ValidString(s):
		return fail("it is not valid UTF-8")
	case strings.ContainsRune(s, utf8.RuneError):
		// Many parsers put U+FFFD where a key is damaged: it names no particular key.
		return fail("it has the replacement character U+FFFD")
	}
	keys := strings.Split(s, ".")
	if len(keys) > maxSegments {
		return fail(fmt.Sprintf("it has %d keys, at most %d are allowed", len(keys), maxSegments))
	}
	for _, key := range keys {
		if key == "" {
			return fail("a key between dots is empty; write it as a.b.id")
		}
	}
	return Path{keys: keys, suffix: []byte(keys[len(keys)-1] + `"`)}, nil
}

// String is the path as ParsePath reads it.
func (p Path) String() string { return strings.Join(p.keys, ".") }
