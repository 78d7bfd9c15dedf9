package proxy

// An index is a hash table of sessions, by whatever hash takes of one. A Go map would keep each key once more
// beside its session, and never become smaller. The zero value with a hash is empty; it is not safe for
// concurrent use. (Linear probing: Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithms L and R.)
type index struct {
	hash  func(r *relay) uint64 // must always give the same for one session
	slots []*relay              // none, or a power of two of which at least a quarter is nil
	n     int
}

const minSlots = 8

// find returns the session with hash that satisfies is, or nil.
func (x *index) find(hash uint64, is func(r *relay) bool) *relay {
	if x.n == 0 {
		return nil
	}
	for i := x.home(hash); ; i = x.after(i) {
		if r := x.slots[i]; r == nil || is(r) {
			return r
		}
	}
}

// add puts r in, which must not be in yet.
func (x *index) add(r *relay) {
	if 4*(x.n+1) > 3*len(x.slots) {
		x.resize(max(minSlots, 2*len(x.slots)))
	}
	x.n++
	x.put(r)
}

// remove takes r out, if it is in.
func (x *index) remove(r *relay) {
	if x.n == 0 {
		return
	}
	gap := x.home(x.hash(r))
	for ; x.slots[gap] != r; gap = x.after(gap) {
		if x.slots[gap] == nil {
			return
		}
	}
	// Whoever stands behind the gap and would not be found any more moves into it.
	for i := x.after(gap); x.slots[i] != nil; i = x.after(i) {
		if home := x.home(x.hash(x.slots[i])); x.distance(home, i) >= x.distance(gap, i) {
			x.slots[gap], gap = x.slots[i], i
		}
	}
	x.slots[gap] = nil
	x.n--
	if len(x.slots) > minSlots && 8*x.n < len(x.slots) {
		x.resize(len(x.slots) / 2)
	}
}

// all yields each session once. The index must not be changed meanwhile.
func (x *index) all(yield func(r *relay) bool) {
	for _, r := range x.slots {
		if r != nil && !yield(r) {
			return
		}
	}
}

func (x *index) resize(slots int) {
	old := x.slots
	x.slots = make([]*relay, slots)
	for _, r := range old {
		if r != nil {
			x.put(r)
		}
	}
}

func (x *index) put(r *relay) {
	i := x.home(x.hash(r))
	for x.slots[i] != nil {
		i = x.after(i)
	}
	x.slots[i] = r
}

// home is where the search for a hash begins. The low bits of a hash choose its shard.
func (x *index) home(hash uint64) int { return int(hash>>32) & (len(x.slots) - 1) }

func (x *index) after(i int) int { return (i + 1) & (len(x.slots) - 1) }

// distance is how far to is behind from, going round.
func (x *index) distance(from, to int) int { return (to - from) & (len(x.slots) - 1) }
