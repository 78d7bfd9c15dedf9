//go:build linux

package main

// A pace says when the messages of an open loop are due: at a fixed rate, whatever became of those before. What
// is late is measured from when it was due, so that a stall counts for all that it held up (no coordinated omission).
type pace struct {
	start int64 // nanoseconds
	rate  float64
	next  int64 // number of the next message, from 0
}

// when returns when message n is due.
func (p *pace) when(n int64) int64 { return p.start + int64(float64(n)*1e9/p.rate) }

// take returns when the next message is due, if it is at now, and goes on to the one after it.
func (p *pace) take(now int64) (due int64, ok bool) {
	if due = p.when(p.next); due > now {
		return 0, false
	}
	p.next++
	return due, true
}
