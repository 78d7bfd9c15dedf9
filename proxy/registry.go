package proxy

import (
	"hash/maphash"
	"strings"
	"sync"
)

// A registry finds sessions: by key, and by id (for tokens and the API). It is
// sharded so that a storm of reconnects does not queue up at one lock. Its locks are
// leaves: nothing else is locked while one is held. Whoever is given a session holds it, and has to release it.
type registry struct {
	seed   maphash.Seed
	shards [32]shard
}

type shard struct {
	mu      sync.Mutex
	byKey   index
	pending map[string]*place
	byID    index
}

// A place is where a key's session will be once its upstream has accepted.
type place struct {
	key   string
	ready chan struct{} // closed when the session is there or the place was given up; nil while nobody waits for it
}

// over lets those go on who wait. The shard is locked, and p no longer in it.
func (p *place) over() {
	if p.ready != nil {
		close(p.ready)
	}
}

func newRegistry() *registry {
	g := &registry{seed: maphash.MakeSeed()}
	for i := range g.shards {
		g.shards[i].byKey.hash = func(r *relay) uint64 { return g.hashKey(r.key) }
		g.shards[i].pending = make(map[string]*place)
		g.shards[i].byID.hash = func(r *relay) uint64 { return g.hashID(r.id) }
	}
	return g
}

func (g *registry) hashKey(key string) uint64 { return maphash.String(g.seed, key) }

// hashID takes what a client made up as well as what is random.
func (g *registry) hashID(id sessionID) uint64 { return maphash.Bytes(g.seed, id[:]) }

// of is the shard of a hash.
func (g *registry) of(hash uint64) *shard { return &g.shards[hash%uint64(len(g.shards))] }

// claim finds the session of key, or reserves its place: exactly one of two clients that come
// with a new key at the same time gets to dial, the other one waits and then resumes. Of the
// results one is set; ready is closed when it is worth to claim again. The registry keeps a copy
// of key.
func (g *registry) claim(key string) (found *relay, mine *place, ready <-chan struct{}) {
	hash := g.hashKey(key)
	sh := g.of(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r := sh.byKey.find(hash, func(r *relay) bool { return r.key == key }); r != nil {
		r.hold() // byID holds it, too: what is in byKey is there as well
		return r, nil, nil
	}
	if p := sh.pending[key]; p != nil {
		if p.ready == nil {
			p.ready = make(chan struct{})
		}
		return nil, nil, p.ready
	}
	p := &place{key: strings.Clone(key)}
	sh.pending[key] = p
	return nil, p, nil
}

// giveUp frees a reserved place for whoever waits for it.
func (g *registry) giveUp(p *place) {
	sh := g.of(g.hashKey(p.key))
	sh.mu.Lock()
	delete(sh.pending, p.key)
	p.over()
	sh.mu.Unlock()
}

// fill makes r findable by its id and, if a place was reserved for it, by its key.
func (g *registry) fill(p *place, r *relay) {
	sh := g.of(g.hashID(r.id))
	sh.mu.Lock()
	r.hold()
	sh.byID.add(r)
	sh.mu.Unlock()
	if p == nil {
		return
	}
	sh = g.of(g.hashKey(p.key))
	sh.mu.Lock()
	delete(sh.pending, p.key)
	sh.byKey.add(r)
	p.over()
	sh.mu.Unlock()
}

// forget frees r's key. By its id it can still be found, until remove.
func (g *registry) forget(r *relay) {
	if r.key == "" {
		return
	}
	sh := g.of(g.hashKey(r.key))
	sh.mu.Lock()
	sh.byKey.remove(r)
	sh.mu.Unlock()
}

// remove is the end of r, which the caller holds, too.
func (g *registry) remove(r *relay) {
	g.forget(r) // it has been, unless something is wrong; who found r now would find what nobody holds
	sh := g.of(g.hashID(r.id))
	sh.mu.Lock()
	sh.byID.remove(r)
	sh.mu.Unlock()
	r.release()
}

// get finds a session by its id.
func (g *registry) get(id sessionID) *relay {
	hash := g.hashID(id)
	sh := g.of(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r := sh.byID.find(hash, func(r *relay) bool { return r.id == id })
	if r != nil {
		r.hold()
	}
	return r
}

// all yields every session, also those whose legs are still being closed, and holds each until yield returns.
func (g *registry) all(yield func(r *relay) bool) {
	var some []*relay
	more := true
	for i := range g.shards {
		sh := &g.shards[i]
		sh.mu.Lock()
		some = some[:0]
		for r := range sh.byID.all {
			r.hold()
			some = append(some, r)
		}
		sh.mu.Unlock()
		for _, r := range some {
			more = more && yield(r)
			r.release()
		}
		if !more {
			return
		}
	}
}
