package session

import "github.com/tideover/tideover/proxy/frame"

// A receiver finds the frames in the batches of one leg. Payloads of data frames pass by in
// pieces; headers and control frames are only ever seen whole: what a batch cuts in two
// waits in the stash, at most 139 bytes.
type receiver struct {
	stash  []byte
	remain int64 // payload bytes of the data frame under way that are still to come
	size   int64 // bytes of the message under way so far, its frame under way included, the first header not
	order  frame.Sequence
	op     byte // of the message under way
	fin    bool // the frame under way ends its message
	fresh  bool // no payload byte of the message under way has been seen
	taken  bool // the stash has been consumed; what next returned may still be in use
}

// idle reports whether the leg is between two messages.
func (r *receiver) idle() bool { return r.remain == 0 && !r.order.Open() }

// owes reports whether the leg has stopped in the middle of a frame: its peer owes the rest.
func (r *receiver) owes() bool { return r.remain > 0 || len(r.stash) > 0 }

// next finds the frame that starts at the beginning of b (and of the stash). raw is the header, for
// a control frame the whole frame; n is how many bytes of b it ends after. Nothing is
// consumed until take is called; ok is false while raw is not whole, and then all of b has
// been stashed.
func (r *receiver) next(b []byte, fromClient bool) (h frame.Header, raw []byte, n int, ok bool, err *frame.Error) {
	r.settle()
	if len(r.stash) == 0 {
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
		h, ok, err = frame.Parse(r.stash)
		if ok {
			err = maskedAs(&h, fromClient)
		}
		if err != nil {
			return h, nil, 0, false, err
		}
		want := len(r.stash) + 1
		if ok {
			if want = h.Size; h.Control() {
				want += int(h.Len)
			}
			if want == len(r.stash) {
				return h, r.stash, n, true, nil
			}
		}
		k := min(want-len(r.stash), len(b)-n)
		if k == 0 {
			return h, nil, n, false, nil
		}
		r.keep(b[n : n+k])
		n += k
	}
}

func (r *receiver) keep(b []byte) {
	if len(b) > 0 {
		r.stash = append(growBuffer(r.stash, len(b)), b...)
	}
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
		putBuffer(r.stash)
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
