package session

import (
	"slices"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/frame"
)

// FuzzSession gives a session any bytes on both legs, in any pieces, with drops, resumes and time
// between them. It must not crash, hold more than its limits, or send anything but frames in an order
// that RFC 6455, section 5.4, allows. (What is in the frames is the peers' business.)
func FuzzSession(f *testing.F) {
	hello := build(1, true, "hello", testKey)
	down := build(1, true, "there", nil)
	f.Add(byte(1), slices.Concat([]byte{0, byte(len(hello))}, hello, []byte{1, byte(len(down))}, down, []byte{2, 3}))
	f.Add(byte(2), slices.Concat([]byte{0, 60}, build(1, true, "\x1e"+`{"type":"ack","received":0}`, testKey), []byte{4, 9, 2, 3}))
	f.Add(byte(0), slices.Concat([]byte{0, 3}, hello[:3], []byte{0, 9}, hello[3:], []byte{5, 1, 4}, down[:4], []byte{2, 1, 9}, down[4:]))
	f.Add(byte(1), slices.Concat([]byte{1, 8}, build(1, false, "\x1ehalf", nil), []byte{2, 3, 1, 6}, build(0, true, "more", nil), []byte{1, 20}, build(8, true, closePayload(1000, "x"), nil)))
	f.Add(byte(5), slices.Concat([]byte{2, 1, 7}, down, []byte{1, 7}, down, []byte{3, 0, 30}, build(8, true, closePayload(1001, "bye"), testKey)))
	f.Fuzz(func(t *testing.T, mode byte, input []byte) {
		cfg := testConfig()
		cfg.MaxBytes, cfg.MaxMessages, cfg.MaxMessageBytes = 100, 3, 500
		cfg.Client, cfg.Upstream = Heartbeat{time.Second, 2}, Heartbeat{time.Second, 2}
		cfg.Overflow = Overflow(mode / 3 % 3)
		cfg.Dedup = newIDs(t, time.Minute)
		z := &fuzzed{t: t, now: Time(time.Hour), legs: map[Leg]*sequence{Upstream: {up: true}}}
		z.s = New(&cfg, Mode(mode%3), 1, 1, z.now)
		z.attach()
		for len(input) > 0 {
			op := input[0]
			input = input[1:]
			switch op % 8 {
			case 0, 1: // bytes of the client, of the upstream
				if len(input) == 0 {
					return
				}
				n := min(int(input[0]), len(input)-1)
				z.bytes(Leg(1-op%8), slices.Clone(input[1:1+n]))
				input = input[1+n:]
			case 2:
				z.s.ClientLost(z.now, z.current, Broken, &z.fx)
				z.execute()
			case 3:
				z.attach()
			case 4:
				z.now += Time(300 * time.Millisecond)
				if at := z.s.Next(); at != 0 && at <= z.now {
					z.s.Advance(z.now, &z.fx)
					z.execute()
				}
			case 5:
				z.s.Blocked(z.current)
			case 6:
				z.s.Writable(z.now, z.current, &z.fx)
				z.execute()
			case 7:
				z.fx.Pressure = !z.fx.Pressure
			}
		}
	})
}

type fuzzed struct {
	t       *testing.T
	s       *Session
	fx      Effects
	now     Time
	current Leg
	legs    map[Leg]*sequence
}

// A sequence reads what a leg is sent, not caring what is in it.
type sequence struct {
	up   bool
	buf  []byte
	data frame.Sequence
	over bool
}

func (z *fuzzed) attach() {
	z.legs[z.s.legs+1] = &sequence{}
	leg, err := z.s.Attach(z.now, Attachment{Nonce: 1}, &z.fx)
	if err != nil {
		z.t.Fatalf("attach: %v", err)
	}
	if leg != 0 {
		z.current = leg
	}
	z.execute()
}

func (z *fuzzed) bytes(leg Leg, b []byte) {
	for len(b) > 0 {
		var n int
		if leg == Upstream {
			n = z.s.UpstreamBytes(z.now, b, &z.fx)
		} else {
			leg = z.current
			n = z.s.ClientBytes(z.now, leg, b, &z.fx)
		}
		z.execute()
		if b = b[n:]; z.s.Paused(leg) {
			return // the rest is lost, which is another thing that may happen
		}
		if n == 0 {
			z.t.Fatal("nothing consumed, and not paused")
		}
	}
}

func (z *fuzzed) execute() {
	for {
		for i := 0; i < len(z.fx.List); i++ {
			e := &z.fx.List[i]
			switch leg := z.legs[e.Leg]; e.Kind {
			case Send:
				z.read(leg, e.Data)
			case Close, Abort:
				leg.over = true
			case Probe:
				z.s.Probed(z.now, e.Leg, 0, false, &z.fx)
			}
		}
		z.s.Executed()
		z.fx.Release()
		// One message alone may pass the window's limit, another may be held on its way up.
		if held := z.s.Held(); held > 4*(500+100+1024) && z.s.mode != Relay {
			z.t.Fatalf("%d bytes held", held)
		}
		if !z.s.More() {
			return
		}
		z.s.Continue(z.now, &z.fx)
	}
}

func (z *fuzzed) read(q *sequence, b []byte) {
	if q.over {
		z.t.Fatal("sent to a leg that is closed")
	}
	q.buf = append(q.buf, b...)
	for {
		h, ok, err := frame.Parse(q.buf)
		if err != nil {
			z.t.Fatalf("sent %x: %v", q.buf, err)
		}
		if !ok || h.Total() > int64(len(q.buf)) {
			return
		}
		if h.Masked != q.up {
			z.t.Fatalf("sent a frame with masked %v, upstream %v", h.Masked, q.up)
		}
		if !h.Control() {
			if _, _, err := q.data.Data(&h); err != nil {
				z.t.Fatalf("sent %x: %v", q.buf, err)
			}
		}
		q.buf = q.buf[h.Total():]
	}
}
