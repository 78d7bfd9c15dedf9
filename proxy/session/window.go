package session

import "github.com/tideover/tideover/proxy/frame"

// A window keeps downstream messages until the client has received them: one run of
// unmasked frames as they go out, in one buffer, and counters. Message boundaries are not
// recorded: they are read again from the frame headers when messages leave.
//
// Messages count from 1. The window holds the messages base+1 … complete, and perhaps the
// beginning of the next. It is the one place where downstream messages are counted.
type window struct {
	buf  []byte // live bytes are buf[head:]
	head int
	last int // where, in live bytes, the incomplete message begins; len() if there is none

	base     uint64 // messages that have left: received, or given up as a gap
	complete uint64 // messages that have arrived whole

	// What the current leg has been handed.
	sent     int    // live bytes
	sentMsgs uint64 // whole messages, counted as base and complete are
	high     uint64 // the highest sentMsgs that any leg saw
	txRemain int64  // bytes of the frame under way that are still to be handed
	txFin    bool   // that frame ends its message
	txOpen   bool   // between the frames of a fragmented message, or inside one

	lent bool // effects that are not executed yet refer to buf: it must neither change nor be reused
}

func (w *window) len() int         { return len(w.buf) - w.head }
func (w *window) live() []byte     { return w.buf[w.head:] }
func (w *window) unsent() bool     { return w.sent < w.len() }
func (w *window) messages() int    { return int(w.complete - w.base) }
func (w *window) partial() bool    { return w.last < w.len() }
func (w *window) held() int        { return cap(w.buf) }
func (w *window) atFrame() bool    { return w.txRemain == 0 }
func (w *window) atMessage() bool  { return w.txRemain == 0 && !w.txOpen }
func (w *window) unreceived() bool { return w.sentMsgs > w.base }

// add appends frame bytes; a message is whole only after end.
func (w *window) add(p []byte) {
	w.reserve(len(p))
	w.buf = append(w.buf, p...)
}

// reserve makes room for n more bytes.
func (w *window) reserve(n int) {
	need := len(w.buf) + n
	switch {
	case need <= cap(w.buf):
	case !w.lent && w.head > 0 && need-w.head <= cap(w.buf)-cap(w.buf)/4:
		// A quarter is free at the front: moving is cheaper than a larger buffer, and as
		// at least a quarter must be consumed between two moves, it stays O(1) a byte.
		w.buf = w.buf[:copy(w.buf, w.live())]
		w.head = 0
	default:
		// Half as much again, so that a window which only turns over comes to move instead.
		g := append(getBuffer(w.len()+max(n, w.len()/2)), w.live()...)
		w.put()
		w.buf, w.head = g, 0
	}
}

// end tells that what was added since the last end is a whole message.
func (w *window) end() {
	w.complete++
	w.last = w.len()
}

// rewind forgets what was handed to a leg: the next one begins with message base+1.
func (w *window) rewind() {
	w.sent, w.sentMsgs = 0, w.base
	w.txRemain, w.txFin, w.txOpen = 0, false, false
}

// next returns what a leg should be handed next, at most limit bytes of it, and counts it
// as handed. The slice is valid until the effects have been executed.
func (w *window) next(limit int) []byte {
	from, live := w.sent, w.live()
	end := min(len(live), from+limit)
	if end == len(live) && w.last == end {
		// All of it, and all of it whole: what the headers would tell is known.
		w.sent, w.sentMsgs, w.high = end, w.complete, max(w.high, w.complete)
		w.txRemain, w.txOpen = 0, false
	}
	for w.sent < end {
		if w.txRemain == 0 {
			// Headers enter the window whole.
			h, _, _ := frame.Parse(live[w.sent:])
			if end < len(live) && w.sent > from && h.Total() > int64(end-w.sent) {
				break // a leg with a backlog had better stand between two frames: a Close can follow there
			}
			w.txRemain, w.txFin, w.txOpen = h.Total(), h.Fin, true
		}
		n := min(w.txRemain, int64(end-w.sent))
		w.sent += int(n)
		if w.txRemain -= n; w.txRemain == 0 && w.txFin {
			w.txOpen = false
			w.sentMsgs++
			w.high = max(w.high, w.sentMsgs)
		}
	}
	w.lent = w.lent || w.sent > from
	return live[from:w.sent:w.sent]
}

// trim lets the messages up to number n go. What was handed to the current leg stays counted.
func (w *window) trim(n uint64) {
	live, at := w.live(), 0
	for ; w.base < min(n, w.complete); w.base++ {
		at += messageLen(live[at:])
	}
	w.drop(at)
	w.sentMsgs = max(w.sentMsgs, w.base)
}

// trimSent lets every byte that was handed to the leg go (relaying without grace).
func (w *window) trimSent() {
	w.base = w.sentMsgs
	w.drop(w.sent)
}

// dropPartial removes the incomplete message at the end, which nobody can complete any more.
func (w *window) dropPartial() {
	if w.sent > w.last {
		w.sent = w.last
	}
	w.buf = w.buf[:w.head+w.last]
	w.drop(0)
}

// addWhole appends n whole messages.
func (w *window) addWhole(p []byte, n int) {
	w.add(p)
	w.complete += uint64(n)
	w.last = w.len()
}

// skip counts a message that arrived but is not kept, after everything before it has left.
func (w *window) skip() {
	w.complete++
	w.base = w.complete
	w.sentMsgs = w.base
}

func (w *window) drop(n int) {
	w.head += n
	w.sent = max(0, w.sent-n)
	w.last = max(0, w.last-n)
	if w.len() == 0 {
		w.put()
		w.head, w.last = 0, 0
	}
}

// put gives the buffer back; one that effects refer to is left to the garbage collector.
func (w *window) put() {
	if w.buf != nil && !w.lent {
		putBuffer(w.buf)
	}
	w.buf, w.lent = nil, false
}

func (w *window) clear() {
	w.last = w.len()
	w.drop(w.len())
	w.base = w.complete
	w.sentMsgs = w.base
}

// messageLen is the length in bytes of the whole message at the start of b.
func messageLen(b []byte) int {
	if n := frame.Message(b, false); n > 0 {
		return n
	}
	at := 0
	for {
		h, _, _ := frame.Parse(b[at:])
		at += int(h.Total())
		if h.Fin {
			return at
		}
	}
}
