//go:build linux

package main

import (
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readSize is how much one read takes at most; one buffer of it serves a whole loop.
const readSize = 256 << 10

// A handler is what a loop calls when the descriptor that it was added for is ready.
type handler interface {
	ready(events uint32)
}

// A loop waits for many descriptors in one thread, edge-triggered (epoll(7)). Everything that it calls runs on
// the goroutine that calls poll, which should be locked to its thread.
type loop struct {
	epoll  int
	later  *later // nil: everything is served in the order in which it comes
	slots  []slot // by descriptor
	events [1024]unix.EpollEvent
	buf    []byte // what was just read, until the handler returns
	out    []byte // scratch for what is about to be written

	wakeFD int // an eventfd
	mu     sync.Mutex
	posted []func() // by other goroutines
	closed bool
}

// A slot is what a descriptor number stands for at present. The generation tells events of its last owner, which
// may still be in the batch, from those of the new one.
type slot struct {
	h          handler
	generation int32
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll descriptor: %w", err)
	}
	l := &loop{epoll: fd, buf: make([]byte, readSize), out: make([]byte, 0, 2*readSize)}
	if l.wakeFD, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("making an eventfd: %w", err)
	}
	if err := l.add(l.wakeFD, posts{l}); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.later != nil {
		_ = unix.Close(l.later.epoll)
	}
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.wakeFD)
}

// post has f run by the loop. It may be called from any goroutine; false means that the loop is closed.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.posted = append(l.posted, f)
	one := [8]byte{1}
	_, _ = unix.Write(l.wakeFD, one[:])
	return true
}

// posts handles the eventfd. It is edge-triggered, and need not be read.
type posts struct{ l *loop }

func (p posts) ready(uint32) {
	p.l.mu.Lock()
	all := p.l.posted
	p.l.posted = nil
	p.l.mu.Unlock()
	for _, f := range all {
		f()
	}
}

// A later is what a loop serves in small portions between its other work: an epoll descriptor in that of the loop, which
// is ready for as long as something is left in it.
type later struct {
	l      *loop
	epoll  int
	events [laterEvents]unix.EpollEvent
}

const laterEvents = 8

// putOff makes the loop serve what is added with addLater in small portions.
func (l *loop) putOff() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("making an epoll descriptor: %w", err)
	}
	later := &later{l: l, epoll: fd}
	if err := l.addTo(l.epoll, fd, later, unix.EPOLLIN); err != nil {
		_ = unix.Close(fd)
		return err
	}
	l.later = later
	return nil
}

func (p *later) ready(uint32) {
	if n, err := wait(p.epoll, p.events[:], 0); err == nil {
		p.l.dispatch(p.events[:n])
	}
}

// anyEvent is of a descriptor that tells once whenever it becomes readable or writable.
const anyEvent = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// add makes h hear of fd, which must not block, whenever it becomes readable or writable.
func (l *loop) add(fd int, h handler) error { return l.addTo(l.epoll, fd, h, anyEvent) }

// addLater is add for what may wait, if anything may.
func (l *loop) addLater(fd int, h handler) error {
	if l.later == nil {
		return l.add(fd, h)
	}
	return l.addTo(l.later.epoll, fd, h, anyEvent)
}

// prefer has fd, which was added with addLater, wait no more. What it has to tell it tells again.
func (l *loop) prefer(fd int) error {
	if l.later == nil {
		return nil
	}
	if err := unix.EpollCtl(l.later.epoll, unix.EPOLL_CTL_DEL, fd, nil); err != nil {
		return fmt.Errorf("taking descriptor %d from epoll: %w", fd, err)
	}
	return l.add(fd, l.slots[fd].h)
}

func (l *loop) addTo(epoll, fd int, h handler, events uint32) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, slot{})
	}
	s := &l.slots[fd]
	s.h = h
	s.generation++
	event := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: s.generation}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("adding descriptor %d to epoll: %w", fd, err)
	}
	return nil
}

// drop closes fd; its handler hears no more of it.
func (l *loop) drop(fd int) {
	l.slots[fd].h = nil
	_ = unix.Close(fd)
}

// poll waits for at most timeout (negative: for as long as it takes) and handles what has become ready.
func (l *loop) poll(timeout time.Duration) error {
	n, err := wait(l.epoll, l.events[:], 0)
	if n == 0 && err == nil && timeout != 0 {
		milliseconds := -1
		if timeout > 0 {
			milliseconds = int((timeout + time.Millisecond - 1) / time.Millisecond)
		}
		n, err = unix.EpollWait(l.epoll, l.events[:], milliseconds)
	}
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("waiting for events: %w", err)
	}
	l.dispatch(l.events[:n])
	return nil
}

// dispatch handles events.
func (l *loop) dispatch(events []unix.EpollEvent) {
	for _, e := range events {
		if s := &l.slots[e.Fd]; s.h != nil && s.generation == e.Pad {
			s.h.ready(e.Events)
		}
	}
}

// wait is epoll_wait without telling the Go scheduler, which is right as long as it does not block, or nobody misses
// the thread.
func wait(epoll int, events []unix.EpollEvent, milliseconds int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), uintptr(milliseconds), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// rawRead and rawWrite are for descriptors that never block.
func rawRead(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func rawWrite(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
