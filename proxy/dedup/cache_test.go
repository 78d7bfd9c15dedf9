package dedup

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// id is an id as good as a hash: splitmix64 of n, twice.
func id(n uint64) ID { return ID{spread(n), spread(^n)} }

func spread(z uint64) uint64 {
	z *= 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (c *Cache) want(t *testing.T, scope uint64, n uint64, now time.Duration, seen bool, when string) {
	t.Helper()
	if got := c.Seen(scope, id(n), int64(now)); got != seen {
		t.Errorf("%s: Seen(scope %d, id %d, at %v) = %v, want %v", when, scope, n, now, got, seen)
	}
}

func TestIDLivesForItsTTL(t *testing.T) {
	c := New(10, time.Minute)
	c.want(t, 1, 1, 0, false, "before any mark")
	c.want(t, 1, 1, 0, false, "asking is not marking")
	c.Mark(1, id(1), 0)
	c.want(t, 1, 1, 0, true, "at once")
	c.want(t, 2, 1, 0, false, "in another session")
	c.want(t, 0, 1, 0, false, "in the global scope")
	c.want(t, 1, 2, 0, false, "another id")
	c.want(t, 1, 1, time.Minute-1, true, "just before its end")
	c.want(t, 1, 1, time.Minute, false, "at its end, though asked for meanwhile")
	if n := c.Len(); n != 0 {
		t.Errorf("Len = %d after the only id was found expired, want 0", n)
	}
	c.Mark(1, id(1), int64(time.Minute))
	c.want(t, 1, 1, 2*time.Minute-1, true, "marked anew")
	c.want(t, 1, 1, 2*time.Minute, false, "its second life over")
	// Clock readings of two goroutines may come in the other order.
	c.Mark(1, id(3), 100)
	c.want(t, 1, 3, 99, true, "a moment before its mark")
}

func TestSecondMarkProlongsNothing(t *testing.T) {
	c := New(10, time.Minute)
	c.Mark(0, id(1), 0)
	c.Mark(0, id(1), int64(59*time.Second))
	c.want(t, 0, 1, time.Minute-1, true, "before the end of its first mark")
	c.Mark(0, id(1), int64(time.Minute-1))
	c.want(t, 0, 1, time.Minute, false, "at the end of its first mark")
	c.Mark(0, id(2), 0)
	c.Mark(0, id(2), int64(time.Minute))
	c.want(t, 0, 2, 2*time.Minute-1, true, "a mark of an expired id that nobody asked for begins a new life")
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	c := New(3, time.Hour)
	c.Mark(1, id(1), 1)
	c.Mark(2, id(2), 2)
	c.Mark(3, id(3), 3)
	c.want(t, 1, 1, 4, true, "not full yet")
	c.Mark(4, id(4), 5)
	if n := c.Len(); n != 3 {
		t.Errorf("Len = %d, want the limit, 3", n)
	}
	c.want(t, 2, 2, 6, false, "least recently used, though not the oldest")
	c.want(t, 1, 1, 6, true, "used since")
	c.want(t, 3, 3, 6, true, "younger")
	c.want(t, 4, 4, 6, true, "youngest")
}

func TestExpiredGoBeforeTheLimit(t *testing.T) {
	const limit, ttl = 1_000_000, int64(time.Minute)
	c := New(limit, time.Minute)
	now := int64(0)
	// One new id each 10 ms is 6,000 in each ttl; duplicates keep each tenth at the young end.
	for n := range uint64(60_000) {
		now += int64(10 * time.Millisecond)
		c.Mark(0, id(n), now)
		if n >= 10 {
			c.Seen(0, id(n-n%10), now)
		}
	}
	if got := c.Len(); got < 6000 || got > 12_100 {
		t.Errorf("Len = %d after 60,000 ids, of which 6,000 are alive; want no more than twice that", got)
	}
	now += ttl
	for n := range uint64(5000) {
		c.Mark(1, id(n), now)
	}
	if got := c.Len(); got != 5000 {
		t.Errorf("Len = %d after a pause longer than ttl and 5,000 new ids, want only these", got)
	}
}

func TestSetLimits(t *testing.T) {
	c := New(100, time.Hour)
	for n := range uint64(100) {
		c.Mark(0, id(n), int64(n))
	}
	c.SetLimits(10, time.Hour)
	if n := c.Len(); n != 10 {
		t.Errorf("Len = %d after the limit fell to 10", n)
	}
	c.want(t, 0, 89, 100, false, "beyond the new limit")
	c.want(t, 0, 90, 100, true, "within the new limit")
	c.SetLimits(20, time.Minute)
	c.want(t, 0, 99, 99+time.Minute-1, true, "before the new, shorter ttl")
	c.want(t, 0, 99, 99+time.Minute, false, "after the new, shorter ttl")
	for n := range uint64(30) {
		c.Mark(1, id(n), int64(time.Minute))
	}
	if n := c.Len(); n != 20 {
		t.Errorf("Len = %d, want the raised limit, 20", n)
	}
	c.SetLimits(0, time.Minute)
	if n := c.Len(); n != 0 {
		t.Errorf("Len = %d after limit 0", n)
	}
	c.Mark(0, id(1), 0)
	c.want(t, 0, 1, 0, false, "limit 0")
	c.SetLimits(10, 0)
	c.Mark(0, id(1), 0)
	c.want(t, 0, 1, 0, false, "ttl 0")
	c.SetLimits(10, 1)
	c.Mark(0, id(1), 0)
	c.want(t, 0, 1, 0, true, "limits back")
}

func TestZeroCachesRememberNothing(t *testing.T) {
	for _, c := range []*Cache{New(0, time.Hour), New(-1, time.Hour), New(10, 0), New(10, -time.Hour)} {
		c.Mark(0, id(1), 0)
		c.want(t, 0, 1, 0, false, "no limits, no memory")
		if n := c.Len(); n != 0 {
			t.Errorf("Len = %d, want 0", n)
		}
	}
}

func TestCacheAllocations(t *testing.T) {
	c := New(1000, time.Hour)
	n := uint64(0)
	for ; n < 5000; n++ { // full
		c.Mark(0, id(n), int64(n))
	}
	newID := testing.AllocsPerRun(2000, func() {
		n++
		c.Seen(0, id(n), int64(n))
		c.Mark(0, id(n), int64(n))
	})
	if newID != 0 {
		t.Errorf("a new id costs %v allocations, want 0", newID)
	}
	known := testing.AllocsPerRun(100, func() {
		c.Seen(0, id(n), int64(n))
		c.Mark(0, id(n), int64(n))
	})
	if known != 0 {
		t.Errorf("a known id costs %v allocations, want 0", known)
	}
}

func TestCacheInManyGoroutines(t *testing.T) {
	const goroutines, ids = 8, 2000
	c := New(goroutines*ids, time.Hour)
	var clock atomic.Int64
	var wg sync.WaitGroup
	for g := range uint64(goroutines) {
		wg.Go(func() {
			for n := range uint64(ids) {
				scope := g % 3 // some share one
				c.Seen(scope, id(n), clock.Add(1))
				c.Mark(scope, id(n), clock.Add(1))
				if !c.Seen(scope, id(n), clock.Add(1)) {
					t.Errorf("id %d of scope %d is gone though the cache isn't full", n, scope)
					return
				}
				if n%500 == 0 {
					c.SetLimits(goroutines*ids+int(n), time.Hour)
					c.Len()
				}
			}
		})
	}
	wg.Wait()
	if n := c.Len(); n != 3*ids {
		t.Errorf("Len = %d, want %d: three scopes", n, 3*ids)
	}
}

func BenchmarkCache(b *testing.B) {
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		c := New(100_000, 5*time.Minute)
		n := uint64(0)
		for b.Loop() {
			n++
			c.Seen(1, id(n), int64(n))
			c.Mark(1, id(n), int64(n))
		}
	})
	b.Run("duplicate", func(b *testing.B) {
		b.ReportAllocs()
		c := New(100_000, 5*time.Minute)
		c.Mark(1, id(1), 0)
		for b.Loop() {
			c.Seen(1, id(1), 1)
		}
	})
}
