//go:build linux

package main

import "testing"

// A stall is not forgiven: what was due meanwhile is due all the same, each at its own time.
func TestPaceCatchesUpAfterAStall(t *testing.T) {
	p := pace{start: 1000, rate: 1e6} // one each microsecond
	if due, ok := p.take(999); ok {
		t.Fatalf("something is due at %d, before the start", due)
	}
	for want := int64(1000); want <= 5000; want += 1000 {
		if due, ok := p.take(5000); !ok || due != want {
			t.Fatalf("got %d, %v: want %d", due, ok, want)
		}
	}
	if due, ok := p.take(5000); ok {
		t.Fatalf("message due at %d came early", due)
	}
}

func TestPaceDoesNotDrift(t *testing.T) {
	p := pace{rate: 3} // a third of a second is no whole number of nanoseconds
	if got := p.when(3_000_000); got != 1_000_000*1e9 {
		t.Errorf("message 3,000,000 at a rate of 3 is due after %d ns", got)
	}
}
