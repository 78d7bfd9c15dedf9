//go:build !amd64 && !arm64

package prefetch

// Lines does nothing.
func Lines(addr uintptr, n int) {}
