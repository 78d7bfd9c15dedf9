package faults

import (
	"fmt"
	"math/rand"
	"strconv"
	"strings"
	"sync"
)

// frameCases are all the ways in which a client can put frames together, right and wrong.
var frameCases = concat(lengthCases(), fragmentCases(), controlCases(), closeCases(), utf8Cases(), violationCases())

func concat(lists ...[]frameCase) (all []frameCase) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

func one(name, send string, messages ...string) frameCase {
	return frameCase{name: name, send: send, messages: messages}
}

// filler is n bytes of text, 2 MiB at most, that is no repetition of a short piece. It is made once: a crowd that
// makes its own is slower than what it is to test.
func filler(n int) string { return numbers()[:n] }

var numbers = sync.OnceValue(func() string {
	var b []byte
	for i := int64(0); len(b) < 2<<20; i++ {
		b = append(strconv.AppendInt(b, i, 10), ',')
	}
	return string(b)
})

// Payload lengths and their encodings (5.2), masks (5.3).
func lengthCases() (all []frameCase) {
	for _, n := range []int{0, 1, 2, 124, 125, 126, 127, 128, 255, 4096, 65535, 65536, 65537, 300_000} {
		p := filler(n)
		all = append(all,
			one(fmt.Sprintf("text of %d bytes", n), masked(fin|text, p), "text: "+p),
			one(fmt.Sprintf("binary of %d bytes", n), masked(fin|binaryOp, p), "binary: "+p))
	}
	all = append(all, one("2 MiB, more than the window", masked(fin|binaryOp, filler(2<<20)), "binary: "+filler(2<<20)))
	// Longer encodings than necessary: 5.2 forbids them, no server here minds, and so the proxy lets them pass.
	for n, bits := range map[int][]int{0: {16, 64}, 5: {16, 64}, 125: {16, 64}, 126: {64}, 65535: {64}} {
		for _, b := range bits {
			all = append(all, one(fmt.Sprintf("%d bytes, length in %d bits", n, b), build(fin|text, someMask, filler(n), b), "text: "+filler(n)))
		}
	}
	for _, mask := range []string{"\x00\x00\x00\x00", "\xff\xff\xff\xff", "\x00\x00\x00\x01", "\x81\x85\x37\xfa"} {
		p := filler(133)
		all = append(all, one(fmt.Sprintf("masked with %x", mask), build(fin|text, mask, p, 0), "text: "+p))
	}
	many := frameCase{name: "200 messages in one packet"}
	for i := range 200 {
		p := fmt.Sprintf("message %d", i)
		many.send += build(fin|text, string([]byte{byte(i), byte(3 * i), byte(5 * i), byte(7 * i)}), p, 0)
		many.messages = append(many.messages, "text: "+p)
	}
	all = append(all, many,
		one("text and binary in turn", masked(fin|text, "a")+masked(fin|binaryOp, "b")+masked(fin|text, "c"), "text: a", "binary: b", "text: c"),
		one("what looks like JSON with an id", masked(fin|text, `{"id":1}`)+masked(fin|binaryOp, `{"id":1}`), `text: {"id":1}`, `binary: {"id":1}`),
		one("binary that begins like a control message", masked(fin|binaryOp, "\x1e{"), "binary: \x1e{"),
	)
	return all
}

// Fragmentation (5.4).
func fragmentCases() []frameCase {
	bytewise := func(op byte, p string) (frames string) {
		for i := range len(p) {
			first := byte(continuation)
			if i == 0 {
				first = op
			}
			if i == len(p)-1 {
				first |= fin
			}
			frames += masked(first, p[i:i+1])
		}
		return frames
	}
	return []frameCase{
		one("two fragments", masked(text, "frag")+masked(fin|continuation, "ment"), "text: fragment"),
		one("three fragments, binary", masked(binaryOp, "a")+masked(continuation, "b")+masked(fin|continuation, "c"), "binary: abc"),
		one("empty fragment first", masked(text, "")+masked(fin|continuation, "late"), "text: late"),
		one("empty fragment in the middle", masked(text, "a")+masked(continuation, "")+masked(fin|continuation, "b"), "text: ab"),
		one("empty fragment last", masked(text, "early")+masked(fin|continuation, ""), "text: early"),
		one("nothing but empty fragments", masked(text, "")+masked(continuation, "")+masked(fin|continuation, ""), "text: "),
		one("a fragment for each octet", bytewise(text, filler(100)), "text: "+filler(100)),
		one("two fragmented messages", masked(text, "a")+masked(fin|continuation, "b")+masked(binaryOp, "c")+masked(fin|continuation, "d"), "text: ab", "binary: cd"),
		one("whole, fragmented, whole", masked(fin|text, "1")+masked(text, "2")+masked(fin|continuation, "3")+masked(fin|text, "4"), "text: 1", "text: 23", "text: 4"),
		one("large fragments", masked(binaryOp, filler(70_000))+masked(continuation, filler(126))+masked(fin|continuation, filler(70_000)), "binary: "+filler(70_000)+filler(126)+filler(70_000)),
		one("a character cut by fragments", masked(text, "Gr\xc3")+masked(continuation, "\xbc\xc3")+masked(fin|continuation, "\x9fe"), "text: Grüße"),
		one("four bytes of one character", bytewise(text, "\U0001f30a"), "text: \U0001f30a"),
	}
}

// Ping and pong (5.5.2, 5.5.3), also between fragments.
func controlCases() []frameCase {
	random := make([]byte, 125)
	rand.New(rand.NewSource(1)).Read(random)
	p125 := string(random)
	ten := frameCase{name: "ten pings in one packet"}
	for i := range 10 {
		p := string(random[i : 11*i+1])
		ten.send += masked(fin|ping, p)
		ten.pongs = append(ten.pongs, p)
	}
	c := func(name, send string, pongs []string, messages ...string) frameCase {
		return frameCase{name: name, send: send, pongs: pongs, messages: messages}
	}
	return []frameCase{
		ten,
		c("ping without payload", masked(fin|ping, ""), []string{""}),
		c("ping of 125 random bytes", masked(fin|ping, p125), []string{p125}),
		c("ping of zeros", masked(fin|ping, strings.Repeat("\x00", 16)), []string{strings.Repeat("\x00", 16)}),
		c("ping of 16 random bytes, as long as the proxy's own", masked(fin|ping, p125[:16]), []string{p125[:16]}),
		c("ping that is not UTF-8", masked(fin|ping, "\xff\xfe\x80"), []string{"\xff\xfe\x80"}),
		c("pong that nobody asked for", masked(fin|pong, "")+masked(fin|pong, p125)+masked(fin|text, "a"), nil, "text: a"),
		c("pong of 16 bytes, as long as the proxy's own", masked(fin|pong, p125[:16])+masked(fin|text, "a"), nil, "text: a"),
		c("ping between messages", masked(fin|text, "a")+masked(fin|ping, "p")+masked(fin|text, "b"), []string{"p"}, "text: a", "text: b"),
		c("ping between fragments", masked(text, "a")+masked(fin|ping, "p")+masked(fin|continuation, "b"), []string{"p"}, "text: ab"),
		c("pings and pongs between all fragments", masked(text, "a")+masked(fin|ping, "1")+masked(fin|pong, "x")+masked(continuation, "b")+
			masked(fin|ping, "2")+masked(fin|ping, "3")+masked(fin|continuation, "c")+masked(fin|ping, "4"), []string{"1", "2", "3", "4"}, "text: abc"),
		c("ping within a character", masked(text, "\xc3")+masked(fin|ping, "p")+masked(fin|continuation, "\xbc"), []string{"p"}, "text: ü"),
		c("ping after an empty first fragment", masked(text, "")+masked(fin|ping, "p")+masked(fin|continuation, "b"), []string{"p"}, "text: b"),
	}
}

// The closing handshake (5.5.1, 7.1, 7.4): a code that may be sent comes back, any other is an error.
func closeCases() (all []frameCase) {
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4409, 4999} {
		for _, reason := range []string{"", "Grüße ✓", strings.Repeat("r", 123)} {
			c := frameCase{name: fmt.Sprintf("close with %d and a reason of %d bytes", code, len(reason)), close: code}
			c.send = masked(fin|closeOp, closePayload(code, reason))
			if code == 1014 {
				c.deviations = map[string]deviation{gorilla: {close: 1002, why: "does not know 1014, which the IANA registry has added"}}
			}
			all = append(all, c)
		}
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535} {
		all = append(all, frameCase{name: fmt.Sprintf("close with %d, which must not be sent", code), close: 1002,
			send: masked(fin|closeOp, closePayload(code, ""))})
	}
	return append(all,
		frameCase{name: "close without payload", send: masked(fin|closeOp, ""), close: 1005},
		frameCase{name: "close with half a code", send: masked(fin|closeOp, "\x03"), close: 1002,
			deviations: map[string]deviation{gorilla: {close: 1005, why: "takes one byte for none"}}},
		frameCase{name: "close with a reason that is not UTF-8", send: masked(fin|closeOp, closePayload(1000, "\xff\xfe")), close: 1007,
			deviations: map[string]deviation{gorilla: {close: 1002, why: "has one code for all mistakes in frames"}}},
		frameCase{name: "close with a reason that is cut within a character", send: masked(fin|closeOp, closePayload(1000, "Gr\xc3")), close: 1007,
			deviations: map[string]deviation{gorilla: {close: 1002, why: "has one code for all mistakes in frames"}}},
		frameCase{name: "frames after the close", send: masked(fin|closeOp, closePayload(1000, "")) + masked(fin|text, "a") + masked(fin|ping, "b"), close: 1000},
		frameCase{name: "a second close", send: masked(fin|closeOp, closePayload(4000, "")) + masked(fin|closeOp, closePayload(4001, "")), close: 4000},
		frameCase{name: "close between fragments", send: masked(text, "a") + masked(fin|closeOp, closePayload(1000, "")), close: 1000},
	)
}

// Text that is not UTF-8 (8.1): the proxy passes it on, and it is the backend that closes with 1007.
func utf8Cases() (all []frameCase) {
	for name, p := range map[string]string{
		"ends of the ranges": "\x00\x7f\u0080\u07ff\u0800\ufffd\U00010000\U0010ffff", "byte order mark": "\ufeffa", "no characters": "\ufffe\uffff\U0001fffe",
		"next to the surrogates": "\ud7ff\ue000",
	} {
		all = append(all, one("UTF-8: "+name, masked(fin|text, p), "text: "+p))
	}
	for name, p := range map[string]string{
		"continuation byte alone": "a\x80", "bytes that never occur": "\xfe", "cut at the end": "Gr\xc3", "overlong slash": "\xc0\xaf", "overlong zero": "\xe0\x80\x80",
		"surrogate": "\xed\xa0\x80", "pair of surrogates": "\xed\xa0\xbd\xed\xb8\x80", "beyond the last plane": "\xf4\x90\x80\x80", "five bytes": "\xf8\x88\x80\x80\x80",
		"in the middle": "good\xffbad",
	} {
		bad := frameCase{name: "not UTF-8: " + name, send: masked(fin|text, p), close: 1007}
		half := len(p) / 2
		fragments := frameCase{name: bad.name + ", in fragments", send: masked(text, p[:half]) + masked(continuation, "") + masked(fin|continuation, p[half:]), close: 1007}
		all = append(all, bad, fragments, one("binary that is not UTF-8: "+name, masked(fin|binaryOp, p), "binary: "+p))
	}
	return all
}

// What no client may send.
func violationCases() (all []frameCase) {
	add := func(name, send string) {
		all = append(all, frameCase{name: name, send: send, close: 1002})
	}
	for bit := byte(0x10); bit <= 0x40; bit <<= 1 {
		for _, op := range []byte{text, ping, closeOp} {
			add(fmt.Sprintf("reserved bit %#x on opcode %#x", bit, op), masked(fin|bit|op, "\x03\xe8"))
		}
		add(fmt.Sprintf("reserved bit %#x on a continuation", bit), masked(text, "a")+masked(fin|bit|continuation, "b"))
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		add(fmt.Sprintf("opcode %#x", op), masked(fin|op, "x"))
		add(fmt.Sprintf("opcode %#x between fragments", op), masked(text, "a")+masked(fin|op, ""))
	}
	for _, op := range []byte{ping, pong, closeOp} {
		add(fmt.Sprintf("control frame %#x of 126 bytes", op), masked(fin|op, "\x03\xe8"+filler(124)))
		add(fmt.Sprintf("control frame %#x with a length of 64 bits", op), build(fin|op, someMask, filler(200), 64))
		add(fmt.Sprintf("control frame %#x in fragments", op), masked(op, "\x03\xe8")+masked(fin|continuation, "a"))
	}
	add("continuation without a start", masked(fin|continuation, "a"))
	add("continuation without a start or an end", masked(continuation, "a"))
	add("message within a message", masked(text, "a")+masked(fin|text, "b"))
	add("binary within a text", masked(text, "a")+masked(fin|binaryOp, "b"))
	add("start within a message", masked(text, "a")+masked(text, "b"))
	add("frame without a mask", plain(fin|text, "a"))
	add("ping without a mask", plain(fin|ping, "a"))
	add("close without a mask", plain(fin|closeOp, "\x03\xe8"))
	return append(all, frameCase{name: "length with its top bit set", send: "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x05" + someMask + "abcde", close: 1002,
		deviations: map[string]deviation{gorilla: {close: noClose, why: "hangs up without a Close"}, npm: {close: 1009, why: "sees a length over its limit"}}})
}
