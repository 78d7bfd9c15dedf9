package session

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tideover/tideover/proxy/frame"
)

// readFrames drives a receiver as the session does and returns what it found: headers as they
// were on the wire, payload bytes, and the error that ended it.
func readFrames(t *testing.T, batches [][]byte, fromClient bool, limit int64) (found []string) {
	var r receiver
	var payload []byte
	for _, b := range batches {
		i := 0
		for inFrame := r.remain > 0; ; {
			if inFrame {
				k := int(min(r.remain, int64(len(b)-i)))
				payload = append(payload, b[i:i+k]...)
				i += k
				if r.remain -= int64(k); r.remain > 0 {
					break
				}
				found = append(found, fmt.Sprintf("payload %x fin %v", payload, r.fin))
				payload = nil
			}
			if i == len(b) {
				break
			}
			h, raw, n, ok, err := r.next(b[i:], fromClient)
			if err == nil && !ok {
				break
			}
			var first, last bool
			if err == nil {
				checked := r.check(&h, limit)
				if first, last, err = r.take(&h, limit); !h.Control() && err != checked {
					t.Fatalf("check said %v, take said %v", checked, err)
				}
			}
			if err != nil {
				return append(found, "error "+err.Error())
			}
			found = append(found, fmt.Sprintf("op %d size %d first %v last %v: %x", h.Op, r.size, first, last, raw))
			i += n
			inFrame = !h.Control()
		}
		r.settle()
	}
	if len(payload) > 0 {
		found = append(found, fmt.Sprintf("unfinished payload %x", payload))
	}
	r.release()
	return found
}

// FuzzReceiver cuts a byte stream in every way that the seed says: the frames, and the error at
// the end, must be those of the stream in one piece.
func FuzzReceiver(f *testing.F) {
	frames := bytes.Join([][]byte{
		build(1, true, "hello", testKey), build(2, false, "frag", testKey), build(9, true, "ping", testKey),
		build(0, true, string(make([]byte, 300)), testKey), build(8, true, closePayload(1000, "bye"), testKey),
	}, nil)
	f.Add(frames, uint64(1), true)
	f.Add(build(1, true, string(make([]byte, 70000)), nil), uint64(2), false)
	f.Add([]byte("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x00"), uint64(3), true)
	f.Add([]byte("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"), uint64(4), false)
	f.Add(append(build(9, true, string(make([]byte, 125)), testKey), 0xc1, 0x80), uint64(5), true)
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64, fromClient bool) {
		const limit = 1 << 20
		want := readFrames(t, [][]byte{stream}, fromClient, limit)
		rng := rand.New(rand.NewPCG(seed, 0))
		longest := 1 + rng.IntN(40)
		var batches [][]byte
		for b := stream; len(b) > 0; {
			n := min(1+rng.IntN(longest), len(b))
			batches = append(batches, bytes.Clone(b[:n]))
			b = b[n:]
		}
		if got := readFrames(t, batches, fromClient, limit); !slices.Equal(got, want) {
			t.Fatalf("in %d pieces:\n%q\nin one:\n%q", len(batches), got, want)
		}
	})
}

// Lengths are looked at before anything is kept for them: a header that promises 2^63 bytes
// costs nothing.
func TestHugeLengthCostsNothing(t *testing.T) {
	for _, length := range []string{"\x7f\xff\xff\xff\xff\xff\xff\xff", "\x00\x00\x00\x00\x01\x00\x00\x01"} {
		var r receiver
		b := []byte("\x82\xff" + length + "\x01\x02\x03\x04")
		h, _, _, ok, err := r.next(b, true)
		if !ok || err != nil {
			t.Fatalf("header not read: %v, %v", ok, err)
		}
		if _, _, err := r.take(&h, 16<<20); err != frame.ErrTooBig {
			t.Errorf("a length of %d was answered with %v, want ErrTooBig", h.Len, err)
		}
		if r.stash != nil || r.remain != 0 {
			t.Errorf("kept %d bytes, waits for %d", r.held(), r.remain)
		}
	}
}

// A message may grow past the limit only by fragments, and is refused at the fragment that does.
func TestLimitCountsFragmentsTogether(t *testing.T) {
	r := newRig(t, Keyed, testConfig())
	r.cfg.MaxMessageBytes = 16 // 10 of payload, 6 of the second header
	r.attach(0)
	wantLines(t, "10 bytes", r.fromClient(slices.Concat(build(1, false, "12345", testKey), build(0, true, "67890", testKey))),
		`to upstream: text (unfinished) "12345"`, `to upstream: more "67890"`)
	wantLines(t, "11 bytes", r.fromClient(slices.Concat(build(1, false, "12345", testKey), build(0, true, "678901", testKey))),
		`to client 1: close 1009 "message longer than limits.max_message_bytes"`, "close client 1", "emit away")
}

// Fragments without payload cost memory, too: they count by their headers, either way.
func TestEmptyFragmentsAreLimited(t *testing.T) {
	for _, leg := range []Leg{1, Upstream} {
		r := newRig(t, Keyed, testConfig())
		r.cfg.MaxMessageBytes = 1000
		r.attach(0)
		key := testKey
		if leg == Upstream {
			key = nil
		}
		r.fromLeg(leg, build(1, false, "", key))
		for n := 0; r.open[leg]; n++ {
			if n > 1000 {
				t.Fatalf("%s: %d empty fragments were taken, %d bytes held", legName(leg), n, r.s.Held())
			}
			r.fromLeg(leg, build(0, false, "", key))
		}
		if last := strings.Join(r.log[len(r.log)-4:], "\n"); !strings.Contains(last, "close 1009") {
			t.Errorf("%s was not closed with 1009:\n%s", legName(leg), last)
		}
	}
}
