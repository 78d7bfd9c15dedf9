package proxy

import (
	"hash/maphash"
	"strings"
	"sync"
)

// A registry finds sessions: by key, and by id (for tokens and the API). It is
// sharded so that a storm of reconnects does not queue up at one lock. Its locks are
// leaves: nothing else is locked while one is held.
type registry struct {
	seed   maphash.Seed
	shards [32]shard
}

type shard struct {
	mu      sync.Mutex
	byKey   map[string]*relay
	pending map[string]*place
	byID    map[sessionID]*relay
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
		g.shards[i].byKey = make(map[string]*relay)
		g.shards[i].pending = make(map[string]*place)
		g.shards[i].byID = make(map[sessionID]*relay)
	}
	return g
}

func (g *registry) ofKey(key string) *shard {
	return &g.shards[maphash.String(g.seed, key)%uint64(len(g.shards))]
}

// ofID takes what a client made up as well as what is random.
func (g *registry) ofID(id sessionID) *shard {
	return &g.shards[maphash.Bytes(g.seed, id[:])%uint64(len(g.shards))]
}

// claim finds the session of key, or reserves its place: exactly one of two clients that come
// with a new key at the same time gets to dial, the other one waits and then resumes. Of the
// results one is set; ready is closed when it is worth to claim again. The registry keeps a copy
// of key.
func (g *registry) claim(key string) (found *relay, mine *place, ready <-chan struct{}) {
	sh := g.ofKey(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r := sh.byKey[key]; r != nil {
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
	sh := g.ofKey(p.key)
	sh.mu.Lock()
	delete(sh.pending, p.key)
	p.over()
	sh.mu.Unlock()
}

// fill makes r findable by its id and, if a place was reserved for it, by its key.
func (g *registry) fill(p *place, r *relay) {
	sh := g.ofID(r.id)
	sh.mu.Lock()
	sh.byID[r.id] = r
	sh.mu.Unlock()
	if p == nil {
		return
	}
	sh = g.ofKey(p.key)
	sh.mu.Lock()
	delete(sh.pending, p.key)
	sh.byKey[p.key] = r
	p.over()
	sh.mu.Unlock()
}

// forget frees r's key. By its id it can still be found, until remove.
func (g *registry) forget(r *relay) {
	if r.key == "" {
		return
	}
	sh := g.ofKey(r.key)
	sh.mu.Lock()
	if sh.byKey[r.key] == r {
		delete(sh.byKey, r.key)
	}
	sh.mu.Unlock()
}

// remove is the end of r.
func (g *registry) remove(r *relay) {
	sh := g.ofID(r.id)
	sh.mu.Lock()
	delete(sh.byID, r.id)
	sh.mu.Unlock()
}

// get finds a session by its id.
func (g *registry) get(id sessionID) *relay {
	sh := g.ofID(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.byID[id]
}

// all returns every session, also those whose legs are still being closed.
func (g *registry) all() []*relay {
	var all []*relay
	for i := range g.shards {
		sh := &g.shards[i]
		sh.mu.Lock()
		for _, r := range sh.byID {
			all = append(all, r)
		}
		sh.mu.Unlock()
	}
	return all
}
