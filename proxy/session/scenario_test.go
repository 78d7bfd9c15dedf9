package session

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected effects of testdata/scenarios")

// TestScenarios plays testdata/scenarios/*.txt. Each is a story: it opens with a comment that says
// what it is about, then one input a line, and indented beneath each input what must come of it. With
// -rewrite what did come of it is written there: read the difference before you keep it.
//
// The inputs:
//
//	config KEY=VALUE…       before anything else; the keys are in configure
//	connect                 a client comes for the first time
//	resume [received=N]     a client comes (again); N is what a tideover.v1 client says it has
//	client-send TEXT…       text messages of the client, in one batch
//	upstream-send TEXT…     text messages of the upstream, in one batch; a number N instead sends N
//	                        numbered ones, [size=BYTES] each
//	client-frame KIND TEXT  one frame: text, binary, more, ping, pong; text… and more… are unfinished
//	upstream-frame KIND TEXT
//	client-half TEXT        the first half of a frame with TEXT; client-rest is the other half
//	upstream-half TEXT      likewise, with upstream-rest
//	client-control JSON     a tideover.v1 control message
//	client-unmasked         a frame that no client may send
//	pong                    the client answers its oldest unanswered ping
//	pong latest             it answers all of them by answering the newest (RFC 6455, section 5.5.3)
//	pong forged             a pong with the right number and another nonce
//	pong early              a pong with the number of the ping that has not been sent yet
//	pong previous-leg       the pong that the leg before this one owed
//	client-close CODE TEXT  a Close frame; without CODE an empty one. Likewise upstream-close
//	drop [leg=N]            a client leg breaks (the current one)
//	upstream-drop           the upstream leg breaks
//	client-full             what is sent to the client stays in a backlog, until client-drained.
//	upstream-full           likewise, with upstream-drained
//	acknowledged N          the peer's TCP says that it has N bytes by now; "unknown": it can't tell
//	pressure on|off         all buffers together are over their limit
//	end REASON CODE UPCODE  the proxy ends the session
//	advance DURATION        time passes; what happens meanwhile bears its time
//	show                    state, window and memory
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("../../testdata/scenarios/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios found: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(b))
			if got == string(b) {
				return
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("%s went another way (- expected, + happened):\n%s", filepath.Base(file), difference(string(b), got))
		})
	}
}

// A player plays one scenario.
type player struct {
	*rig
	mode     Mode
	numbered int    // upstream messages sent by number
	rest     []byte // the other half
	owed     []byte // a ping of an earlier leg
	line     int
}

// play returns the scenario with the effects that really happened.
func play(t *testing.T, story string) string {
	if !strings.HasPrefix(story, "# ") {
		t.Fatal("a scenario opens with a comment that says what it is about")
	}
	p := &player{mode: Keyed}
	cfg := testConfig()
	var out []string
	for i, line := range strings.Split(strings.TrimRight(story, "\n"), "\n") {
		p.line = i + 1
		if strings.HasPrefix(line, " ") {
			continue // an expectation
		}
		out = append(out, strings.TrimRightFunc(line, unicode.IsSpace))
		words := split(t, line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if words[0] == "config" {
			p.configure(t, &cfg, words[1:])
			continue
		}
		if p.rig == nil {
			p.rig = newRig(t, p.mode, cfg)
			p.s.up.beat.at = p.firstBeat(cfg.Upstream)
		}
		for _, effect := range p.input(words) {
			out = append(out, "  "+effect)
		}
	}
	return strings.Join(out, "\n") + "\n"
}

// firstBeat lets heartbeats begin after a whole interval: in a story, no moment is random.
func (p *player) firstBeat(h Heartbeat) Time {
	if h.Interval == 0 {
		return 0
	}
	return p.now.add(h.Interval)
}

// split cuts a line into words; a word in quotes is read as Go reads it.
func split(t *testing.T, line string) (words []string) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if quoted, err := strconv.QuotedPrefix(line); err == nil {
			word, _ := strconv.Unquote(quoted)
			words, line = append(words, word), line[len(quoted):]
			continue
		}
		end := strings.IndexByte(line+" ", ' ')
		words, line = append(words, line[:end]), line[end:]
	}
	return words
}

func (p *player) configure(t *testing.T, cfg *Config, words []string) {
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		duration := func() time.Duration {
			d, err := time.ParseDuration(value)
			if err != nil {
				t.Fatalf("line %d: %v", p.line, err)
			}
			return d
		}
		number := func() int {
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatalf("line %d: %v", p.line, err)
			}
			return n
		}
		switch key {
		case "mode":
			p.mode = map[string]Mode{"relay": Relay, "keyed": Keyed, "counted": Counted}[value]
		case "grace":
			cfg.Grace = duration()
		case "away_after":
			cfg.AwayAfter = duration()
		case "client_heartbeat":
			cfg.Client = Heartbeat{duration(), 2}
		case "upstream_heartbeat":
			cfg.Upstream = Heartbeat{duration(), 2}
		case "heartbeat_message":
			cfg.BeatMessage = []byte(value)
		case "max_messages":
			cfg.MaxMessages = number()
		case "max_bytes":
			cfg.MaxBytes = number()
		case "max_message_bytes":
			cfg.MaxMessageBytes = int64(number())
		case "overflow":
			cfg.Overflow = map[string]Overflow{"end": OverflowEnd, "drop_oldest": OverflowDropOldest, "pause": OverflowPause}[value]
		case "end_on_close":
			cfg.EndOnClose = nil
			for _, code := range strings.Split(value, ",") {
				n, _ := strconv.Atoi(code)
				cfg.EndOnClose = append(cfg.EndOnClose, uint16(n))
			}
		case "dedup_ttl":
			cfg.Dedup = newIDs(t, duration())
		default:
			t.Fatalf("line %d: unknown key %q", p.line, key)
		}
	}
}

func (p *player) input(words []string) []string {
	p.t.Helper()
	verb, args := words[0], words[1:]
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			p.t.Fatalf("line %d: %v", p.line, err)
		}
		return n
	}
	switch verb {
	case "connect", "resume":
		received := 0
		if s, ok := strings.CutPrefix(arg(0), "received="); ok {
			received = number(s)
		}
		if far := p.legs[p.s.legs]; p.s.legs > 0 && len(far.pings) > 0 {
			p.owed = far.pings[0]
		}
		effects := p.attach(uint64(received))
		p.s.client.beat.at = p.firstBeat(p.cfg.Client)
		return effects
	case "client-send":
		return p.say(args...)
	case "upstream-send":
		n, err := strconv.Atoi(arg(0))
		if err != nil {
			return p.hear(args...)
		}
		texts := make([]string, n)
		for i := range texts {
			p.numbered++
			texts[i] = strconv.Itoa(p.numbered)
			if s, ok := strings.CutPrefix(arg(1), "size="); ok {
				texts[i] += strings.Repeat(".", number(s)-len(texts[i]))
			}
		}
		return p.hear(texts...)
	case "client-frame":
		return p.fromClient(p.frame(arg(0), arg(1), testKey))
	case "upstream-frame":
		return p.fromUpstream(p.frame(arg(0), arg(1), nil))
	case "client-half", "upstream-half":
		key := testKey
		if verb == "upstream-half" {
			key = nil
		}
		b := build(1, true, arg(0), key)
		half := len(b) - len(arg(0))/2
		p.rest = b[half:]
		if key == nil {
			return p.fromUpstream(b[:half])
		}
		return p.fromClient(b[:half])
	case "client-rest":
		return p.fromClient(p.rest)
	case "upstream-rest":
		return p.fromUpstream(p.rest)
	case "client-control":
		return p.say("\x1e" + arg(0))
	case "client-unmasked":
		return p.fromClient(build(1, true, "bare", nil))
	case "pong":
		return p.pongOf(arg(0))
	case "client-close", "upstream-close":
		code := 0
		if len(args) > 0 {
			code = number(args[0])
		}
		if verb == "client-close" {
			return p.fromClient(build(8, true, closePayload(code, arg(1)), testKey))
		}
		return p.fromUpstream(build(8, true, closePayload(code, arg(1)), nil))
	case "drop":
		leg := p.client()
		if s, ok := strings.CutPrefix(arg(0), "leg="); ok {
			leg = Leg(number(s))
		}
		p.open[leg] = false
		p.s.ClientLost(p.now, leg, Broken, &p.fx)
		return p.run()
	case "upstream-drop":
		return p.dropUpstream()
	case "client-full", "upstream-full":
		p.blocked[p.named(verb)] = true
		return nil
	case "client-drained", "upstream-drained":
		leg := p.named(verb)
		p.blocked[leg] = false
		p.s.Writable(p.now, leg, &p.fx)
		return p.run()
	case "acknowledged":
		if p.known = arg(0) != "unknown"; p.known {
			p.acked = uint64(number(arg(0)))
		}
		return nil
	case "pressure":
		p.fx.Pressure = arg(0) == "on"
		return nil
	case "end":
		reasons := map[string]Reason{"evicted": Evicted, "stopped": Stopped}
		p.s.End(p.now, reasons[arg(0)], uint16(number(arg(1))), uint16(number(arg(2))), "", &p.fx)
		return p.run()
	case "advance":
		return p.pass(arg(0))
	case "show":
		messages, bytes := p.s.Window()
		text := fmt.Sprintf("state %v, window of %d messages, %d bytes", p.s.State(), messages, bytes)
		if p.s.Reason() != NotEnded {
			text += fmt.Sprintf(", ended: %v", p.s.Reason())
		}
		if p.s.Over() {
			text += ", over"
		}
		return []string{text}
	}
	p.t.Fatalf("line %d: unknown input %q", p.line, verb)
	return nil
}

func (p *player) named(verb string) Leg {
	if strings.HasPrefix(verb, "upstream") {
		return Upstream
	}
	return p.client()
}

func (p *player) frame(kind, text string, key []byte) []byte {
	name, unfinished := strings.CutSuffix(kind, "…")
	op, ok := map[string]byte{"more": 0, "text": 1, "binary": 2, "ping": 9, "pong": 10}[name]
	if !ok {
		p.t.Fatalf("line %d: unknown kind of frame %q", p.line, kind)
	}
	return build(op, !unfinished, text, key)
}

func (p *player) pongOf(which string) []string {
	far := p.legs[p.client()]
	answer := func(payload []byte) []string { return p.fromClient(build(10, true, string(payload), testKey)) }
	switch which {
	case "latest":
		last := far.pings[len(far.pings)-1]
		far.pings = nil
		return answer(last)
	case "forged":
		forged := slices.Clone(far.pings[0])
		forged[0] ^= 1
		return answer(forged)
	case "early":
		early := slices.Clone(far.pings[0])
		early[15]++
		return answer(early)
	case "previous-leg":
		return answer(p.owed)
	}
	return p.pong()
}

// pass lets time pass and puts before each effect when it happened.
func (p *player) pass(duration string) (effects []string) {
	d, err := time.ParseDuration(duration)
	if err != nil {
		p.t.Fatalf("line %d: %v", p.line, err)
	}
	start, until := p.now, p.now.add(d)
	for wakes := 0; ; wakes++ {
		at := p.s.Next()
		if at == 0 || at > until {
			break
		}
		if wakes > 1000 {
			p.t.Fatalf("line %d: woken %d times in %v", p.line, wakes, d)
		}
		p.now = max(p.now, at)
		p.s.Advance(p.now, &p.fx)
		for _, effect := range p.run() {
			effects = append(effects, fmt.Sprintf("after %v: %s", time.Duration(p.now-start), effect))
		}
	}
	p.now = until
	return effects
}

// difference shows where two texts differ, line by line from the first difference on.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out []string
	for len(w) > 0 || len(g) > 0 {
		switch {
		case len(w) > 0 && len(g) > 0 && w[0] == g[0]:
			out = append(out, "  "+w[0])
			w, g = w[1:], g[1:]
		case len(g) == 0 || len(w) > 0 && !slices.Contains(g, w[0]):
			out = append(out, "- "+w[0])
			w = w[1:]
		default:
			out = append(out, "+ "+g[0])
			g = g[1:]
		}
	}
	return strings.Join(out, "\n")
}
