package engine

import "sync"

// A buffer is pooled memory; b[r:w] is what it holds.
type buffer struct {
	b    []byte
	r, w int
	next *buffer // the next of a backlog
	home *sync.Pool
}

func (b *buffer) len() int { return b.w - b.r }

func (b *buffer) free() {
	b.r, b.w, b.next = 0, 0, nil
	if b.home != nil {
		b.home.Put(b)
	}
}

func newPool(size int) *sync.Pool {
	p := new(sync.Pool)
	p.New = func() any { return &buffer{b: make([]byte, size), home: p} }
	return p
}

// What is kept for long (a backlog, bytes that a paused leg has not consumed) lies in
// buffers of about its own size: a reader's worth of memory for ten bytes would make
// idle legs dear.
const maxClass = 64 << 10

var (
	classSizes = [...]int{1 << 10, 4 << 10, 16 << 10, maxClass}
	classes    = [...]*sync.Pool{newPool(1 << 10), newPool(4 << 10), newPool(16 << 10), newPool(maxClass)}
)

// getBuffer returns an empty buffer for n bytes; n over maxClass is not pooled.
func getBuffer(n int) *buffer {
	for i, size := range classSizes {
		if n <= size {
			return classes[i].Get().(*buffer)
		}
	}
	return &buffer{b: make([]byte, n)}
}

// fit moves the contents to a smaller buffer where three quarters or more of b are unused.
func (b *buffer) fit() *buffer {
	if len(b.b) <= classSizes[0] || b.len() > len(b.b)/4 {
		return b
	}
	small := getBuffer(b.len())
	small.w = copy(small.b, b.b[b.r:b.w])
	b.free()
	return small
}

// A backlog is a queue of bytes.
type backlog struct {
	head, tail *buffer
	size       int // bytes queued
	held       int // bytes of memory
}

// add copies bufs to the end, but for the first skip bytes.
func (q *backlog) add(bufs [][]byte, skip int) {
	rest := -skip
	for _, b := range bufs {
		rest += len(b)
	}
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:]
		skip = 0
		for len(b) > 0 {
			if q.tail == nil || q.tail.w == len(q.tail.b) {
				q.grow(min(rest, maxClass))
			}
			n := copy(q.tail.b[q.tail.w:], b)
			q.tail.w += n
			q.size += n
			rest -= n
			b = b[n:]
		}
	}
}

func (q *backlog) grow(n int) {
	b := getBuffer(n)
	q.held += len(b.b)
	if q.tail == nil {
		q.head = b
	} else {
		q.tail.next = b
	}
	q.tail = b
}

// front lists the first bytes of the queue in vec and returns the part it filled.
func (q *backlog) front(vec [][]byte) [][]byte {
	n := 0
	for b := q.head; b != nil && n < len(vec); b = b.next {
		vec[n] = b.b[b.r:b.w]
		n++
	}
	return vec[:n]
}

// drop takes the first n bytes off.
func (q *backlog) drop(n int) {
	q.size -= n
	for q.head != nil {
		b := q.head
		k := min(n, b.len())
		b.r += k
		n -= k
		if b.len() > 0 {
			return
		}
		q.head = b.next
		if q.head == nil {
			q.tail = nil
		}
		q.held -= len(b.b)
		b.free()
	}
}
