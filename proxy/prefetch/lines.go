//go:build amd64 || arm64

package prefetch

// Lines asks for n lines, the first of which holds addr. It is a hint: nothing is read, and no address is a wrong one.
// n is at least 1.
//
//go:noescape
func Lines(addr uintptr, n int)
