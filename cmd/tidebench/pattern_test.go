//go:build linux

package main

import (
	"encoding/json"
	"testing"
)

// A message that came back is told from every other one, and from itself with any bit changed.
func TestPatternTellsMessagesApart(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		p, err := newPattern(128, asJSON)
		if err != nil {
			t.Fatal(err)
		}
		b := p.append(nil, kindEcho, 7, 42)
		if len(b) != 128 || !p.matches(b, kindEcho, 7, 42) {
			t.Fatalf("%d bytes that do not match themselves: %q", len(b), b)
		}
		if p.matches(b, kindEcho, 7, 43) || p.matches(b, kindEcho, 8, 42) || p.matches(b[:127], kindEcho, 7, 42) {
			t.Errorf("another number, session or length passes for %q", b)
		}
		for i := range b {
			b[i] ^= 1
			if p.matches(b, kindEcho, 7, 42) {
				t.Errorf("a changed byte %d passes", i)
			}
			b[i] ^= 1
		}
		var v struct{ ID string }
		if asJSON && (json.Unmarshal(b, &v) != nil || v.ID == "") {
			t.Errorf("no JSON with an id: %q", b)
		}
	}
}

func TestPatternRefusesSizesThatHoldNoHead(t *testing.T) {
	for _, size := range []int{-1, 0, minBinary - 1, maxFrame} {
		if _, err := newPattern(size, false); err == nil {
			t.Errorf("%d bytes: no error", size)
		}
	}
	if _, err := newPattern(minJSON-1, true); err == nil {
		t.Errorf("JSON of %d bytes: no error", minJSON-1)
	}
}

func TestCallIsReadAsWritten(t *testing.T) {
	number, size, ok := parseCall(appendCall(nil, 9, 256))
	if !ok || number != 9 || size != 256 {
		t.Errorf("got %d, %d, %v", number, size, ok)
	}
	p, _ := newPattern(minBinary, false)
	if _, _, ok := parseCall(p.append(nil, kindEcho, 1, 1)); ok {
		t.Error("a message to be sent back passes for a call")
	}
}
