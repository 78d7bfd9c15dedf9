// Package prefetch asks the processor for memory that will be needed soon, so that it is in its caches by then. A
// loop over thousands of sessions finds hardly anything of the next one there. On processors other than amd64 and arm64 it does nothing.
package prefetch

// Line is how many bytes one line of a cache is taken to have: on some processors it has more, on none that matter fewer.
const Line = 64
