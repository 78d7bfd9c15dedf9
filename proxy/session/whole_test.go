package session

import (
	"slices"
	"strings"
	"testing"
)

// The plainest messages take a way of their own (wholeUp, wholeDown). What holds for others holds for them.

func TestSmallMessagesHaveALimitToo(t *testing.T) {
	cfg := testConfig()
	cfg.MaxMessageBytes = 10
	for _, mode := range []Mode{Relay, Keyed, Counted} {
		r := newRig(t, mode, cfg)
		r.attach(0)
		r.fromClient(slices.Concat(build(2, true, "0123456789", testKey), build(2, true, "0123456789a", testKey)))
		wantTexts(t, "upstream", r.texts(Upstream), "0123456789")
		if want := map[Mode]State{Relay: StateLeft, Keyed: StateAway, Counted: StateAway}[mode]; r.s.State() != want {
			t.Errorf("mode %v: after a message that is too long the session is %v, want %v", mode, r.s.State(), want)
		}

		r = newRig(t, mode, cfg)
		r.attach(0)
		r.fromUpstream(slices.Concat(build(2, true, "0123456789", nil), build(2, true, "0123456789a", nil)))
		if got := r.texts(1); !slices.Contains(got, "0123456789") || slices.Contains(got, "0123456789a") {
			t.Errorf("mode %v: the client got %q", mode, got)
		}
		if r.open[Upstream] {
			t.Errorf("mode %v: an upstream that sends a message that is too long stays open", mode)
		}
	}
}

func TestManySmallMessagesAreAcknowledgedAtOnce(t *testing.T) {
	r := newRig(t, Counted, testConfig())
	r.attach(0)
	const size = 1000
	got := r.fromClient([]byte(strings.Repeat(string(build(2, true, strings.Repeat("x", size), testKey)), ackBytes/size+1)))
	if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, "to client 1: text") }) {
		t.Errorf("after %d bytes the client hears nothing: %q", ackBytes, got)
	}
}

func TestMessagesAfterTheCloseAreNotAccepted(t *testing.T) {
	for _, mode := range []Mode{Keyed, Counted} {
		r := newRig(t, mode, testConfig())
		r.attach(0)
		r.fromUpstream(build(8, true, "\x03\xe8", nil)) // the client is told, and has not answered yet
		before := r.s.Received()
		r.fromClient(build(2, true, "too late", testKey))
		if got := r.s.Received() - before; got != 0 {
			t.Errorf("mode %v: %d messages were accepted that nobody is left to take", mode, got)
		}
		wantTexts(t, "upstream", r.texts(Upstream))
	}
}
