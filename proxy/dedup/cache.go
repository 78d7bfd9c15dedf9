package dedup

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
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
type Cache struct {
	mu     sync.Mutex
	maxIDs int
	ttl    int64 // nanoseconds
	// marked holds the time of each id's first hand-over. simplelru, not expirable: the
	// latter starts a goroutine that never ends.
	marked *simplelru.LRU[scopedID, int64]
}

type scopedID struct {
	scope uint64
	id    ID
}

// New returns a Cache of at most maxIDs ids, each kept for ttl. If either isn't positive
// it remembers nothing.
func New(maxIDs int, ttl time.Duration) *Cache {
	// The only error is a size below 1.
	marked, err := simplelru.NewLRU[scopedID, int64](max(maxIDs, 1), nil)
	if err != nil {
		panic("dedup: create LRU: " + err.Error())
	}
	return &Cache{maxIDs: maxIDs, ttl: int64(ttl), marked: marked}
}

// Seen reports whether id was marked in scope (0: the global one, else the session's
// number) less than ttl before now, in nanoseconds of the proxy's monotonic clock.
func (c *Cache) Seen(scope uint64, id ID, now int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := scopedID{scope, id}
	at, ok := c.marked.Get(key)
	if ok && now-at >= c.ttl {
		c.marked.Remove(key)
		return false
	}
	return ok
}

// Mark remembers id in scope as handed over at now. It allocates once, and only for an
// id that is new.
func (c *Cache) Mark(scope uint64, id ID, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.maxIDs < 1 || c.ttl <= 0 {
		return
	}
	key := scopedID{scope, id}
	if at, ok := c.marked.Get(key); ok && now-at < c.ttl {
		return
	}
	c.marked.Add(key, now)
	c.sweep(now)
}

// sweep drops expired ids from the old end. An expired one may wait behind a live one that
// was used less recently, at most until that expires too.
func (c *Cache) sweep(now int64) {
	for range sweepPerMark {
		_, at, ok := c.marked.GetOldest()
		if !ok || now-at < c.ttl {
			return
		}
		c.marked.RemoveOldest()
	}
}

// SetLimits changes the limits for what is remembered already, too: of too many ids the
// least recently used go at once.
func (c *Cache) SetLimits(maxIDs int, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maxIDs, c.ttl = maxIDs, int64(ttl)
	if maxIDs < 1 || ttl <= 0 {
		c.marked.Purge()
	}
	c.marked.Resize(max(maxIDs, 1))
}

// Len is how many ids are held, expired ones that still wait for removal included.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.marked.Len()
}
