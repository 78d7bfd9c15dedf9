package proxy

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"slices"
)

// A token of tideover.v1 is the session's id and a secret. The id finds the session; the
// secret, 144 bits from crypto/rand, is compared in constant time and never indexed.
type secret [18]byte

const (
	idChars   = 16 // in base64
	tokenSize = idChars + 24
)

// A sessionID names a session to the outside, in base64.
type sessionID [12]byte

func newID() (id sessionID) {
	rand.Read(id[:]) // never fails
	return id
}

func (id sessionID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// parseID reads what String made; ok is false for anything else.
func parseID(s string) (id sessionID, ok bool) {
	if len(s) != idChars {
		return id, false
	}
	n, err := base64.RawURLEncoding.Decode(id[:], []byte(s))
	return id, err == nil && n == len(id)
}

func newSecret() (s secret) {
	rand.Read(s[:])
	return s
}

func tokenOf(id sessionID, s secret) string {
	return id.String() + base64.RawURLEncoding.EncodeToString(s[:])
}

// readToken takes a token apart; ok is false for what can't be one.
func readToken(token string) (id sessionID, s secret, ok bool) {
	if len(token) != tokenSize {
		return id, s, false
	}
	if id, ok = parseID(token[:idChars]); !ok {
		return id, s, false
	}
	// Strict: the unused bits of a last character must not make two spellings of one token.
	n, err := base64.RawURLEncoding.Strict().Decode(s[:], []byte(token[idChars:]))
	return id, s, err == nil && n == len(s)
}

// tokens are those that open a session now: the one that was used last, whose answer may never have
// reached the client, and those that were given out for it. Usually that is one; there are
// more where a client tried again, and where an earlier attempt of it, given up long ago,
// arrives behind the one that came through: that must not cost the client the token it has
// got. Once one of them is used, all others are void.
type tokens struct {
	current    secret   // given out last
	before     secret   // used last
	hasBefore  bool     // false until the first resume
	superseded []secret // also given out for before, the latest last; mostly nil
}

// maxSuperseded bounds how many attempts at once a client's token survives.
const maxSuperseded = 4

func (t *tokens) good(s *secret) bool {
	good := subtle.ConstantTimeCompare(s[:], t.current[:])
	if t.hasBefore {
		good |= subtle.ConstantTimeCompare(s[:], t.before[:])
	}
	for i := range t.superseded {
		good |= subtle.ConstantTimeCompare(s[:], t.superseded[i][:])
	}
	return good == 1
}

// rotate makes c.fresh the current token; c has been found good.
func (t *tokens) rotate(c claim) {
	switch {
	case c.presented == nil: // the session's first client
	case t.hasBefore && *c.presented == t.before:
		if len(t.superseded) == maxSuperseded {
			t.superseded = slices.Delete(t.superseded, 0, 1)
		}
		t.superseded = append(t.superseded, t.current)
	default:
		t.before, t.hasBefore, t.superseded = *c.presented, true, nil
	}
	t.current = c.fresh
}
