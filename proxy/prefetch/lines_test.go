package prefetch

import (
	"testing"
	"unsafe"
)

// Any address will do, and so will a page that nobody may read.
func TestLines(t *testing.T) {
	b := make([]byte, 10*Line)
	for _, addr := range []uintptr{0, 1, ^uintptr(0), uintptr(unsafe.Pointer(unsafe.SliceData(b)))} {
		for _, n := range []int{1, 2, 10} {
			Lines(addr, n)
		}
	}
}
