package dedup

import (
	"math"
	"sync"
	"time"
	"unsafe"

	"github.com/tideover/tideover/proxy/prefetch"
)

// sweepPerMark is how many expired ids one Mark drops at most: more than it adds, so
// that they go away, and few, so that no message waits for it.
const sweepPerMark = 4

// A Cache remembers the ids of messages that were handed over: one for the whole proxy,
// all scopes in it. When it is full the id that was not used for longest goes first.
// It is safe for concurrent use and starts no goroutine.
//
// An id lives for ttl from its first hand-over: neither a duplicate nor a further Mark
// makes it live longer, so that a client which retries forever gets a message
// through once each ttl, as if it were new.
//
// Seen and Mark are two steps because the hand-over stands between them. In one session they
// run under its lock; two sessions that share a scope can both find an id unseen if they
// hand it over at the same moment.
//
// It is built for few cache misses, as every message may meet it and all else that Tideover does for one costs no more
// than a handful of them: an id takes 32 bytes of marks, where neighbours come and go together, and some 10 to 20 of an
// index, and the garbage collector looks at neither. (golang-lru takes 96 bytes of heap for an entry and some 60 of a map;
// a new id took four times as long.) The memory stays at what the most ids at once have needed.
type Cache struct {
	mu     sync.Mutex
	maxIDs int
	ttl    int64 // nanoseconds
	len    int
	// marks is a ring, linked by positions from the least to the most recently used id. The first
	// element is no id: it stands between the two ends.
	marks []mark
	free  uint32 // the first of the unused elements, linked by newer; 0: none
	index index
}

// A mark is what is known of an id.
type mark struct {
	id           ID    // in its scope
	time         int64 // of the first hand-over
	older, newer uint32
}

// New returns a Cache of at most maxIDs ids, each kept for ttl. If either isn't positive
// it remembers nothing.
func New(maxIDs int, ttl time.Duration) *Cache {
	c := &Cache{marks: make([]mark, 1), index: newIndex(minCells)}
	c.SetLimits(maxIDs, ttl)
	return c
}

// Seen reports whether id was marked in scope (0: the global one, else the session's
// number) less than ttl before now, in nanoseconds of the proxy's monotonic clock.
func (c *Cache) Seen(scope uint64, id ID, now int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _ := c.find(id.in(scope))
	if n == 0 {
		return false
	}
	if now-c.marks[n].time >= c.ttl {
		c.remove(n)
		return false
	}
	c.use(n)
	return true
}

// Mark remembers id in scope as handed over at now. It allocates only when the Cache holds more ids than ever before.
func (c *Cache) Mark(scope uint64, id ID, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.maxIDs < 1 {
		return
	}
	id = id.in(scope)
	n, cell := c.find(id)
	if n != 0 {
		if now-c.marks[n].time >= c.ttl {
			c.marks[n].time = now
		}
		c.use(n)
		c.sweep(now)
		return
	}
	n = c.take()
	c.marks[n].id, c.marks[n].time = id, now
	c.link(n)
	c.index[cell] = newCell(id, n)
	if c.len++; c.len > c.maxIDs {
		c.remove(c.oldest())
	}
	c.sweep(now)
	if c.index.full(c.len) {
		c.index = c.index.grown()
	}
	c.foresee()
}

// foresee fetches what the next Mark will need if the Cache is full: where the oldest id stands in the index, and the mark
// of the one that will be the oldest then.
func (c *Cache) foresee() {
	oldest := &c.marks[c.oldest()]
	prefetch.Lines(uintptr(unsafe.Pointer(&c.index[c.index.home(oldest.id.tag())])), 1)
	prefetch.Lines(uintptr(unsafe.Pointer(&c.marks[oldest.newer])), 1)
}

// sweep drops expired ids from the old end. An expired one may wait behind a live one that
// was used less recently, at most until that expires too.
func (c *Cache) sweep(now int64) {
	for range sweepPerMark {
		n := c.oldest()
		if n == 0 || now-c.marks[n].time < c.ttl {
			return
		}
		c.remove(n)
	}
}

// SetLimits changes the limits for what is remembered already, too: of too many ids the
// least recently used go at once.
func (c *Cache) SetLimits(maxIDs int, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ttl <= 0 {
		maxIDs = 0
	}
	c.maxIDs, c.ttl = min(max(maxIDs, 0), math.MaxInt32), int64(ttl)
	for c.len > c.maxIDs {
		c.remove(c.oldest())
	}
}

// Len is how many ids are held, expired ones that still wait for removal included.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.len
}

// find returns the position of id's mark; 0 if it has none, and then the cell that can be its.
func (c *Cache) find(id ID) (n uint32, at int) {
	tag := id.tag()
	for at = c.index.home(tag); ; at = c.index.next(at) {
		cell := c.index[at]
		if cell == 0 {
			return 0, at
		}
		if n = cell.mark(); cell.tag() == tag && c.marks[n].id == id {
			return n, at
		}
	}
}

// take returns the position of an unused mark.
func (c *Cache) take() uint32 {
	n := c.free
	if n == 0 {
		c.marks = append(c.marks, mark{})
		return uint32(len(c.marks) - 1)
	}
	c.free = c.marks[n].newer
	return n
}

// remove forgets the id at n.
func (c *Cache) remove(n uint32) {
	_, cell := c.find(c.marks[n].id)
	c.index.remove(cell)
	c.unlink(n)
	c.marks[n].newer, c.free = c.free, n
	c.len--
}

// oldest is the position of the least recently used id; 0 if there is none.
func (c *Cache) oldest() uint32 { return c.marks[0].newer }

// use makes the id at n the most recently used one.
func (c *Cache) use(n uint32) {
	c.unlink(n)
	c.link(n)
}

func (c *Cache) link(n uint32) {
	newest := c.marks[0].older
	c.marks[n].older, c.marks[n].newer = newest, 0
	c.marks[newest].newer, c.marks[0].older = n, n
}

func (c *Cache) unlink(n uint32) {
	older, newer := c.marks[n].older, c.marks[n].newer
	c.marks[older].newer, c.marks[newer].older = newer, older
}
