package frame

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// Headers that peers may send, and what they say (RFC 6455; the examples of section 5.7 are
// among them).
func TestParse(t *testing.T) {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	for _, c := range []struct {
		section string
		b       string
		want    Header
	}{
		{"5.7 unmasked text", "\x81\x05Hello", Header{Len: 5, Size: 2, Op: Text, Fin: true}},
		{"5.7 masked text", "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Header{Len: 5, Size: 6, Op: Text, Fin: true, Masked: true, Mask: key}},
		{"5.7 first fragment", "\x01\x03Hel", Header{Len: 3, Size: 2, Op: Text}},
		{"5.7 last fragment", "\x80\x02lo", Header{Len: 2, Size: 2, Op: Continuation, Fin: true}},
		{"5.7 ping", "\x89\x05Hello", Header{Len: 5, Size: 2, Op: Ping, Fin: true}},
		{"5.7 masked pong", "\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Header{Len: 5, Size: 6, Op: Pong, Fin: true, Masked: true, Mask: key}},
		{"5.7 256 bytes of binary", "\x82\x7e\x01\x00", Header{Len: 256, Size: 4, Op: Binary, Fin: true}},
		{"5.7 64 KiB of binary", "\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", Header{Len: 65536, Size: 10, Op: Binary, Fin: true}},
		{"5.2 longest length", "\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", Header{Len: 1<<63 - 1, Size: 10, Op: Binary, Fin: true}},
		{"5.2 longest header", "\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00\x37\xfa\x21\x3d", Header{Len: 65536, Size: MaxHeader, Op: Binary, Fin: true, Masked: true, Mask: key}},
		{"5.2 length longer than need be", "\x82\x7e\x00\x05", Header{Len: 5, Size: 4, Op: Binary, Fin: true}},
		{"5.2 empty", "\x81\x00", Header{Size: 2, Op: Text, Fin: true}},
		{"5.5 longest control frame", "\x89\x7d", Header{Len: 125, Size: 2, Op: Ping, Fin: true}},
		{"5.5.1 empty close", "\x88\x00", Header{Size: 2, Op: Close, Fin: true}},
	} {
		h, ok, err := Parse([]byte(c.b))
		if !ok || err != nil || h != c.want {
			t.Errorf("%s: got %+v, whole %v, error %v; want %+v", c.section, h, ok, err, c.want)
		}
		for n := range c.want.Size {
			if _, ok, err := Parse([]byte(c.b[:n])); ok || err != nil {
				t.Errorf("%s: its first %d bytes: whole %v, error %v; want neither", c.section, n, ok, err)
			}
		}
	}
}

// Message and Parse must not differ: whatever Message takes is what Parse makes of it, and it takes all that is plain.
func TestMessageIsWhatParseSays(t *testing.T) {
	mask := [4]byte{1, 2, 3, 4}
	taken := 0
	for _, b0 := range []byte{0x80 | Text, 0x80 | Binary, 0x80, Text, 0xc0 | Text, 0x80 | Close, 0x80 | Ping, 0x83, 0} {
		for _, size := range []int{0, 1, 125, 126, 127, 128, 255, 256, 65535, 65536} {
			for _, m := range []*[4]byte{nil, &mask} {
				b := append(AppendHeader(nil, true, 0, int64(size), m), make([]byte, size+3)...)
				b[0] = b0
				for _, n := range []int{0, 1, 2, 3, 5, 6, 8, len(b) - 4, len(b) - 3, len(b)} {
					for _, masked := range []bool{false, true} {
						p := b[:min(max(n, 0), len(b))]
						h, ok, err := Parse(p)
						want := 0
						if plain := b0 == 0x80|Text || b0 == 0x80|Binary; ok && err == nil && plain && h.Masked == masked && h.Len < 1<<16 && h.Total() <= int64(len(p)) {
							want = int(h.Total())
							taken++
						}
						if got := Message(p, masked); got != want {
							t.Fatalf("% x… of %d bytes, masked %v: %d, want %d", p[:min(len(p), 8)], len(p), masked, got, want)
						}
					}
				}
			}
		}
	}
	if taken < 50 {
		t.Errorf("only %d messages were to be taken", taken)
	}
	shortened := []byte{0x80 | Binary, 126, 0, 1, 'x'} // not in the fewest bytes
	if got := Message(shortened, false); got != len(shortened) {
		t.Errorf("a length that is longer than need be: %d, want %d", got, len(shortened))
	}
}

// Headers that no peer may send, each refused as soon as the bytes that are wrong are there.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		section string
		b       string
		want    *Error
	}{
		{"5.2 RSV1", "\xc1\x00", ErrReservedBits},
		{"5.2 RSV2", "\xa1\x00", ErrReservedBits},
		{"5.2 RSV3", "\x91\x00", ErrReservedBits},
		{"5.2 opcode 3", "\x83\x00", ErrOpcode},
		{"5.2 opcode 7", "\x87\x00", ErrOpcode},
		{"5.2 opcode 11", "\x8b\x00", ErrOpcode},
		{"5.2 opcode 15", "\x8f\x00", ErrOpcode},
		{"5.2 length with its top bit", "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", ErrLength},
		{"5.2 largest number as length", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", ErrLength},
		{"5.5 ping of 126 bytes", "\x89\x7e", ErrControlTooLong},
		{"5.5 pong of 64 KiB", "\x8a\x7f", ErrControlTooLong},
		{"5.5 masked close of 126 bytes", "\x88\xfe", ErrControlTooLong},
		{"5.5 fragmented ping", "\x09\x00", ErrControlFragment},
		{"5.5 fragmented close", "\x08\x00", ErrControlFragment},
	} {
		if _, ok, err := Parse([]byte(c.b)); ok || err != c.want {
			t.Errorf("%s: whole %v, error %v; want %v", c.section, ok, err, c.want)
		}
		if c.want.Code != CodeProtocolError {
			t.Errorf("%s: closed with %d, want 1002 (7.4.1)", c.section, c.want.Code)
		}
	}
}

func TestAppendHeaderIsShortest(t *testing.T) {
	for _, c := range []struct {
		length int64
		size   int
	}{{0, 2}, {1, 2}, {125, 2}, {126, 4}, {65535, 4}, {65536, 10}, {1 << 40, 10}} {
		for _, mask := range []*[4]byte{nil, {1, 2, 3, 4}} {
			size := c.size
			if mask != nil {
				size += 4
			}
			b := AppendHeader([]byte("before"), true, Binary, c.length, mask)
			if len(b)-len("before") != size {
				t.Errorf("header for %d bytes, masked %v: %d bytes, want %d", c.length, mask != nil, len(b)-len("before"), size)
			}
			h, ok, err := Parse(b[len("before"):])
			if !ok || err != nil || h.Len != c.length || h.Size != size || h.Masked != (mask != nil) {
				t.Errorf("header for %d bytes reads back as %+v, whole %v, error %v", c.length, h, ok, err)
			}
		}
	}
}

// Mask against the formula of RFC 6455, section 5.3, at every offset and every length
// that word-wise code could get wrong.
func TestMask(t *testing.T) {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	const guard = 0xEE
	for length := range 100 {
		for align := range 9 {
			for offset := range 9 {
				b := bytes.Repeat([]byte{guard}, align+length+9)
				p := b[align : align+length]
				want := make([]byte, length)
				for i := range p {
					p[i] = byte(i * 7)
					want[i] = p[i] ^ key[(offset+i)%4]
				}
				if Mask(p, key, offset); !bytes.Equal(p, want) {
					t.Fatalf("length %d, alignment %d, offset %d: got %x, want %x", length, align, offset, p, want)
				}
				if bytes.Count(b, []byte{guard})-bytes.Count(p, []byte{guard}) != align+9 {
					t.Fatalf("length %d, alignment %d, offset %d: wrote outside its slice", length, align, offset)
				}
			}
		}
	}
}

func TestAppendLeavesThePayloadAlone(t *testing.T) {
	payload := []byte("payload that stays")
	mask := [4]byte{1, 2, 3, 4}
	b := Append(nil, Text, payload, &mask)
	if string(payload) != "payload that stays" {
		t.Errorf("payload was changed to %q", payload)
	}
	h, _, _ := Parse(b)
	Mask(b[h.Size:], h.Mask, 0)
	if !bytes.Equal(b[h.Size:], payload) {
		t.Errorf("unmasked again it is %q", b[h.Size:])
	}
}

func TestClose(t *testing.T) {
	b := AppendClose(nil, CodeNoStatus, "not said", nil)
	if !bytes.Equal(b, []byte{0x88, 0}) {
		t.Errorf("Close without a code is %x, want an empty one", b)
	}
	for _, reason := range []string{"", "bye", strings.Repeat("x", 123), strings.Repeat("x", 300),
		strings.Repeat("é", 62), "x" + strings.Repeat("é", 62), strings.Repeat("語", 42), strings.Repeat("😀", 40), "x" + strings.Repeat("😀", 40)} {
		b := AppendClose(nil, 1001, reason, nil)
		h, ok, err := Parse(b)
		if !ok || err != nil {
			t.Errorf("Close with %d bytes of reason: %v", len(reason), err)
			continue
		}
		code, got, err := ParseClose(b[h.Size:])
		if code != 1001 || err != nil || !strings.HasPrefix(reason, string(got)) {
			t.Errorf("Close with reason %q reads back as %d %q, %v", reason, code, got, err)
		}
		if cut := len(reason) - len(got); cut > 0 && len(got)+utf8.UTFMax <= MaxControlPayload-2 {
			t.Errorf("%d bytes were cut from a reason of %d, more than need be", cut, len(reason))
		}
	}
	for _, c := range []struct {
		section string
		p       string
		code    uint16
		err     *Error
	}{
		{"5.5.1 empty", "", CodeNoStatus, nil},
		{"5.5.1 code only", "\x03\xe8", 1000, nil},
		{"5.5.1 one byte", "\x03", 0, ErrCloseLength},
		{"5.5.1 reason not UTF-8", "\x03\xe8\xc3", 0, ErrCloseReason},
		{"7.4.1 reserved 1005", "\x03\xed", 0, ErrCloseCode},
		{"7.4.2 unused 999", "\x03\xe7", 0, ErrCloseCode},
		{"7.4.2 private 4999", "\x13\x87ok", 4999, nil},
		{"7.4.2 beyond 4999", "\x13\x88", 0, ErrCloseCode},
	} {
		if code, _, err := ParseClose([]byte(c.p)); code != c.code || err != c.err {
			t.Errorf("%s: got %d, %v; want %d, %v", c.section, code, err, c.code, c.err)
		}
	}
}

func TestValidCode(t *testing.T) {
	valid := map[uint16]bool{}
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014} {
		valid[code] = true
	}
	for n := range 1 << 16 {
		code := uint16(n)
		if want := valid[code] || code >= 3000 && code <= 4999; ValidCode(code) != want {
			t.Errorf("code %d is valid: %v, want %v", code, !want, want)
		}
	}
}

// Every order of three data frames, judged by the grammar of section 5.4.
func TestSequence(t *testing.T) {
	type kind struct {
		name string
		h    Header
	}
	kinds := []kind{
		{"whole", Header{Op: Text, Fin: true}}, {"first", Header{Op: Binary}},
		{"middle", Header{Op: Continuation}}, {"last", Header{Op: Continuation, Fin: true}},
	}
	for n := range 4 * 4 * 4 {
		var s Sequence
		open, name := false, ""
		for _, k := range []int{n % 4, n / 4 % 4, n / 16} {
			name += " " + kinds[k].name
			first, last, err := s.Data(&kinds[k].h)
			starts := k <= 1
			var want *Error
			if starts && open {
				want = ErrInterleaved
			} else if !starts && !open {
				want = ErrContinuation
			}
			if err != want {
				t.Errorf("%s: error %v, want %v", name, err, want)
			}
			if err != nil {
				break
			}
			open = k == 1 || k == 2
			if first != starts || last != !open || s.Open() != open {
				t.Errorf("%s: first %v, last %v, open %v; want %v, %v, %v", name, first, last, s.Open(), starts, !open, open)
			}
		}
	}
}

// FuzzParse takes any bytes: a header that is accepted must say what its bytes say, need
// exactly the bytes that it claims, and be no longer than its shortest spelling allows.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "\x81", "\x81\x05Hello", "\x01\x83abcd", "\x82\x7e\x00\x05", "\x82\xfe\x01\x00key!",
		"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00", "\x89\x7e", "\x08\x00", "\xf0\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok, err := Parse(b)
		for _, masked := range []bool{false, true} {
			want := 0
			if ok && h.Fin && (h.Op == Text || h.Op == Binary) && h.Masked == masked && b[1]&0x7f != 127 && h.Total() <= int64(len(b)) {
				want = int(h.Total())
			}
			if got := Message(b, masked); got != want {
				t.Fatalf("masked %v: a message of %d bytes, want %d", masked, got, want)
			}
		}
		if ok && err != nil {
			t.Fatalf("whole and wrong (%v) at once", err)
		}
		if !ok {
			if err == nil && len(b) >= MaxHeader {
				t.Fatalf("%d bytes and still no whole header", len(b))
			}
			return
		}
		if h.Len < 0 || h.Size < 2 || h.Size > min(len(b), MaxHeader) || h.Total() < 0 && h.Len < 1<<62 {
			t.Fatalf("impossible header %+v", h)
		}
		if h.Control() && (h.Len > MaxControlPayload || !h.Fin) {
			t.Fatalf("control frame %+v let through", h)
		}
		if again, ok, err := Parse(b[:h.Size]); !ok || err != nil || again != h {
			t.Fatalf("from its own bytes only it is %+v, %v, %v", again, ok, err)
		}
		if _, ok, err := Parse(b[:h.Size-1]); ok || err != nil {
			t.Fatalf("one byte less: whole %v, error %v", ok, err)
		}
		var mask *[4]byte
		if h.Masked {
			mask = &h.Mask
		}
		short := AppendHeader(nil, h.Fin, h.Op, h.Len, mask)
		if len(short) > h.Size || len(short) == h.Size && !bytes.Equal(short, b[:h.Size]) {
			t.Fatalf("%x is written as %x", b[:h.Size], short)
		}
		again, _, _ := Parse(short)
		again.Size = h.Size
		if again != h {
			t.Fatalf("%+v written and read is %+v", h, again)
		}
	})
}

// FuzzRoundTrip writes a frame and reads it back.
func FuzzRoundTrip(f *testing.F) {
	f.Add(byte(1), []byte("Hello"), uint32(0x37fa213d), true)
	f.Add(byte(9), []byte(""), uint32(0), false)
	f.Add(byte(2), bytes.Repeat([]byte("x"), 70000), uint32(1), true)
	f.Fuzz(func(t *testing.T, op byte, payload []byte, key uint32, masked bool) {
		op &= 0xf
		if op > Pong || op > Binary && op < Close || op >= Close && len(payload) > MaxControlPayload {
			t.Skip()
		}
		var mask *[4]byte
		if masked {
			mask = &[4]byte{byte(key >> 24), byte(key >> 16), byte(key >> 8), byte(key)}
		}
		b := Append(nil, op, payload, mask)
		h, ok, err := Parse(b)
		if !ok || err != nil || h.Op != op || !h.Fin || h.Masked != masked || h.Total() != int64(len(b)) {
			t.Fatalf("reads back as %+v, %v, %v", h, ok, err)
		}
		p := b[h.Size:]
		if masked {
			Mask(p, h.Mask, 0)
		}
		if !bytes.Equal(p, payload) {
			t.Fatalf("payload %x reads back as %x", payload, p)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	h := AppendHeader(nil, true, Text, 300, &[4]byte{1, 2, 3, 4})
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, _ := Parse(h); !ok {
			b.Fatal("not whole")
		}
	}
}

func BenchmarkMask(b *testing.B) {
	for _, n := range []int{16, 128, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Mask(p, [4]byte{1, 2, 3, 4}, 1)
			}
		})
	}
}
