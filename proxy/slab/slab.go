// Package slab keeps many values of one type in few large objects.
//
// To the garbage collector a million objects are a million times a look into the tables that say what lies where, and a miss of
// the processor's caches each; that costs several times what it takes to read the same memory in order (BenchmarkGCOfAMillionSessions
// in package proxy). The price is that somebody must know when a value is no longer used: whoever holds a pointer to
// it then sees another one. (Bonwick: The Slab Allocator: An Object-Caching Kernel Memory Allocator, USENIX 1994, for what the
// word means and for whole chunks that are given back.)
package slab

import (
	"sync"
	"unsafe"
)

// perChunk is how many values lie side by side. As long as one of them is in use, the memory of all is.
const perChunk = 32

// A Slab hands out values. The zero Slab is ready for use; its methods are safe for concurrent use.
type Slab[T any] struct {
	mu    sync.Mutex
	used  int
	room  *chunk[T] // the first chunk that has some, in a list that goes on by next
	spare *chunk[T] // the one that was kept when it became empty last; it may be in use again
}

type chunk[T any] struct {
	cells [perChunk]cell[T] // first: cells find their chunk by that
	free  int8              // the first cell that is not in use, in a list that goes on by next; none: its end
	used  int8

	prev, next *chunk[T]
}

type cell[T any] struct {
	value T // first: values are their cells
	at    int8
	next  int8
}

const none = -1

func newChunk[T any]() *chunk[T] {
	c := new(chunk[T])
	for i := range c.cells {
		c.cells[i].at, c.cells[i].next = int8(i), int8(i+1)
	}
	c.cells[perChunk-1].next = none
	return c
}

// Get returns a zero value.
func (s *Slab[T]) Get() *T {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.room
	if c == nil {
		c = newChunk[T]()
		s.link(c)
	}
	x := &c.cells[c.free]
	c.free = x.next
	s.used++
	if c.used++; c.used == perChunk {
		s.unlink(c)
	}
	return &x.value
}

// Put takes back what Get returned, and makes it zero. Nobody may use it any more.
func (s *Slab[T]) Put(v *T) {
	clear(unsafe.Slice(v, 1)) // outside the lock: it is still the caller's
	x := (*cell[T])(unsafe.Pointer(v))
	s.mu.Lock()
	defer s.mu.Unlock()
	c := (*chunk[T])(unsafe.Pointer(uintptr(unsafe.Pointer(x)) - uintptr(x.at)*unsafe.Sizeof(*x)))
	x.next, c.free = c.free, x.at
	s.used--
	if c.used--; c.used == perChunk-1 {
		s.link(c)
	}
	switch {
	case c.used > 0:
	case s.spare != nil && s.spare != c && s.spare.used == 0:
		s.unlink(c) // one is enough: the collector may have it
	default:
		s.spare = c
	}
}

// Len is how many values are in use.
func (s *Slab[T]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

func (s *Slab[T]) link(c *chunk[T]) {
	if c.next = s.room; c.next != nil {
		c.next.prev = c
	}
	s.room = c
}

func (s *Slab[T]) unlink(c *chunk[T]) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		s.room = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
}
