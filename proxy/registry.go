package proxy

import (
	"hash/maphash"
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
	mu    sync.Mutex
	byKey map[string]*place
	byID  map[string]*relay
}

// A place is where a key's session is, or will be once its upstream has accepted.
type place struct {
	key   string
	ready chan struct{} // closed when relay is set or the place was given up
	relay *relay
}

func newRegistry() *registry {
	g := &registry{seed: maphash.MakeSeed()}
	for i := range g.shards {
		g.shards[i].byKey = make(map[string]*place)
		g.shards[i].byID = make(map[string]*relay)
	}
	return g
}

func (g *registry) shard(s string) *shard {
	return &g.shards[maphash.String(g.seed, s)%uint64(len(g.shards))]
}

// claim finds the session of key, or reserves its place: exactly one of two clients that come
// with a new key at the same time gets to dial, the other one waits and then resumes. Of the
// results one is set; ready is closed when it is worth to claim again.
func (g *registry) claim(key string) (found *relay, mine *place, ready <-chan struct{}) {
	sh := g.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p := sh.byKey[key]
	switch {
	case p == nil:
		p = &place{key: key, ready: make(chan struct{})}
		sh.byKey[key] = p
		return nil, p, nil
	case p.relay != nil:
		return p.relay, nil, nil
	}
	return nil, nil, p.ready
}

// giveUp frees a reserved place for whoever waits for it.
func (g *registry) giveUp(p *place) {
	sh := g.shard(p.key)
	sh.mu.Lock()
	delete(sh.byKey, p.key)
	sh.mu.Unlock()
	close(p.ready)
}

// fill makes r findable by its id and, if a place was reserved for it, by its key.
func (g *registry) fill(p *place, r *relay) {
	sh := g.shard(r.id)
	sh.mu.Lock()
	sh.byID[r.id] = r
	sh.mu.Unlock()
	if p == nil {
		return
	}
	sh = g.shard(p.key)
	sh.mu.Lock()
	p.relay = r
	sh.mu.Unlock()
	close(p.ready)
}

// forget frees r's key. By its id it can still be found, until remove.
func (g *registry) forget(r *relay) {
	if r.key == "" {
		return
	}
	sh := g.shard(r.key)
	sh.mu.Lock()
	if p := sh.byKey[r.key]; p != nil && p.relay == r {
		delete(sh.byKey, r.key)
	}
	sh.mu.Unlock()
}

// remove is the end of r.
func (g *registry) remove(r *relay) {
	sh := g.shard(r.id)
	sh.mu.Lock()
	delete(sh.byID, r.id)
	sh.mu.Unlock()
}

// get finds a session by its id.
func (g *registry) get(id string) *relay {
	sh := g.shard(id)
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
