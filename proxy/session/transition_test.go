package session

import (
	"strings"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/frame"
)

// The states that a session can be in, and how it gets there. "ending" is StateAttached after the
// upstream's Close was passed on, until the client answers; "leaving" is StateLeft until the
// upstream answers.
var tableStates = map[string]func(*rig){
	"fresh":    func(r *rig) {},
	"attached": func(r *rig) { r.attach(0) },
	"ending":   func(r *rig) { r.attach(0); r.fromUpstream(build(8, true, closePayload(1000, ""), nil)) },
	"away":     func(r *rig) { r.attach(0); r.drop() },
	"leaving":  func(r *rig) { r.attach(0); r.fromClient(build(8, true, closePayload(1000, ""), testKey)) },
	"left":     func(r *rig) { r.attach(0); r.dropUpstream() },
}

// What can happen to it.
var tableInputs = map[string]func(*rig) []string{
	"attach":                 func(r *rig) []string { return r.attach(0) },
	"client message":         func(r *rig) []string { return r.say("hi") },
	"client closes, 1000":    func(r *rig) []string { return r.fromClient(build(8, true, closePayload(1000, ""), testKey)) },
	"client closes, 1001":    func(r *rig) []string { return r.fromClient(build(8, true, closePayload(1001, ""), testKey)) },
	"client breaks protocol": func(r *rig) []string { return r.fromClient(build(1, true, "unmasked", nil)) },
	"client lost":            func(r *rig) []string { return r.drop() },
	"old client lost": func(r *rig) []string {
		r.s.ClientLost(r.now, r.client()+7, Broken, &r.fx)
		return r.run()
	},
	"upstream message":         func(r *rig) []string { return r.hear("yo") },
	"upstream closes":          func(r *rig) []string { return r.fromUpstream(build(8, true, closePayload(1000, ""), nil)) },
	"upstream breaks protocol": func(r *rig) []string { return r.fromUpstream(build(1, true, "masked", testKey)) },
	"upstream lost":            func(r *rig) []string { return r.dropUpstream() },
	"a minute passes":          func(r *rig) []string { return r.advance(time.Minute) },
	"proxy ends it": func(r *rig) []string {
		r.s.End(r.now, Stopped, frame.CodeRestart, frame.CodeGoingAway, "", &r.fx)
		return r.run()
	},
}

func TestTransitions(t *testing.T) {
	t.Run("keyed", func(t *testing.T) { checkTransitions(t, Keyed, keyedTransitions) })
	t.Run("relay", func(t *testing.T) { checkTransitions(t, Relay, relayTransitions) })
}

func checkTransitions(t *testing.T, mode Mode, table string) {
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(table), "\n")[1:] {
		if strings.TrimSpace(line) == "" {
			continue
		}
		cells := strings.SplitN(line, "|", 4)
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		state, input := tableStates[cells[0]], tableInputs[cells[1]]
		if state == nil || input == nil {
			t.Fatalf("unknown state or input in %q", line)
		}
		seen[cells[0]+"|"+cells[1]] = true
		r := newRig(t, mode, testConfig())
		state(r)
		got := strings.Join(input(r), "; ")
		if got == "" {
			got = "-"
		}
		if next := r.stateName(); next != cells[2] || got != cells[3] {
			t.Errorf("%s, %s:\n got %s: %s\nwant %s: %s", cells[0], cells[1], next, got, cells[2], cells[3])
		}
	}
	for state := range tableStates {
		if mode == Relay && state == "away" {
			continue // there is no such thing
		}
		for input := range tableInputs {
			if !seen[state+"|"+input] {
				t.Errorf("the table has no row for %s, %s", state, input)
			}
		}
	}
}

// stateName is the state in the words of the table.
func (r *rig) stateName() string {
	switch {
	case r.s.State() == StateAttached && r.s.client.closing:
		return "ending"
	case r.s.State() == StateLeft && !r.s.Over():
		return "leaving"
	}
	return r.s.State().String()
}

// The table of a plain client with a key. Effects are separated by "; ", "-" is none.
const keyedTransitions = `
state    | input                    | next     | effects

fresh    | attach                   | attached | emit joined; resume client 1; resume upstream
fresh    | client message           | fresh    | -
fresh    | client closes, 1000      | fresh    | -
fresh    | client closes, 1001      | fresh    | -
fresh    | client breaks protocol   | fresh    | -
fresh    | client lost              | fresh    | -
fresh    | old client lost          | fresh    | -
fresh    | upstream message         | fresh    | -
fresh    | upstream closes          | left     | to upstream: close 1000 ""; close upstream; forget
fresh    | upstream breaks protocol | left     | to upstream: close 1002 "frame from a server is masked"; close upstream; forget
fresh    | upstream lost            | left     | forget
fresh    | a minute passes          | fresh    | -
fresh    | proxy ends it            | leaving  | forget; to upstream: close 1001 ""

attached | attach                   | attached | to client 1: close 4409 "superseded by a new connection"; close client 1; resume client 2
attached | client message           | attached | to upstream: text "hi"
attached | client closes, 1000      | leaving  | to client 1: close 1000 ""; close client 1; emit left; forget; to upstream: close 1000 ""
attached | client closes, 1001      | away     | to client 1: close 1001 ""; close client 1; emit away
attached | client breaks protocol   | away     | to client 1: close 1002 "frame from a client is not masked"; close client 1; emit away
attached | client lost              | away     | emit away
attached | old client lost          | attached | -
attached | upstream message         | attached | to client 1: text "yo"
attached | upstream closes          | ending   | to upstream: close 1000 ""; close upstream; to client 1: close 1000 ""
attached | upstream breaks protocol | ending   | to upstream: close 1002 "frame from a server is masked"; close upstream; to client 1: close 1011 "upstream: frame from a server is masked"
attached | upstream lost            | left     | close client 1; emit left; forget
attached | a minute passes          | attached | -
attached | proxy ends it            | leaving  | to client 1: close 1012 ""; close client 1; emit left; forget; to upstream: close 1001 ""

ending   | attach                   | ending   | close client 1; resume client 2; to client 2: close 1000 ""
ending   | client message           | ending   | -
ending   | client closes, 1000      | left     | close client 1; emit left; forget
ending   | client closes, 1001      | left     | close client 1; emit left; forget
ending   | client breaks protocol   | away     | close client 1; emit away
ending   | client lost              | away     | emit away
ending   | old client lost          | ending   | -
ending   | upstream message         | ending   | -
ending   | upstream closes          | ending   | -
ending   | upstream breaks protocol | ending   | -
ending   | upstream lost            | ending   | -
ending   | a minute passes          | left     | close client 1; emit away; emit left; forget
ending   | proxy ends it            | left     | close client 1; emit left; forget

away     | attach                   | attached | emit reconnected; resume client 2
away     | client message           | away     | -
away     | client closes, 1000      | away     | -
away     | client closes, 1001      | away     | -
away     | client breaks protocol   | away     | -
away     | client lost              | away     | -
away     | old client lost          | away     | -
away     | upstream message         | away     | -
away     | upstream closes          | away     | to upstream: close 1000 ""; close upstream
away     | upstream breaks protocol | away     | to upstream: close 1002 "frame from a server is masked"; close upstream
away     | upstream lost            | left     | emit left; forget
away     | a minute passes          | left     | emit left; forget; to upstream: close 1001 "session left: its client did not come back in time"; close upstream
away     | proxy ends it            | leaving  | emit left; forget; to upstream: close 1001 ""

leaving  | attach                   | leaving  | refused
leaving  | client message           | leaving  | -
leaving  | client closes, 1000      | leaving  | -
leaving  | client closes, 1001      | leaving  | -
leaving  | client breaks protocol   | leaving  | -
leaving  | client lost              | leaving  | -
leaving  | old client lost          | leaving  | -
leaving  | upstream message         | leaving  | -
leaving  | upstream closes          | left     | close upstream
leaving  | upstream breaks protocol | left     | close upstream
leaving  | upstream lost            | left     | -
leaving  | a minute passes          | left     | close upstream
leaving  | proxy ends it            | leaving  | -

left     | attach                   | left     | refused
left     | client message           | left     | -
left     | client closes, 1000      | left     | -
left     | client closes, 1001      | left     | -
left     | client breaks protocol   | left     | -
left     | client lost              | left     | -
left     | old client lost          | left     | -
left     | upstream message         | left     | -
left     | upstream closes          | left     | -
left     | upstream breaks protocol | left     | -
left     | upstream lost            | left     | -
left     | a minute passes          | left     | -
left     | proxy ends it            | left     | -
`

// The table of a client without identity: nothing to come back to, nobody is told.
const relayTransitions = `
state    | input                    | next     | effects

fresh    | attach                   | attached | resume client 1; resume upstream
fresh    | client message           | fresh    | -
fresh    | client closes, 1000      | fresh    | -
fresh    | client closes, 1001      | fresh    | -
fresh    | client breaks protocol   | fresh    | -
fresh    | client lost              | fresh    | -
fresh    | old client lost          | fresh    | -
fresh    | upstream message         | fresh    | -
fresh    | upstream closes          | left     | to upstream: close 1000 ""; close upstream; forget
fresh    | upstream breaks protocol | left     | to upstream: close 1002 "frame from a server is masked"; close upstream; forget
fresh    | upstream lost            | left     | forget
fresh    | a minute passes          | fresh    | -
fresh    | proxy ends it            | leaving  | forget; to upstream: close 1001 ""

attached | attach                   | attached | refused
attached | client message           | attached | to upstream: text "hi"
attached | client closes, 1000      | leaving  | to client 1: close 1000 ""; close client 1; forget; to upstream: close 1000 ""
attached | client closes, 1001      | leaving  | to client 1: close 1001 ""; close client 1; forget; to upstream: close 1001 ""
attached | client breaks protocol   | left     | to client 1: close 1002 "frame from a client is not masked"; close client 1; forget; close upstream
attached | client lost              | left     | forget; close upstream
attached | old client lost          | attached | -
attached | upstream message         | attached | to client 1: text "yo"
attached | upstream closes          | ending   | to upstream: close 1000 ""; close upstream; to client 1: close 1000 ""
attached | upstream breaks protocol | ending   | to upstream: close 1002 "frame from a server is masked"; close upstream; to client 1: close 1011 "upstream: frame from a server is masked"
attached | upstream lost            | left     | close client 1; forget
attached | a minute passes          | attached | -
attached | proxy ends it            | leaving  | to client 1: close 1012 ""; close client 1; forget; to upstream: close 1001 ""

ending   | attach                   | ending   | refused
ending   | client message           | ending   | -
ending   | client closes, 1000      | left     | close client 1; forget
ending   | client closes, 1001      | left     | close client 1; forget
ending   | client breaks protocol   | left     | close client 1; forget
ending   | client lost              | left     | forget
ending   | old client lost          | ending   | -
ending   | upstream message         | ending   | -
ending   | upstream closes          | ending   | -
ending   | upstream breaks protocol | ending   | -
ending   | upstream lost            | ending   | -
ending   | a minute passes          | left     | close client 1; forget
ending   | proxy ends it            | left     | close client 1; forget

leaving  | attach                   | leaving  | refused
leaving  | client message           | leaving  | -
leaving  | client closes, 1000      | leaving  | -
leaving  | client closes, 1001      | leaving  | -
leaving  | client breaks protocol   | leaving  | -
leaving  | client lost              | leaving  | -
leaving  | old client lost          | leaving  | -
leaving  | upstream message         | leaving  | -
leaving  | upstream closes          | left     | close upstream
leaving  | upstream breaks protocol | left     | close upstream
leaving  | upstream lost            | left     | -
leaving  | a minute passes          | left     | close upstream
leaving  | proxy ends it            | leaving  | -

left     | attach                   | left     | refused
left     | client message           | left     | -
left     | client closes, 1000      | left     | -
left     | client closes, 1001      | left     | -
left     | client breaks protocol   | left     | -
left     | client lost              | left     | -
left     | old client lost          | left     | -
left     | upstream message         | left     | -
left     | upstream closes          | left     | -
left     | upstream breaks protocol | left     | -
left     | upstream lost            | left     | -
left     | a minute passes          | left     | -
left     | proxy ends it            | left     | -
`
