package proxy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// rotating is what a session does with its tokens.
type rotating interface {
	good(s *secret) bool
	rotate(c claim)
}

// walkTokens gives tokens out and presents them, any of them, over and over, and holds what becomes of it against what
// the protocol promises, and nothing else:
//   - the token that was given out last is good, and so is the one that was presented for it, since the answer may have
//     got lost;
//   - so are those that were given out for it shortly before: the client may have that one;
//   - once a token has been used, those that were given out before it, or for the same token as it, are void for ever;
//   - what was never given out opens nothing.
func walkTokens(t rotating, rng *rand.Rand, steps int) error {
	type token struct {
		secret secret
		parent int // the token for which it was given out
		used   bool
		void   bool
	}
	draw := func() (s secret) {
		for i := range s {
			s[i] = byte(rng.Uint32())
		}
		return s
	}
	all := []token{{secret: draw(), parent: -1}}
	t.rotate(claim{fresh: all[0].secret})
	for range steps {
		last := &all[len(all)-1]
		if !t.good(&last.secret) {
			return fmt.Errorf("the latest token, %d, is not good", len(all)-1)
		}
		if last.parent >= 0 && !t.good(&all[last.parent].secret) {
			return fmt.Errorf("token %d is void before %d, which was given out for it, has been used", last.parent, len(all)-1)
		}
		for i := len(all) - 1; i >= 0 && i >= len(all)-maxSuperseded && all[i].parent == last.parent; i-- {
			if !t.good(&all[i].secret) {
				return fmt.Errorf("token %d is void because %d was given out for the same one", i, len(all)-1)
			}
		}
		if forged := draw(); t.good(&forged) {
			return fmt.Errorf("a token is good that was never given out")
		}
		if nothing := (secret{}); t.good(&nothing) {
			return fmt.Errorf("no token at all is good")
		}
		// Mostly a late one; now and then one from long ago.
		i := len(all) - 1 - rng.IntN(min(len(all), 6))
		if rng.IntN(5) == 0 {
			i = rng.IntN(len(all))
		}
		p := all[i].secret
		if !t.good(&p) {
			continue
		}
		if all[i].void {
			return fmt.Errorf("token %d works after a newer one has been used", i)
		}
		if !all[i].used {
			all[i].used = true
			for k := range all {
				all[k].void = all[k].void || k < i || k != i && all[k].parent == all[i].parent
			}
		}
		all = append(all, token{secret: draw(), parent: i})
		t.rotate(claim{presented: &p, fresh: all[len(all)-1].secret})
	}
	return nil
}

func TestTokensByChance(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(2000) {
		if err := walkTokens(&tokens{}, rand.New(rand.NewPCG(seed, i)), 100); err != nil {
			t.Fatalf("walk %d from seed %d: %v", i, seed, err)
		}
	}
}

// A wrongToken is tokens with a bug.
type wrongToken struct {
	tokens
	bug func(t *tokens, c claim)
}

func (w *wrongToken) rotate(c claim) { w.bug(&w.tokens, c) }

// The walk finds what could be wrong with tokens.
func TestWalksFindPlantedBugsInTokens(t *testing.T) {
	for name, bug := range map[string]func(t *tokens, c claim){
		"tokens don't change":           func(t *tokens, c claim) { t.current = [18]byte{1}; t.hasBefore = false },
		"the old token is void at once": func(t *tokens, c claim) { t.rotate(c); t.hasBefore = false },
		"an older token works twice": func(t *tokens, c claim) {
			old, had := t.before, t.hasBefore
			if t.rotate(c); had && t.before != old {
				t.superseded = append(t.superseded, old)
			}
		},
		"a late attempt voids the client's own": func(t *tokens, c claim) { t.rotate(c); t.superseded = nil },
		"those that lost the race stay good": func(t *tokens, c claim) {
			s := t.superseded
			if t.rotate(c); t.superseded == nil {
				t.superseded = s
			}
		},
		"no token is as good as a token": func(t *tokens, c claim) {
			if t.rotate(c); !t.hasBefore {
				t.before, t.hasBefore = secret{}, true
			}
		},
	} {
		found := error(nil)
		for i := uint64(0); i < 1000 && found == nil; i++ {
			found = walkTokens(&wrongToken{bug: bug}, rand.New(rand.NewPCG(1, i)), 100)
		}
		if found == nil {
			t.Errorf("not found: %s", name)
		} else {
			t.Logf("%s: %v", name, found)
		}
	}
}
