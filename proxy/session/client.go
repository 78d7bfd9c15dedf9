package session

import (
	"slices"

	"github.com/tideover/tideover/proxy/dedup"
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/resume"
)

// errCrowded refuses half a message while there is no memory for it.
var errCrowded = &frame.Error{Code: frame.CodeTryAgainLater, Reason: "all buffers together are over limits.max_buffer_bytes"}

// holdUnderPressure is how much of an unfinished message is held all the same, in bytes.
const holdUnderPressure = 64 << 10

// ClientBytes takes what a client leg sent and returns how much of it was consumed. The rest, if
// any, is to be handed over again: at once, or after Resume if the leg is paused. b may be
// changed in place; effects refer to it.
func (s *Session) ClientBytes(now Time, leg Leg, b []byte, fx *Effects) (consumed int) {
	if leg != s.client.id || leg == 0 {
		return len(b) // a superseded leg has nothing to say
	}
	s.client.beat.heard = true
	if s.mode == Relay {
		consumed = s.cutThrough(now, b, fx)
	} else {
		consumed = s.messagesUp(now, b, fx)
	}
	s.client.rx.settle()
	s.finish(now, fx)
	return consumed
}

// cutThrough forwards frames as they come, parts of frames too, and keeps control frames.
func (s *Session) cutThrough(now Time, b []byte, fx *Effects) int {
	r := &s.client.rx
	i, start := 0, 0
	for inFrame := r.remain > 0; ; {
		if inFrame {
			k := int(min(r.remain, int64(len(b)-i)))
			i += k
			if r.remain -= int64(k); r.remain > 0 {
				break
			}
			if inFrame = false; r.fin {
				s.Stats.Up++
			}
		}
		if i == len(b) {
			break
		}
		h, raw, n, ok, err := r.next(b[i:], true)
		if err == nil && !ok {
			break
		}
		if err == nil {
			_, _, err = r.take(&h, s.cfg.MaxMessageBytes)
		}
		if err != nil {
			s.upward(b[start:i], fx)
			s.violated(now, err, fx)
			return len(b)
		}
		if h.Control() {
			s.upward(b[start:i], fx)
			i += n
			start = i
			if s.clientControl(now, &h, raw, fx); s.client.id == 0 {
				return len(b)
			}
			continue
		}
		if n != len(raw) { // the header began in an earlier batch
			s.upward(b[start:i], fx)
			s.upward(fx.copied(raw), fx)
			start = i + n
		}
		i += n
		inFrame = true
	}
	s.upward(b[start:i], fx)
	return len(b)
}

func (s *Session) upward(b []byte, fx *Effects) {
	s.Stats.UpBytes += uint64(len(b))
	if !s.up.ended && !s.up.closing {
		fx.send(Upstream, b)
	}
}

// messagesUp forwards whole messages only: half a message can't be taken back when its
// client drops. Those that lie whole in b go as they are, neighbours in one piece; the
// beginning of one that is not whole yet goes into hold.
func (s *Session) messagesUp(now Time, b []byte, fx *Effects) int {
	r := &s.client.rx
	run := run{fx: fx}
	i := 0
	from := 0         // b[from:i] is the part of the message under way that is not in hold
	held := !r.idle() // its beginning is in hold
	inFrame := r.remain > 0
	for {
		if inFrame {
			k := int(min(r.remain, int64(len(b)-i)))
			i += k
			if r.remain -= int64(k); r.remain > 0 {
				break
			}
			inFrame = false
			if r.fin {
				msg := b[from:i]
				if held {
					s.holdBack(msg)
					msg = s.hold
				}
				if !s.message(now, msg, held, from, i, &run, b) {
					return len(b)
				}
				held, from = false, i
				if len(fx.marks) >= maxMarks {
					run.flush(b)
					return i
				}
			}
		}
		if !held && r.stash == nil {
			if n := s.wholeUp(b, i, &run); n > 0 {
				i += n
				from = i
			}
		}
		if i == len(b) {
			break
		}
		h, raw, n, ok, err := r.next(b[i:], true)
		if err == nil && !ok {
			break // the rest of b is stashed
		}
		var first bool
		if err == nil {
			first, _, err = r.take(&h, s.cfg.MaxMessageBytes)
		}
		if err != nil {
			run.flush(b)
			s.violated(now, err, fx)
			return len(b)
		}
		switch {
		case h.Control():
			if !r.idle() { // between the fragments of a message
				s.holdBack(b[from:i])
				held = true
			}
			i += n
			from = i
			if h.Op == frame.Close {
				run.flush(b)
			}
			if s.clientControl(now, &h, raw, fx); s.client.id == 0 {
				return len(b)
			}
			continue
		case n != len(raw): // the header began in an earlier batch
			s.holdBack(raw)
			held = true
			i += n
			from = i
		default:
			if first {
				from = i
			}
			i += n
		}
		inFrame = true
	}
	run.flush(b)
	if !r.idle() {
		s.holdBack(b[from:i])
		if fx.Pressure && len(s.hold) > holdUnderPressure {
			s.violated(now, errCrowded, fx)
		}
	}
	return len(b)
}

// wholeUp adds to the run the messages at b[from:], for as long as they are of the plainest kind and nobody wants to see what is
// in them, and returns their length.
func (s *Session) wholeUp(b []byte, from int, run *run) int {
	if !s.client.rx.idle() || s.up.ended || s.up.closing {
		return 0
	}
	seen := s.cfg.Dedup != nil || s.mode == Counted // text is
	end, n := from, 0
	for {
		k := frame.Message(b[end:], true)
		if k == 0 || int64(k) > s.cfg.MaxMessageBytes || seen && b[end]&0x0f == frame.Text {
			break
		}
		end += k
		n++
	}
	if n > 0 {
		s.received += uint64(n)
		s.Stats.Up += uint64(n)
		s.Stats.UpBytes += uint64(end - from)
		if k := s.client.counted; k != nil {
			k.unacked += end - from
		}
		run.extend(b, from, end)
	}
	return end - from
}

func (s *Session) holdBack(p []byte) {
	if len(p) == 0 {
		return
	}
	n := len(p)
	// Once a fifth of a frame has come there is room for all of it at once: growing by doubling would copy it twice. A
	// header alone buys no memory. (A fifth, so that of 1 MiB the first read, a quarter less its header, is enough.)
	if rest := s.client.rx.remain; rest <= 4*int64(len(s.hold)+n) {
		n += int(rest)
	}
	s.hold = append(growBuffer(s.hold, n), p...)
}

// A run is a stretch of a batch that goes upstream in one piece, and the ids in it.
type run struct {
	fx         *Effects
	start, end int
	marked     int // fx.marks before this one are effects already
}

// flush sends the run; its ids count as seen after that.
func (r *run) flush(b []byte) {
	r.fx.send(Upstream, b[r.start:r.end])
	r.start = r.end
	for ; r.marked < len(r.fx.marks); r.marked++ {
		r.fx.add(Mark, Upstream).ID = r.fx.marks[r.marked]
	}
}

// extend adds b[from:to] to the run, or begins a new one.
func (r *run) extend(b []byte, from, to int) {
	if r.end != from {
		r.flush(b)
		r.start = from
	}
	r.end = to
}

// message decides what becomes of a whole client message: b[from:to], or hold. It returns false
// when that ended the leg.
func (s *Session) message(now Time, msg []byte, held bool, from, to int, run *run, b []byte) bool {
	fx := run.fx
	if held { // msg lives until the effects are done
		fx.spent = append(fx.spent, s.hold)
		s.hold = nil
	}
	text := s.client.rx.op == frame.Text
	escaped := false
	if s.mode == Counted && text {
		start, n := firstBytes(msg)
		if n > 0 && start[0] == resume.Escape {
			if escaped = n > 1 && start[1] == resume.Escape; !escaped {
				run.flush(b)
				return s.control(now, msg, fx)
			}
		}
	}
	if s.up.ended || s.up.closing {
		return true // nobody is left to take it; the client is being told
	}
	s.received++
	s.Stats.Up++
	s.Stats.UpBytes += uint64(len(msg))
	if k := s.client.counted; k != nil {
		k.unacked += len(msg)
	}

	var id dedup.ID
	found := false
	if text && s.cfg.Dedup != nil {
		fx.plain = appendPayload(fx.plain[:0], msg)
		json := fx.plain
		if escaped {
			json = json[1:]
		}
		if id, found = s.cfg.Dedup.Find(json); found && (fx.marked(id) || s.cfg.Dedup.Seen(s.number, id, now)) {
			s.Stats.Duplicates++
			return true
		}
	}
	switch {
	case escaped:
		run.flush(b)
		sendUnescaped(msg, fx)
	case held:
		run.flush(b)
		fx.send(Upstream, msg)
	default:
		run.extend(b, from, to)
	}
	if found {
		fx.marks = append(fx.marks, id)
		if held || escaped {
			run.flush(b)
		}
	}
	return true
}

// control takes a control message of a tideover.v1 client.
func (s *Session) control(now Time, msg []byte, fx *Effects) bool {
	fx.plain = appendPayload(fx.plain[:0], msg)
	kind, n, err := resume.Parse(fx.plain[1:])
	switch {
	case err != nil:
		s.violated(now, &frame.Error{Code: frame.CodeProtocolError, Reason: err.Error()}, fx)
	case kind == resume.Ack && n > s.win.sentMsgs:
		s.violated(now, errAck, fx)
	case kind == resume.Ack:
		s.receipt(n)
	case kind == resume.Ping:
		s.client.counted.pongDue = true
	}
	return s.client.id != 0
}

var errAck = &frame.Error{Code: frame.CodeProtocolError, Reason: "acknowledgement of messages that were never sent"}

// clientControl takes a control frame of the client; raw is the whole frame.
func (s *Session) clientControl(now Time, h *frame.Header, raw []byte, fx *Effects) {
	p := raw[h.Size:]
	frame.Mask(p, h.Mask, 0)
	switch h.Op {
	case frame.Ping:
		s.client.replies.set(queueReply(s.client.replies.bytes(), p, s.client.blocked, nil))
	case frame.Pong:
		s.ponged(p)
	case frame.Close:
		s.clientClosed(now, p, fx)
	}
}

// queueReply adds the pong for a ping with payload p. Once they pile up, only the latest is kept.
func queueReply(q, p []byte, blocked bool, mask *[4]byte) []byte {
	if blocked || len(q) > maxReplies {
		q = q[:0]
	}
	return frame.Append(q, frame.Pong, p, mask)
}

// clientClosed takes the client's Close frame.
func (s *Session) clientClosed(now Time, p []byte, fx *Effects) {
	code, reason, err := frame.ParseClose(p)
	if err != nil {
		s.violated(now, err, fx)
		return
	}
	if s.client.closing { // the answer to ours: everything before it has been received
		fx.do(Close, s.client.id)
		s.forgetLeg(fx)
		s.leave(now, s.up.end, fx)
		return
	}
	text := string(reason)
	ends := s.mode == Relay || slices.Contains(s.cfg.EndOnClose, code) || s.refuses(code)
	s.dismiss(code, text, fx)
	if !ends {
		s.drop(now, CleanDrop, fx)
		return
	}
	s.Stats.Losses[CleanDrop]++
	s.leave(now, ClientClosed, fx)
	s.sayGoodbye(now, code, text, fx)
}

// refuses takes a Close code for what it says of the messages that wait for a receipt. It reports whether the client has closed
// for their sake before: one of them it can't take (a text that is not UTF-8, say), and it would get that again for ever.
func (s *Session) refuses(code uint16) bool {
	switch code {
	case frame.CodeProtocolError, frame.CodeUnsupported, frame.CodeInvalidData, frame.CodeTooBig: // RFC 6455, section 7.4.1
	default:
		return false
	}
	if !s.win.unreceived() {
		return false
	}
	again := s.refused
	s.refused = true
	return again
}

// violated closes the client leg with the code for what it did wrong. The session goes on.
func (s *Session) violated(now Time, err *frame.Error, fx *Effects) {
	s.dismiss(err.Code, err.Reason, fx)
	s.drop(now, Violation, fx)
}

// firstBytes returns the first two payload bytes of a masked message, and how many there are.
func firstBytes(msg []byte) (b [2]byte, n int) {
	for at := 0; at < len(msg) && n < 2; {
		h, _, _ := frame.Parse(msg[at:])
		p := msg[at+h.Size:]
		for k := 0; int64(k) < h.Len && n < 2; k++ {
			b[n] = p[k] ^ h.Mask[k&3]
			n++
		}
		at += int(h.Total())
	}
	return b, n
}

// appendPayload appends the unmasked payload of a whole masked message.
func appendPayload(dst, msg []byte) []byte {
	for at := 0; at < len(msg); {
		h, _, _ := frame.Parse(msg[at:])
		from := len(dst)
		dst = append(dst, msg[at+h.Size:at+int(h.Total())]...)
		frame.Mask(dst[from:], h.Mask, 0)
		at += int(h.Total())
	}
	return dst
}

// sendUnescaped sends a message without its first payload byte. The rest need not be masked
// anew: without the first byte, the masking key begins with its second.
func sendUnescaped(msg []byte, fx *Effects) {
	at := 0
	for {
		h, _, _ := frame.Parse(msg[at:])
		if h.Len == 0 { // an empty fragment before the first byte
			at += h.Size
			continue
		}
		m := [4]byte{h.Mask[1], h.Mask[2], h.Mask[3], h.Mask[0]}
		fx.send(Upstream, msg[:at])
		fx.sendNew(Upstream, func(dst []byte) []byte { return frame.AppendHeader(dst, h.Fin, h.Op, h.Len-1, &m) })
		fx.send(Upstream, msg[at+h.Size+1:])
		return
	}
}
