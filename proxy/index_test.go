package proxy

import (
	"math/rand/v2"
	"testing"
)

// An index holds what a Go map would, whatever is put in and taken out, also where all hashes are alike.
func TestIndexIsAMap(t *testing.T) {
	for name, mask := range map[string]uint64{"good hash": ^uint64(0), "few hashes": 7 << 32, "one hash": 0} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			hash := func(r *relay) uint64 { return uint64(r.held) * 0x9e3779b97f4a7c15 & mask }
			x := index{hash: hash}
			in := map[*relay]bool{}
			all := make([]*relay, 300)
			for i := range all {
				all[i] = &relay{held: int64(i)}
			}
			for step := range 20_000 {
				r := all[random.IntN(len(all))]
				switch growing := step/2000%2 == 0; {
				case in[r] && (!growing || random.IntN(4) == 0):
					x.remove(r)
					delete(in, r)
				case !in[r] && (growing || random.IntN(4) == 0):
					x.add(r)
					in[r] = true
				case !in[r]:
					x.remove(r) // changes nothing
				}
				if x.n != len(in) {
					t.Fatalf("step %d: it counts %d sessions, want %d", step, x.n, len(in))
				}
				if n := len(x.slots); n > minSlots && (4*x.n > 3*n || 8*x.n < n) {
					t.Fatalf("step %d: %d slots for %d sessions", step, n, x.n)
				}
				if step%50 != 0 {
					continue
				}
				for _, r := range all {
					if found := x.find(hash(r), func(other *relay) bool { return other == r }); (found == r) != in[r] {
						t.Fatalf("step %d: session %d is found: %v, want %v", step, r.held, found == r, in[r])
					}
				}
				n := 0
				for r := range x.all {
					if n++; !in[r] {
						t.Fatalf("step %d: session %d is listed", step, r.held)
					}
				}
				if n != len(in) {
					t.Fatalf("step %d: %d sessions are listed, want %d", step, n, len(in))
				}
			}
		})
	}
}
