package proxy

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
)

// A token of tideover.v1 is the session's id and a secret. The id finds the session; the
// secret, 144 bits from crypto/rand, is compared in constant time and never indexed.
type secret [18]byte

const (
	idBytes   = 12
	idChars   = 16 // in base64
	tokenSize = idChars + 24
)

func newID() string {
	var b [idBytes]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func newSecret() (s secret) {
	rand.Read(s[:])
	return s
}

func tokenOf(id string, s secret) string { return id + base64.RawURLEncoding.EncodeToString(s[:]) }

// readToken takes a token apart; ok is false for what can't be one.
func readToken(token string) (id string, s secret, ok bool) {
	if len(token) != tokenSize {
		return "", s, false
	}
	// Strict: the unused bits of a last character must not make two spellings of one token.
	n, err := base64.RawURLEncoding.Strict().Decode(s[:], []byte(token[idChars:]))
	return token[:idChars], s, err == nil && n == len(s)
}

// A tokenPair holds the token that was given out last and the one before it, which stays good
// until the new one is used: its answer may never have reached the client.
type tokenPair struct {
	current, before secret
	hasBefore       bool
}

func (t *tokenPair) good(s *secret) bool {
	current := subtle.ConstantTimeCompare(s[:], t.current[:])
	before := subtle.ConstantTimeCompare(s[:], t.before[:])
	return current == 1 || t.hasBefore && before == 1
}

// rotate makes c.fresh the current token; c has been found good.
func (t *tokenPair) rotate(c claim) {
	if c.presented != nil && *c.presented == t.current {
		t.before, t.hasBefore = t.current, true
	}
	t.current = c.fresh
}
