package session

import (
	"sync"

	"github.com/tideover/tideover/proxy/frame"
)

// A receiver finds the frames in the batches of one leg. Payloads of data frames pass by in
// pieces; headers and control frames are only ever seen whole: what a batch cuts in two
// waits in the stash.
type receiver struct {
	stash  *stash // nil: empty
	remain int64  // payload bytes of the data frame under way that are still to come
	size   int64  // bytes of the message under way so far, its frame under way included, the first header not
	order  frame.Sequence
	op     byte // of the message under way
	fin    bool // the frame under way ends its message
	fresh  bool // no payload byte of the message under way has been seen
	taken  bool // the stash has been consumed; what next returned may still be in use
}

// A stash holds the beginning of a header or of a control frame; the longest of these is
// a masked control frame with 125 bytes.
type stash struct {
	n int
	b [2 + 4 + 125]byte
}

var stashes = sync.Pool{New: func() any { return new(stash) }}

func (s *stash) bytes() []byte { return s.b[:s.n] }

// held is the memory of r's own, in bytes.
func (r *receiver) held() int {
	if r.stash == nil {
		return 0
	}
	return len(r.stash.b)
}

// idle reports whether the leg is between two messages.
func (r *receiver) idle() bool { return r.remain == 0 && !r.order.Open() }

// owes reports whether the leg has stopped in the middle of a frame: its peer owes the rest.
func (r *receiver) owes() bool { return r.remain > 0 || r.stash != nil }

// next finds the frame that starts at the beginning of b (and of the stash). raw is the header, for
// a control frame the whole frame; n is how many bytes of b it ends after. Nothing is
// consumed until take is called; ok is false while raw is not whole, and then all of b has
// been stashed.
func (r *receiver) next(b []byte, fromClient bool) (h frame.Header, raw []byte, n int, ok bool, err *frame.Error) {
	r.settle()
	if r.stash == nil {
		h, ok, err = frame.Parse(b)
		if ok {
			err = maskedAs(&h, fromClient)
			if n = h.Size; h.Control() {
				n += int(h.Len)
			}
		}
		if err != nil {
			return h, nil, 0, false, err
		}
		if ok && n <= len(b) {
			return h, b[:n], n, true, nil
		}
		r.keep(b)
		return h, nil, 0, false, nil
	}
	for {
		h, ok, err = frame.Parse(r.stash.bytes())
		if ok {
			err = maskedAs(&h, fromClient)
		}
		if err != nil {
			return h, nil, 0, false, err
		}
		want := r.stash.n + 1
		if ok {
			if want = h.Size; h.Control() {
				want += int(h.Len)
			}
			if want == r.stash.n {
				return h, r.stash.bytes(), n, true, nil
			}
		}
		k := min(want-r.stash.n, len(b)-n)
		if k == 0 {
			return h, nil, n, false, nil
		}
		r.keep(b[n : n+k])
		n += k
	}
}

func (r *receiver) keep(b []byte) {
	if len(b) == 0 {
		return
	}
	if r.stash == nil {
		r.stash = stashes.Get().(*stash)
	}
	r.stash.n += copy(r.stash.b[r.stash.n:], b)
}

// check tells whether take would refuse the data frame.
func (r *receiver) check(h *frame.Header, limit int64) *frame.Error {
	order := r.order
	first, _, err := order.Data(h)
	if err == nil && h.Len > limit-r.before(h, first) {
		err = frame.ErrTooBig
	}
	return err
}

// before is how many bytes of h's message count before its payload. The headers of fragments do: a
// message of a million empty ones must not be free.
func (r *receiver) before(h *frame.Header, first bool) int64 {
	if first {
		return 0
	}
	return r.size + int64(h.Size)
}

// take consumes the frame that next found and, for a data frame, counts it.
func (r *receiver) take(h *frame.Header, limit int64) (first, last bool, err *frame.Error) {
	r.taken = true
	if h.Control() {
		return false, false, nil
	}
	if err = r.check(h, limit); err != nil {
		return false, false, err
	}
	if first, last, _ = r.order.Data(h); first {
		r.op, r.fresh = h.Op, true
	}
	r.size = r.before(h, first) + h.Len
	r.remain, r.fin = h.Len, h.Fin
	return first, last, nil
}

// settle gives the stash back once what it held has been consumed and used.
func (r *receiver) settle() {
	if r.taken {
		r.taken = false
		r.release()
	}
}

func (r *receiver) release() {
	if r.stash != nil {
		r.stash.n = 0
		stashes.Put(r.stash)
		r.stash = nil
	}
}

func maskedAs(h *frame.Header, fromClient bool) *frame.Error {
	if h.Masked == fromClient {
		return nil
	}
	if fromClient {
		return frame.ErrNotMasked
	}
	return frame.ErrMasked
}
