package session

import (
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/resume"
)

// UpstreamBytes takes what the upstream sent and returns how much of it was consumed. The
// rest, if any, is to be handed over again after Resume. b is not referred to by effects.
func (s *Session) UpstreamBytes(now Time, b []byte, fx *Effects) (consumed int) {
	if s.up.ended {
		return len(b)
	}
	s.up.beat.heard = true
	consumed = s.arrive(now, b, fx)
	s.up.rx.settle()
	s.finish(now, fx)
	return consumed
}

// arrive puts data frames into the window, the one place where downstream messages are
// counted, and stops in front of a frame for which there is no room.
func (s *Session) arrive(now Time, b []byte, fx *Effects) int {
	r := &s.up.rx
	i := 0
	for inFrame := r.remain > 0; ; {
		if inFrame {
			if s.mode == Relay && r.remain > 0 && !s.room(now, 0, false, fx) {
				return i // an empty frame ends with its header: nothing would come back to it
			}
			k := int(min(r.remain, int64(len(b)-i)))
			s.keep(b[i : i+k])
			i += k
			if r.remain -= int64(k); r.remain > 0 {
				return i
			}
			if inFrame = false; r.fin {
				s.arrived()
			}
		}
		stashed := r.stash != nil && !r.taken
		if !stashed {
			if i += s.wholeDown(b[i:], fx); i == len(b) {
				return i
			}
		}
		h, raw, n, ok, err := r.next(b[i:], false)
		if err == nil && !ok {
			return len(b)
		}
		if err == nil && h.Control() {
			_, _, _ = r.take(&h, 0)
			i += n
			if s.upstreamControl(now, &h, raw[h.Size:], fx); s.up.ended {
				return len(b)
			}
			continue
		}
		if err == nil {
			err = r.check(&h, s.cfg.MaxMessageBytes)
		}
		if err == nil {
			first := h.Op != frame.Continuation
			escape := false
			if s.mode == Counted && h.Len > 0 && (h.Op == frame.Text || !first && r.op == frame.Text && r.fresh) {
				// The first byte of a text message decides whether an escape goes before it.
				if i+n == len(b) {
					if !stashed {
						r.keep(b[i:])
					}
					return len(b)
				}
				escape = b[i+n] == resume.Escape
			}
			if !s.room(now, int(min(h.Total(), s.cfg.MaxMessageBytes))+1, first, fx) {
				if stashed {
					i += n
				}
				return i
			}
			_, _, _ = r.take(&h, s.cfg.MaxMessageBytes)
			if h.Len >= largeFrame && s.mode != Relay && s.state != StateLeft && !s.up.skip {
				// It grows once, and not with each piece; by no more than what max_bytes allows for anyway.
				s.win.reserve(int(min(h.Total(), int64(2*s.cfg.MaxBytes))))
			}
			s.keepHeader(&h, raw, escape)
			r.fresh = r.fresh && h.Len == 0
			i += n
			inFrame = true
			continue
		}
		s.upstreamFault(now, err, fx)
		return len(b)
	}
}

// wholeDown puts the messages that b begins with into the window, for as long as they are of the plainest kind and there
// certainly is room, and returns their length: most messages are, and need none of what arrive sees to.
func (s *Session) wholeDown(b []byte, fx *Effects) int {
	if !s.up.rx.idle() || s.mode != Keyed || s.state != StateAttached || fx.Pressure {
		return 0
	}
	messages := s.cfg.MaxMessages - s.win.messages()
	bytes := min(len(b), s.cfg.MaxBytes-s.win.len()-1)
	end, n := 0, 0
	for n < messages {
		k := frame.Message(b[end:], false)
		if k == 0 || end+k > bytes || int64(k) > s.cfg.MaxMessageBytes {
			break
		}
		end += k
		n++
	}
	if n > 0 {
		s.up.stalled = false
		s.Stats.Down += uint64(n)
		s.Stats.DownBytes += uint64(end)
		s.win.addWhole(b[:end], n)
	}
	return end
}

// keepHeader puts a data frame's header into the window, with an escape behind it where its
// payload would else be taken for a control message.
func (s *Session) keepHeader(h *frame.Header, raw []byte, escape bool) {
	if !escape {
		s.keep(raw)
		return
	}
	var b [frame.MaxHeader + 1]byte
	s.keep(append(frame.AppendHeader(b[:0], h.Fin, h.Op, h.Len+1, nil), resume.Escape))
}

func (s *Session) keep(p []byte) {
	if s.state == StateLeft || s.up.skip {
		return
	}
	s.Stats.DownBytes += uint64(len(p))
	s.win.add(p)
}

// arrived counts a downstream message that is whole now.
func (s *Session) arrived() {
	switch {
	case s.state == StateLeft:
		s.up.skip = false
	case s.up.skip:
		s.up.skip = false
		s.Stats.Dropped++
		s.win.skip()
		if s.mode == Counted && s.client.id != 0 { // it came back meanwhile
			s.client.counted.gap = s.win.base
		}
	default:
		s.Stats.Down++
		s.win.end()
	}
}

// room reports whether the window can take a frame of size bytes, the first of its message or
// not. For an away session it makes room as replay.overflow says.
func (s *Session) room(now Time, size int, first bool, fx *Effects) bool {
	w := &s.win
	switch {
	case s.state == StateLeft, s.up.skip:
		return true
	case s.mode == Relay:
		unsent := w.len() - w.sent
		return !s.stall(unsent >= transitBytes || fx.Pressure && unsent > 0, size, first)
	}
	fits := w.len()+size <= s.cfg.MaxBytes && (!first || w.messages() < s.cfg.MaxMessages)
	if s.state != StateAway {
		// A message that nothing else is in the way of passes alone, however large.
		return !s.stall(w.messages() > 0 && (!fits || fx.Pressure), size, first)
	}
	switch s.cfg.Overflow {
	case OverflowPause:
		return !s.stall(!fits, size, first)
	case OverflowDropOldest:
		for !fits && w.messages() > 0 {
			w.trim(w.base + 1)
			s.Stats.Dropped++
			fits = w.len()+size <= s.cfg.MaxBytes && (!first || w.messages() < s.cfg.MaxMessages)
		}
		if !fits { // larger than the window by itself
			w.dropPartial()
			s.up.skip = true
		}
	default:
		if !fits {
			s.end(now, WindowOverflow, frame.CodeTryAgainLater, frame.CodeTryAgainLater, "replay window full while the client was away", fx)
		}
	}
	s.up.stalled = false
	return true
}

func (s *Session) stall(full bool, size int, first bool) bool {
	s.up.stalled, s.up.need, s.up.first = full, size, first
	return full
}

// upstreamControl takes a control frame of the upstream.
func (s *Session) upstreamControl(now Time, h *frame.Header, p []byte, fx *Effects) {
	switch h.Op {
	case frame.Ping:
		mask := s.maskKey()
		s.up.replies.set(queueReply(s.up.replies.bytes(), p, s.up.blocked, &mask))
	case frame.Close:
		code, reason, err := frame.ParseClose(p)
		if err != nil {
			s.upstreamFault(now, err, fx)
			return
		}
		if s.up.closing { // the answer to ours
			s.closeUpstream(fx)
			return
		}
		s.up.closeMsg.set(frame.AppendClose(nil, code, string(reason), nil))
		s.closeUpstreamWith(code, string(reason), fx)
		s.upstreamEnded(now, UpstreamClosed, fx)
	}
}

// closeUpstreamWith closes the upstream leg with a Close frame, if one can be put there.
func (s *Session) closeUpstreamWith(code uint16, reason string, fx *Effects) {
	if s.upAtFrame() && !s.up.closing {
		mask := s.maskKey()
		fx.sendNew(Upstream, func(dst []byte) []byte { return frame.AppendClose(dst, code, reason, &mask) })
	}
	s.closeUpstream(fx)
}

// upstreamFault ends an upstream leg that broke the protocol.
func (s *Session) upstreamFault(now Time, err *frame.Error, fx *Effects) {
	s.closeUpstreamWith(err.Code, err.Reason, fx)
	s.up.closeMsg.set(frame.AppendClose(nil, frame.CodeInternalError, "upstream: "+err.Reason, nil))
	s.upstreamEnded(now, UpstreamFault, fx)
}

// UpstreamLost tells that the upstream leg is over.
func (s *Session) UpstreamLost(now Time, fx *Effects) {
	if s.up.gone {
		return
	}
	s.up.gone = true
	s.upstreamBroke(now, fx)
	s.finish(now, fx)
}

// upstreamBroke is the end of an upstream that did not say goodbye.
func (s *Session) upstreamBroke(now Time, fx *Effects) {
	s.closeUpstream(fx)
	if s.mode == Counted {
		// Without a Close its client would try to resume what can't be resumed.
		s.up.closeMsg.set(frame.AppendClose(nil, frame.CodeInternalError, "upstream connection lost", nil))
	}
	s.upstreamEnded(now, UpstreamLost, fx)
}

// upstreamEnded is what every end of the upstream leads to: the client gets what is in the
// window, then the Close; one that is away gets it if it comes back within the grace.
func (s *Session) upstreamEnded(now Time, why Reason, fx *Effects) {
	u := &s.up
	u.ended, u.end, u.stalled, u.skip = true, why, false, false
	u.replies, u.closeAt = box{}, 0
	switch s.state {
	case StateLeft:
		return
	case StateFresh:
		s.leave(now, why, fx)
		return
	}
	s.win.dropPartial()
	if s.state == StateAway && u.closeMsg.empty() && s.win.len() == 0 {
		s.leave(now, why, fx) // there is nothing left to tell
	}
}
