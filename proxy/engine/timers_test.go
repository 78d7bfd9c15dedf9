package engine

import (
	"math/rand/v2"
	"testing"
)

// A heap under random use gives its timers back in order, each once, and knows where each is.
func TestTimers(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	var h timers
	all := make([]timer, 300)
	due := map[*timer]int64{}
	now := int64(0)
	for range 20_000 {
		x := &all[rng.IntN(len(all))]
		switch rng.IntN(4) {
		case 0, 1:
			at := now + rng.Int64N(1000)
			h.set(x, at)
			due[x] = at
		case 2:
			h.remove(x)
			delete(due, x)
		case 3:
			now += rng.Int64N(50)
			last := int64(-1)
			for p := h.pop(now); p != nil; p = h.pop(now) {
				at, there := due[p]
				if !there || at > now || at < last || p.index != 0 {
					t.Fatalf("popped a timer at %d after one for %d, set: %v for %d", now, last, there, at)
				}
				last = at
				delete(due, p)
			}
			for p, at := range due {
				if at <= now {
					t.Fatalf("a timer for %d was not popped at %d (index %d)", at, now, p.index)
				}
			}
		}
		if len(h) != len(due) {
			t.Fatalf("%d timers in the heap, %d are set", len(h), len(due))
		}
		for i, p := range h {
			if int(p.t.index) != i+1 || p.at != due[p.t] {
				t.Fatalf("the timer at %d for %d thinks that it is at %d for %d", i, p.at, p.t.index-1, due[p.t])
			}
		}
	}
}
