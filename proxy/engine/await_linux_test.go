package engine

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The first wait of a loop that waits in vain is made without Go's scheduler, and then one in two, in four, and so on; one that
// there is an event for begins anew. Several loops don't do so at all.
func TestLoopsLingerLessAndLess(t *testing.T) {
	lp := awaiting(t, 1)
	waits := func(n int) (skips []int) {
		for range n {
			lp.await(1)
			skips = append(skips, lp.skip)
		}
		return skips
	}
	want := func(got []int, want ...int) {
		t.Helper()
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("waits that are left without lingering, after each: %v, want %v", got, want)
			}
		}
	}
	want(waits(6), 1, 0, 3, 2, 1, 0)
	for range maxMissed {
		lp.skip = min(lp.skip, 1)
		waits(1)
	}
	if lp.missed != maxMissed {
		t.Errorf("after many waits in vain, %d are made without lingering, want %d", lp.missed, maxMissed)
	}
	lp.skip = 0
	if _, err := unix.Write(lp.wakefd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if n := lp.await(-1); n != 1 || lp.missed != 0 {
		t.Fatalf("a wait that was not in vain brought %d events and left %d misses, want 1 and 0", n, lp.missed)
	}
	want(waits(1), 1)

	lp = awaiting(t, 2)
	want(waits(3), 0, 0, 0)
}

// A timer may be late by what the loop lingers, and by no more.
func TestLingeringCountsAsWaiting(t *testing.T) {
	for wait, want := range map[int]int{-1: -1, 0: 0, 1: 0, patience: 0, patience + 1: 1, 60_000: 60_000 - patience} {
		if got := remaining(wait); got != want {
			t.Errorf("of a wait of %d ms, %d are left after lingering, want %d", wait, got, want)
		}
	}
}

func awaiting(t *testing.T, n int) *loop {
	lp, err := newLoop(New(Options{Loops: n, ReadBuffer: 1}).(*loops))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lp.shut)
	return lp
}
