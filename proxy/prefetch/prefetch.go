//go:build amd64 || arm64

// Package prefetch asks the processor for memory that will be needed soon, so that it is in its caches by then. A
// loop over thousands of sessions finds hardly anything of the next one there.
package prefetch

// Line is how many bytes one line of a cache is taken to have: on some processors it has more, on none that matter fewer.
const Line = 64

// Lines asks for n lines, the first of which holds addr. It is a hint: nothing is read, and no address is a wrong one.
// n is at least 1.
//
//go:noescape
func Lines(addr uintptr, n int)
