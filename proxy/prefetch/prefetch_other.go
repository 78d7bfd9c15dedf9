//go:build !amd64 && !arm64

// Package prefetch does nothing here.
package prefetch

// Line is how many bytes one line of a cache is taken to have.
const Line = 64

// Lines does nothing.
func Lines(addr uintptr, n int) {}
