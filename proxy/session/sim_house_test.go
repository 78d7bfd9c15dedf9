package session

import (
	"cmp"
	"container/heap"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var simSessions = flag.Int("sim.sessions", 500, "how many sessions TestSimulatedHouse has under one roof")

// TestSimulatedHouse plays sessions at the same time, in one order of events. They share what the sessions of a proxy
// share: a memory of ids, with one scope or one for each session, and a limit for all buffers together, over which
// those that have been away for longest end. Each goes on to be checked as in TestSimulation.
func TestSimulatedHouse(t *testing.T) {
	n := *simSessions
	if testing.Short() {
		n = min(n, 100)
	}
	seed := uint64(time.Now().UnixNano())
	if *simSeed != 0 {
		seed = *simSeed
	}
	h := newHouse(seed, n)
	began := time.Now()
	err := h.run()
	if err != nil {
		t.Errorf("%v\nreplay: go test ./proxy/session -run TestSimulatedHouse -sim.sessions=%d -sim.seed=%d\nthe last of its trace:\n\t%s",
			err, n, seed, strings.Join(h.lines, "\n\t"))
	}
	t.Logf("seed %d: %d sessions, up to %d at a time, %d inputs, %d evicted, %d duplicates; buffers of up to %d KiB, limit %d KiB; %v",
		seed, n, h.most, h.steps, h.evicted, h.duplicates, h.peak>>10, h.limit>>10, time.Since(began).Round(time.Millisecond))
	if err == nil && n >= 100 && (h.evicted == 0 || h.duplicates == 0) {
		t.Errorf("%d sessions were evicted, %d messages were duplicates: the sessions shared too little", h.evicted, h.duplicates)
	}
}

// A simHouse is what sessions share. The zero value is the house of a session that lives alone, without limits.
type simHouse struct {
	rng    *rand.Rand
	guests guests
	now    Time
	ids    *simIDs // nil: each session has its own
	limit  int     // of all buffers together, in bytes; 0: none
	held   int     // in all buffers
	evict  Time    // when sessions are to be evicted; 0: no reason

	all                        []*guest
	most, peak, steps, evicted int
	duplicates                 uint64
	lines                      []string // the latest of the trace
}

// A guest is a session that waits for its next event.
type guest struct {
	*sim
	at   Time
	next func() (Time, bool)
	stop func()
	err  error
}

func newHouse(seed uint64, sessions int) *simHouse {
	h := &simHouse{rng: rand.New(rand.NewPCG(seed, 2)), limit: sessions * 1000}
	some := &sim{rng: h.rng}
	h.ids = newSimIDs(some)
	h.ids.perSession = some.chance(0.3)
	for i := range sessions {
		g := &guest{sim: newSimIn(h, uint64(i+1), h.rng.Uint64(), nil)}
		g.sim.now = Time(time.Hour).add(some.between(0, time.Minute))
		g.verbose = func(line string) {
			if h.lines = append(h.lines, fmt.Sprintf("%d: %s", i+1, line)); len(h.lines) == 200 {
				h.lines = append(h.lines[:0], h.lines[140:]...)
			}
		}
		g.next, g.stop = iter.Pull(func(yield func(Time) bool) {
			g.yield = func(at Time) {
				if !yield(at) {
					panic(simFailure("another session of the house failed"))
				}
			}
			g.err = g.run()
		})
		g.at, _ = g.next()
		h.all = append(h.all, g)
		h.guests = append(h.guests, g)
	}
	heap.Init(&h.guests)
	return h
}

// run lets the guests have their turns, each when it is the earliest, until all are gone.
func (h *simHouse) run() (err error) {
	defer func() {
		for _, g := range h.all {
			g.stop()
			h.steps += g.steps
			h.duplicates += g.shell.duplicates
		}
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	for len(h.guests) > 0 {
		g := h.guests[0]
		h.now = g.at
		if h.evict != 0 && h.evict <= g.at {
			h.evictSome()
		}
		var more bool
		if g.at, more = g.next(); g.err != nil {
			return fmt.Errorf("session %d: %w", g.number, g.err)
		}
		if more {
			heap.Fix(&h.guests, 0)
		} else {
			heap.Pop(&h.guests)
		}
	}
	if h.held != 0 {
		return fmt.Errorf("all sessions are over, and %d bytes are held", h.held)
	}
	return nil
}

// pressed reports whether all buffers together are over their limit.
func (h *simHouse) pressed() bool { return h.limit > 0 && h.held > h.limit }

// account takes what a session holds after an input.
func (h *simHouse) account(shell *simShell) {
	if h.limit == 0 {
		return
	}
	delta := shell.core.Held() - shell.held
	shell.held += delta
	h.held += delta
	h.peak = max(h.peak, h.held)
	if delta > 0 && h.pressed() && h.evict == 0 {
		h.evict = h.now.add(time.Duration(h.rng.IntN(20)) * time.Millisecond)
	}
}

// evictSome does what the proxy does once its buffers are over their limit.
func (h *simHouse) evictSome() {
	at := h.evict
	h.evict = 0
	var away []*guest
	living := 0
	for _, g := range h.all {
		c := g.shell.core
		if c == nil || c.Over() {
			continue
		}
		if living++; c.State() == StateAway && g.shell.held > 0 {
			away = append(away, g)
		}
	}
	h.most = max(h.most, living)
	slices.SortFunc(away, func(a, b *guest) int { return cmp.Compare(a.shell.core.Since(), b.shell.core.Since()) })
	for _, g := range away {
		if !h.pressed() {
			return
		}
		g.sim.now = max(g.sim.now, at)
		g.shell.end(Evicted)
		h.evicted++
		if g.shell.held > minBuffer { // but the beginning of a frame's header
			g.fail("%d bytes are held for a session that was evicted", g.shell.held)
		}
	}
}

// guests are a heap by time.
type guests []*guest

func (q guests) Len() int { return len(q) }
func (q guests) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].number < q[j].number
}
func (q guests) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *guests) Push(x any)   { *q = append(*q, x.(*guest)) }
func (q *guests) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
