package dedup

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A model is what a Cache should be, as plainly as can be: ids from the least to the most recently used.
type model struct {
	maxIDs int
	ttl    int64
	ids    []modelMark
}

type modelMark struct {
	scope, id uint64
	time      int64
}

func (m *model) find(scope, id uint64) int {
	return slices.IndexFunc(m.ids, func(k modelMark) bool { return k.scope == scope && k.id == id })
}

func (m *model) seen(scope, id uint64, now int64) bool {
	n := m.find(scope, id)
	if n < 0 {
		return false
	}
	k := m.ids[n]
	m.ids = slices.Delete(m.ids, n, n+1)
	if now-k.time >= m.ttl {
		return false
	}
	m.ids = append(m.ids, k)
	return true
}

func (m *model) mark(scope, id uint64, now int64) {
	if m.maxIDs < 1 || m.ttl <= 0 {
		return
	}
	if !m.seen(scope, id, now) {
		m.ids = append(m.ids, modelMark{scope, id, now})
		m.limit()
	}
	for range sweepPerMark {
		if now-m.ids[0].time < m.ttl {
			break
		}
		m.ids = m.ids[1:]
	}
}

func (m *model) limit() {
	limit := max(m.maxIDs, 0)
	if m.ttl <= 0 {
		limit = 0
	}
	m.ids = m.ids[max(0, len(m.ids)-limit):]
}

// TestCacheIsAsItsModel does the same at random to both. Few ids, scopes and moments meet often; the index grows, its
// runs wrap around its end, and hashes with few bits make the runs long.
func TestCacheIsAsItsModel(t *testing.T) {
	hashes := map[string]func(uint64) ID{
		"as good as hashes go": id,
		"many of one tag":      func(n uint64) ID { return ID{n % 5, n} },
		"all at the end":       func(n uint64) ID { return ID{^uint64(0) - n%3<<32, n} },
	}
	for name, hash := range hashes {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(40) {
				r := rand.New(rand.NewPCG(seed, 0))
				limits := func() (int, time.Duration) { return r.IntN(200) - 1, time.Duration(r.IntN(500) - 1) }
				maxIDs, ttl := limits()
				c, m := New(maxIDs, ttl), &model{maxIDs: maxIDs, ttl: int64(ttl)}
				m.limit()
				now, most := int64(0), 0
				for step := range 3000 {
					now += r.Int64N(4)
					scope, n := r.Uint64N(3), r.Uint64N(300)
					switch r.IntN(100) {
					case 0:
						maxIDs, ttl = limits()
						c.SetLimits(maxIDs, ttl)
						m.maxIDs, m.ttl = maxIDs, int64(ttl)
						m.limit()
					case 1:
						now += r.Int64N(600)
					default:
						if do := r.IntN(4); do > 0 {
							got, want := c.Seen(scope, hash(n), now), m.seen(scope, n, now)
							if got != want {
								t.Fatalf("seed %d, step %d: Seen(%d, %d, %d) = %v, want %v", seed, step, scope, n, now, got, want)
							}
							if do == 1 {
								break
							}
						}
						c.Mark(scope, hash(n), now)
						m.mark(scope, n, now)
					}
					if got, want := c.Len(), len(m.ids); got != want {
						t.Fatalf("seed %d, step %d: Len = %d, want %d", seed, step, got, want)
					}
					most = max(most, c.Len())
				}
				if got, want := len(c.marks), most+2; got > want { // one is no id, and one id more is held while Mark makes room
					t.Errorf("seed %d: room for %d ids, want %d at most: there were never more", seed, got, want)
				}
				for _, k := range m.ids {
					if !c.Seen(k.scope, hash(k.id), k.time) {
						t.Fatalf("seed %d: id %d of scope %d is lost", seed, k.id, k.scope)
					}
				}
			}
		})
	}
}
