package proxy

import (
	"slices"
	"testing"

	"github.com/tideover/tideover/proxy/engine"
	"github.com/tideover/tideover/proxy/session"
)

type noGroup struct{ engine.Group }

// Sessions that end while somebody adds up are counted once: neither left out, for a counter must not go back, nor
// both as living and as over.
func TestTotalsWhileSessionsEnd(t *testing.T) {
	var c counters
	relays := make([]*relay, 4)
	for i := range relays {
		relays[i] = &relay{group: noGroup{}}
		relays[i].core.Stats = session.Stats{Up: 1 << (8 * i), Resumes: 1 << (8 * i), Losses: [4]uint32{1 << (8 * i)}}
	}
	end := func(r *relay) {
		r.group = nil
		c.retire(r)
	}
	all := slices.Values(relays)
	for round := range 300 { // the marks of rounds begin anew meanwhile
		seen := 0
		sum, lefts := c.totals(all, func(r *relay) {
			seen++
			if round == 298 && r == relays[1] {
				end(relays[0]) // in the sum already
				end(relays[2]) // not yet
			}
		})
		if sum.Up != 0x01010101 || sum.Resumes != 0x01010101 || sum.Losses[0] != 0x01010101 {
			t.Fatalf("round %d: %x up, %x resumes, %x losses, want 1010101 each", round, sum.Up, sum.Resumes, sum.Losses[0])
		}
		if want := map[bool]int{false: 4, true: 2}[round > 298]; round != 298 && seen != want {
			t.Errorf("round %d: %d live, want %d", round, seen, want)
		}
		if round >= 298 && lefts[session.NotEnded] != 2 {
			t.Errorf("round %d: %d have left, want 2", round, lefts[session.NotEnded])
		}
	}
}
