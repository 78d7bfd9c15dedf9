package session

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRelayedBothWays(t *testing.T) {
	for _, mode := range []Mode{Relay, Keyed, Counted} {
		r := newRig(t, mode, testConfig())
		r.attach(0)
		r.say("up 1", "up 2")
		r.hear("down 1", "down 2", "down 3")
		r.say("up 3")
		wantTexts(t, "upstream", r.texts(Upstream), "up 1", "up 2", "up 3")
		got := r.texts(1)
		if mode == Counted {
			if len(got) == 0 || !strings.HasPrefix(got[0], "\x1e"+`{"type":"welcome"`) {
				t.Fatalf("first message to a tideover.v1 client is %q, want a welcome", got)
			}
			got = got[1:]
		}
		wantTexts(t, "client", got, "down 1", "down 2", "down 3")
	}
}

// Upstream frames must arrive with the mask that the client chose, bit for bit.
func TestClientFramesGoVerbatim(t *testing.T) {
	r := newRig(t, Keyed, testConfig())
	r.attach(0)
	var b, sent []byte
	for i := range 5 {
		b = append(b, build(2, true, strings.Repeat("x", i*70), []byte{byte(i), 2, 3, 4})...)
	}
	want := bytes.Clone(b)
	r.s.ClientBytes(r.now, 1, b, &r.fx)
	sends := 0
	for _, e := range r.fx.List {
		if e.Kind == Send {
			sends++
			sent = append(sent, e.Data...)
		}
	}
	r.run()
	if !bytes.Equal(sent, want) {
		t.Error("frames were changed on their way upstream")
	}
	if sends != 1 {
		t.Errorf("five neighbouring messages took %d sends, want 1", sends)
	}
}

// The same conversation, however the network cuts it: at every byte and in one piece.
func TestAnySplitGivesTheSame(t *testing.T) {
	up := bytes.Join([][]byte{
		build(1, true, "whole", testKey),
		build(1, false, "frag", testKey),
		build(9, true, "ping inside", testKey),
		build(0, false, "", testKey),
		build(0, true, "ment", []byte{9, 8, 7, 6}),
		build(2, true, strings.Repeat("large ", 60), testKey),
		build(1, true, "", testKey),
		build(10, true, "unasked pong", testKey),
		build(1, true, "last", testKey),
	}, nil)
	down := bytes.Join([][]byte{
		build(1, true, "whole", nil),
		build(1, false, "", nil),
		build(9, true, "ping inside", nil),
		build(0, false, "\x1efrag", nil),
		build(0, true, "ment", nil),
		build(2, true, "\x1e"+strings.Repeat("large ", 60), nil),
		build(1, true, "", nil),
		build(1, true, "\x1elast", nil),
	}, nil)
	for _, mode := range []Mode{Relay, Keyed, Counted} {
		var want string
		for _, step := range []int{1, 2, 3, 5, 7, 13, 64, 1000, 0} {
			r := newRig(t, mode, testConfig())
			r.attach(0)
			for _, dir := range []struct {
				leg Leg
				b   []byte
			}{{1, up}, {Upstream, down}} {
				for b := bytes.Clone(dir.b); len(b) > 0; {
					n := len(b)
					if step > 0 {
						n = min(step, n)
					}
					r.fromLeg(dir.leg, b[:n])
					b = b[n:]
				}
			}
			got := fmt.Sprintf("up %q\ndown %q", r.texts(Upstream), r.texts(1))
			if want == "" {
				want = got
				wantTexts(t, "upstream", r.texts(Upstream), "whole", "fragment", strings.Repeat("large ", 60), "", "last")
				escape := ""
				down := r.texts(1)
				if mode == Counted {
					escape = "\x1e"
					down = down[1:]
				}
				wantTexts(t, "client", down, "whole", escape+"\x1efragment", "\x1e"+strings.Repeat("large ", 60), "", escape+"\x1elast")
			}
			if got != want {
				t.Errorf("mode %d, %d bytes at a time:\n got %s\nwant %s", mode, step, got, want)
			}
			if held := r.s.Held(); mode == Relay && held != 0 {
				t.Errorf("an idle relayed session holds %d bytes", held)
			}
		}
	}
}

func TestDropAndResume(t *testing.T) {
	r := newRig(t, Keyed, testConfig())
	r.attach(0)
	r.hear("1", "2", "3")
	r.receipts()
	r.hear("4", "5")
	wantLines(t, "drop", r.drop(), "emit away")
	wantState(t, r.s, StateAway, NotEnded)
	r.hear("6")
	wantLines(t, "resume", r.attach(0), "emit reconnected", "resume client 2",
		`to client 2: text "4"`, `to client 2: text "5"`, `to client 2: text "6"`)
	r.hear("7")
	r.receipts()
	if r.s.Held() != 0 {
		t.Errorf("%d bytes held after everything was received", r.s.Held())
	}
	wantTexts(t, "client 2", r.texts(2), "4", "5", "6", "7")
}

// Clients that hear the same broadcast at once are asked for their first receipts at different times, by the random
// nonce of each; their next ones wait for the whole interval.
func TestFirstReceiptsAreSpread(t *testing.T) {
	const legs = 64
	cfg := testConfig()
	asked := map[Time]bool{}
	for i := range uint64(legs) {
		r := newRig(t, Keyed, cfg)
		r.nonce = i<<58 - 1
		r.attach(0)
		start := r.now
		r.hear("everybody")
		first := r.s.Next()
		if first <= start || first > start.add(cfg.ReceiptInterval) {
			t.Fatalf("leg %d is asked after %v, want more than nothing and at most %v", i, time.Duration(first-start), cfg.ReceiptInterval)
		}
		asked[first] = true
		r.advance(time.Duration(first - start))
		r.pong()
		if next := r.s.Next(); next != first.add(cfg.ReceiptInterval) {
			t.Errorf("leg %d is asked again after %v, want %v", i, time.Duration(next-first), cfg.ReceiptInterval)
		}
	}
	if len(asked) != legs {
		t.Errorf("%d legs are asked at %d times, want one of its own for each", legs, len(asked))
	}
}

func TestGraceOver(t *testing.T) {
	r := newRig(t, Keyed, testConfig())
	r.attach(0)
	r.drop()
	wantLines(t, "29.9 s", r.advance(29900*time.Millisecond))
	wantLines(t, "30 s", r.advance(100*time.Millisecond), "emit left", "forget",
		`to upstream: close 1001 "session left: its client did not come back in time"`)
	if r.s.Over() {
		t.Error("over before the upstream has answered")
	}
	wantLines(t, "answer", r.fromUpstream(build(8, true, closePayload(1001, ""), nil)), "close upstream")
	if !r.s.Over() {
		t.Error("not over after both legs are closed")
	}
}

func TestCloseOfClient(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		want []string
	}{
		{"listed code ends", 1000, []string{`to client 1: close 1000 "bye"`, "close client 1", "emit left", "forget", `to upstream: close 1000 "bye"`}},
		{"other code is a drop", 1001, []string{`to client 1: close 1001 "bye"`, "close client 1", "emit away"}},
	} {
		r := newRig(t, Keyed, testConfig())
		r.attach(0)
		wantLines(t, c.name, r.fromClient(build(8, true, closePayload(c.code, "bye"), testKey)), c.want...)
	}
}

func TestCloseOfUpstream(t *testing.T) {
	r := newRig(t, Keyed, testConfig())
	r.attach(0)
	r.hear("last words")
	wantLines(t, "close", r.fromUpstream(build(8, true, closePayload(1000, "done"), nil)),
		`to upstream: close 1000 "done"`, "close upstream", `to client 1: close 1000 "done"`)
	wantLines(t, "answer", r.fromClient(build(8, true, closePayload(1000, ""), testKey)),
		"close client 1", "emit left", "forget")
	wantState(t, r.s, StateLeft, UpstreamClosed)
	if !r.s.Over() {
		t.Error("not over")
	}
}

func TestViolations(t *testing.T) {
	long := string(make([]byte, 126))
	for _, c := range []struct {
		name string
		b    []byte
		code int
	}{
		{"not masked", build(1, true, "x", nil), 1002},
		{"reserved bit", []byte{0xC1, 0x81, 0, 0, 0, 0, 'x'}, 1002},
		{"unknown opcode", []byte{0x83, 0x81, 0, 0, 0, 0, 'x'}, 1002},
		{"continuation of nothing", build(0, true, "x", testKey), 1002},
		{"message inside another", append(build(1, false, "x", testKey), build(1, true, "y", testKey)...), 1002},
		{"long control frame", build(9, true, long, testKey), 1002},
		{"fragmented control frame", build(9, false, "x", testKey), 1002},
		{"length with its top bit", []byte{0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1002},
		{"too long a message", []byte{0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1009},
		{"close of one byte", build(8, true, "x", testKey), 1002},
		{"forbidden close code", build(8, true, closePayload(1005, ""), testKey), 1002},
		{"close reason not UTF-8", build(8, true, closePayload(1000, "\xff"), testKey), 1007},
	} {
		for _, mode := range []Mode{Relay, Keyed, Counted} {
			r := newRig(t, mode, testConfig())
			r.attach(0)
			got := strings.Join(r.fromClient(bytes.Clone(c.b)), "\n")
			if !strings.Contains(got, fmt.Sprintf("to client 1: close %d", c.code)) || !strings.Contains(got, "close client 1") {
				t.Errorf("%s, mode %d: the client was not told %d:\n%s", c.name, mode, c.code, got)
			}
			if want := map[Mode]State{Relay: StateLeft, Keyed: StateAway, Counted: StateAway}[mode]; r.s.State() != want {
				t.Errorf("%s, mode %d: session is %v, want %v", c.name, mode, r.s.State(), want)
			}
		}
	}
}

// What came before a violation or a Close, in the same read, was good and goes up.
func TestMessagesBeforeTheEndGoUp(t *testing.T) {
	for name, end := range map[string][]byte{
		"a violation":         build(1, true, "bad", nil),
		"a Close for good":    build(8, true, closePayload(1000, ""), testKey),
		"a Close like a drop": build(8, true, closePayload(1001, ""), testKey),
	} {
		for _, mode := range []Mode{Relay, Keyed, Counted} {
			r := newRig(t, mode, testConfig())
			r.attach(0)
			r.fromClient(append(build(1, true, "good", testKey), end...))
			wantTexts(t, fmt.Sprintf("upstream before %s, mode %d", name, mode), r.texts(Upstream), "good")
		}
	}
}

// A header that came in pieces and then had to wait for room is not forgotten when nothing follows it.
func TestHeaderThatWaitedForRoom(t *testing.T) {
	cfg := testConfig()
	cfg.MaxMessages = 1
	r := newRig(t, Keyed, cfg)
	r.attach(0)
	r.hear("first")
	r.fromUpstream([]byte{0x81}) // an empty message, in two reads
	r.fromUpstream([]byte{0x00})
	wantTexts(t, "before the receipt", r.texts(1), "first")
	r.pong()
	r.pong()
	wantTexts(t, "after it", r.texts(1), "first", "")
}
