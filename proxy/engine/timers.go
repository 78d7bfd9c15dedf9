package engine

// A timer is something that becomes due. Its fields belong to whoever guards the heap that it
// is in; the zero value is in none.
type timer struct {
	owner interface{ due() } // due is called by the heap's owner when the time has come
	index int32              // in the heap, counted from 1; 0 while it is not there
}

// timers is a heap of timers, the next due first. Four children a node: they fill one cache
// line, and a path to the root is half as long as in a binary heap.
type timers []timed

type timed struct {
	at int64 // on the clock of the heap's owner
	t  *timer
}

// next is when the first timer is due.
func (h timers) next() (at int64, ok bool) {
	if len(h) == 0 {
		return 0, false
	}
	return h[0].at, true
}

// set puts t into the heap, or moves it there.
func (h *timers) set(t *timer, at int64) {
	if t.index == 0 {
		*h = append(*h, timed{})
		t.index = int32(len(*h))
	}
	h.place(int(t.index)-1, timed{at, t})
}

// remove takes t out, if it is in.
func (h *timers) remove(t *timer) {
	if t.index == 0 {
		return
	}
	hole, end := int(t.index)-1, len(*h)-1
	last := (*h)[end]
	(*h)[end] = timed{}
	*h = (*h)[:end]
	t.index = 0
	if last.t != t {
		h.place(hole, last)
	}
}

// pop takes out the first timer if it is due.
func (h *timers) pop(now int64) *timer {
	if len(*h) == 0 || (*h)[0].at > now {
		return nil
	}
	t := (*h)[0].t
	h.remove(t)
	return t
}

// place puts x into the hole at i, and moves the hole to where x belongs first.
func (h timers) place(i int, x timed) {
	for i > 0 {
		parent := (i - 1) / 4
		if h[parent].at <= x.at {
			break
		}
		h.put(i, h[parent])
		i = parent
	}
	for {
		least, at := -1, x.at
		for child := 4*i + 1; child < min(4*i+5, len(h)); child++ {
			if h[child].at < at {
				least, at = child, h[child].at
			}
		}
		if least < 0 {
			break
		}
		h.put(i, h[least])
		i = least
	}
	h.put(i, x)
}

func (h timers) put(i int, x timed) {
	h[i] = x
	x.t.index = int32(i + 1)
}
