package session

import (
	"math/bits"
	"sync"
	"unsafe"
)

// Buffers come in powers of two and go back to a pool as soon as they are empty, so that
// an idle session holds none. Larger ones are left to the garbage collector: a rare
// 16 MiB message should not pin 16 MiB for the next one.
const (
	minBuffer = 512
	maxPooled = 4 << 20
)

var pools [14]sync.Pool // by class: 512 B, 1 KiB … 4 MiB

func class(n int) int { return max(0, bits.Len(uint(n-1))-9) }

// getBuffer returns an empty buffer with room for at least n bytes.
func getBuffer(n int) []byte {
	if n > maxPooled {
		return make([]byte, 0, n)
	}
	size := minBuffer << class(n)
	// The pool holds bare pointers: a slice in an interface would cost an allocation for each Put.
	if p, _ := pools[class(n)].Get().(*byte); p != nil {
		return unsafe.Slice(p, size)[:0]
	}
	return make([]byte, 0, size)
}

// putBuffer gives a buffer of getBuffer back. No slice of it may be used afterwards.
func putBuffer(b []byte) {
	if n := cap(b); n >= minBuffer && n <= maxPooled && n&(n-1) == 0 {
		pools[class(n)].Put(unsafe.SliceData(b[:1]))
	}
}

// A box holds bytes that a session has only now and then: empty, it is one pointer. They are
// not pooled.
type box struct{ p *[]byte }

func (x *box) empty() bool { return x.p == nil }

func (x *box) bytes() []byte {
	if x.p == nil {
		return nil
	}
	return *x.p
}

func (x *box) set(b []byte) { x.p = &b }

// growBuffer returns b with room for n more bytes, moved to a larger buffer where needed.
func growBuffer(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	want := len(b) + n
	if want > maxPooled { // beyond the classes, grow by a quarter at a time
		want += want / 4
	}
	g := append(getBuffer(want), b...)
	if b != nil {
		putBuffer(b)
	}
	return g
}
