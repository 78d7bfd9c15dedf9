package engine

import (
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tideover/tideover/proxy/prefetch"
)

const (
	// turnEvents is how many events a loop takes from the system at a time.
	turnEvents = 256
	// turnQueue is how many of the legs in its queue a loop serves between two looks for events.
	turnQueue = 16
	// timerGrain is what timers are rounded up to, so that a loop with thousands of them
	// wakes up some hundred times a second at most.
	timerGrain = int64(4 * time.Millisecond)
	// patience is for how many milliseconds a loop lingers: waits before Go's scheduler hears of it. What a busy loop
	// waits for comes sooner, and then nobody has taken its place meanwhile, which it would have to get back first. It
	// is longer than the tick of most systems, for which there is a timer already: short waits would set one each.
	patience = 8
	// maxMissed is how many waits a loop makes without lingering, once it has lingered in vain for long.
	maxMissed = 63
)

// A loop serves legs. It waits for their sockets by itself: were its epoll descriptor watched
// by the runtime's poller, a thread that waits there would wake up for every event of a busy
// loop, only to find that nobody waits.
type loop struct {
	e      *loops
	epfd   int
	load   atomic.Int32
	done   chan struct{} // closed when the loop has ended
	asleep atomic.Bool   // it is about to wait, or waits: whoever has work for it wakes it

	wakeMu sync.Mutex
	wakefd int // an eventfd; -1 once it is closed, for its number may be somebody else's by then

	// The loop's own.
	buf     *buffer // what every leg is read into
	events  [turnEvents]unix.EpollEvent
	ready   [turnEvents]*loopLeg
	work    []*loopLeg
	sealed  tlsInput
	missed  int  // how many waits were made without lingering, after the last in vain
	skip    int  // how many are still to be made so
	untidy  bool // there is something for tidy
	aborted bool // all legs were closed, because the engine was

	mu     sync.Mutex // a leaf: may be taken with a leg locked
	slots  []slot
	free   []uint32
	live   int // legs in slots
	closed bool
	queue  legQueue   // legs with something due
	limbo  groupQueue // groups to be told that they are over
	timers timers
}

// A legQueue is first in, first out.
type legQueue struct {
	legs  []*loopLeg
	head  int    // those before it have been taken
	added uint64 // ever
}

func (q *legQueue) len() int { return len(q.legs) - q.head }
func (q *legQueue) add(l *loopLeg) {
	q.legs = append(q.legs, l)
	q.added++
}

// take appends the first legs, n at most, to dst.
func (q *legQueue) take(dst []*loopLeg, n int) []*loopLeg {
	first := q.legs[q.head : q.head+min(n, q.len())]
	dst = append(dst, first...)
	clear(first)
	if q.head += len(first); q.head > len(q.legs)/2 {
		// Moving half of them costs no more than taking the other half did.
		n := copy(q.legs, q.legs[q.head:])
		clear(q.legs[n:])
		q.legs, q.head = q.legs[:n], 0
	}
	return dst
}

// A groupQueue holds groups that were released and have lost all their legs. The loop's queue of legs, or what it serves just
// now, may still list some of these: a group leaves once the loop has taken every leg that was queued before it.
type groupQueue []groupAfter

type groupAfter struct {
	g     *loopGroup
	added uint64 // the legs' queue when g came
}

// take removes and returns the first group, if legs is that far; else nil. It is called between two turns.
func (q *groupQueue) take(legs *legQueue) *loopGroup {
	if len(*q) == 0 || (*q)[0].added > legs.added-uint64(legs.len()) {
		return nil
	}
	g := (*q)[0].g
	(*q)[0] = groupAfter{}
	if *q = (*q)[1:]; len(*q) == 0 {
		*q = nil
	}
	return g
}

// release puts g into limbo, if it is released and has no leg any more. mu is held; without it g may be gone.
func (lp *loop) release(g *loopGroup) {
	if g.released && g.users == 0 {
		lp.limbo = append(lp.limbo, groupAfter{g, lp.queue.added})
		lp.wake()
	}
}

// A slot is where a leg's events are addressed to. Its generation tells a late event for a
// leg that was there before from one for the leg that is.
type slot struct {
	leg *loopLeg
	gen uint32
}

// wakeSlot is the slot of the eventfd.
const wakeSlot = -1

func newLoop(e *loops) (_ *loop, err error) {
	lp := &loop{e: e, epfd: -1, wakefd: -1, done: make(chan struct{}), buf: e.buffers.Get().(*buffer)}
	defer func() {
		if err != nil {
			lp.shut()
		}
	}()
	if lp.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if lp.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: wakeSlot}
	return lp, os.NewSyscallError("epoll_ctl", addToEpoll(lp.epfd, lp.wakefd, &ev))
}

// shut closes what newLoop opened.
func (lp *loop) shut() {
	lp.wakeMu.Lock()
	if lp.wakefd >= 0 {
		_ = closeFD(lp.wakefd)
		lp.wakefd = -1
	}
	lp.wakeMu.Unlock()
	if lp.epfd >= 0 {
		_ = closeFD(lp.epfd)
	}
}

// run is the loop's goroutine. It ends when the engine is closed and the last leg is gone.
func (lp *loop) run() {
	defer close(lp.done)
	defer lp.shut()
	for {
		if lp.untidy {
			lp.tidy()
		}
		lp.asleep.Store(true)
		wait, over := lp.pending()
		if over {
			return
		}
		n := 0
		if wait == 0 {
			lp.asleep.Store(false)
			n = pollFor(lp.epfd, lp.events[:], 0)
		} else {
			n = lp.await(wait)
			lp.asleep.Store(false)
		}
		lp.fire()
		lp.serveReady(n)
		lp.serveQueue()
	}
}

// tidy says to groups that they are over, and once the engine is closed it closes all legs. Here, between two turns, the
// loop itself has no leg in hand.
func (lp *loop) tidy() {
	lp.mu.Lock()
	for g := lp.limbo.take(&lp.queue); g != nil; g = lp.limbo.take(&lp.queue) {
		h := g.h
		lp.mu.Unlock()
		h.Over() // g may be gone from here on
		lp.mu.Lock()
	}
	abort := lp.closed && !lp.aborted
	lp.aborted = lp.closed
	lp.mu.Unlock()
	if abort {
		lp.abortAll()
	}
}

// await waits for events, for so many milliseconds at most (negative: without end). A loop that is the only one lingers
// first, for which a timer may be late by patience, but the less often the longer that has been in vain: with little to
// do it gains nothing. Of several, each would keep a processor of Go's from handshakes that could use it.
func (lp *loop) await(ms int) (n int) {
	switch {
	case lp.e.o.Loops > 1:
	case lp.skip > 0:
		lp.skip--
	default:
		if n = pollFor(lp.epfd, lp.events[:], patience); n > 0 {
			lp.missed = 0
			return n
		}
		lp.missed = min(2*lp.missed+1, maxMissed)
		lp.skip = lp.missed
		ms = remaining(ms)
	}
	return waitFD(lp.epfd, lp.events[:], ms)
}

// remaining is what is left of a wait after lingering, so that no timer is late by more than patience.
func remaining(ms int) int {
	if ms < 0 {
		return ms
	}
	return max(0, ms-patience)
}

// serveReady serves the legs of the first n events.
func (lp *loop) serveReady(n int) {
	if n == 0 {
		return
	}
	lp.mu.Lock()
	for i := range n {
		ev := &lp.events[i]
		lp.ready[i] = nil
		if ev.Fd != wakeSlot && lp.slots[ev.Fd].gen == uint32(ev.Pad) {
			lp.ready[i] = lp.slots[ev.Fd].leg
			prefetch.Lines(uintptr(unsafe.Pointer(lp.ready[i])), legLines)
		}
	}
	lp.mu.Unlock()
	for i := range n {
		lp.foresee(lp.ready[i:n])
		if l := lp.ready[i]; l != nil {
			l.mu.Lock()
			l.note(lp.events[i].Events)
			if lp.events[i].Events&endEvents == 0 {
				lp.serve(l)
				continue
			}
			// An end takes longer than a message. When thousands come at once, those who still talk go first. (l can't be over:
			// it would have been served in this turn already, but has one event in it.)
			lp.enqueue(l)
			l.mu.Unlock()
		}
	}
}

const (
	legLines   = (int(unsafe.Sizeof(loopLeg{})) + prefetch.Line - 1) / prefetch.Line
	groupLines = (int(unsafe.Sizeof(loopGroup{})) + prefetch.Line - 1) / prefetch.Line
)

// foresee has memory fetched for the legs that are next: what is found through a leg when the leg itself has come, and so on.
// With a thousand sessions that talk in turn, none finds what it left in the processor's nearest caches.
func (lp *loop) foresee(ready []*loopLeg) {
	if len(ready) > 2 && ready[2] != nil {
		prefetch.Lines(uintptr(unsafe.Pointer(ready[2].g)), groupLines)
	}
	if len(ready) > 1 && ready[1] != nil {
		ready[1].g.h.Expect(ready[1], 1)
	}
	if ready[0] != nil {
		ready[0].g.h.Expect(ready[0], 0)
	}
}

// serveQueue serves some of the legs that are queued now; the others, and those that are queued meanwhile, have their
// turn after the next look for events.
func (lp *loop) serveQueue() {
	lp.mu.Lock()
	lp.work = lp.queue.take(lp.work[:0], turnQueue)
	lp.mu.Unlock()
	for i, l := range lp.work {
		lp.work[i] = nil
		l.mu.Lock()
		l.queued = false
		lp.serve(l)
	}
}

// pending tells how many milliseconds the loop may wait for events (0: it has something to do;
// negative: without end), and whether it is at its end.
func (lp *loop) pending() (wait int, over bool) {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	lp.untidy = len(lp.limbo) > 0 || lp.closed != lp.aborted
	switch {
	case lp.queue.len() > 0 || lp.untidy:
		return 0, false
	case lp.closed:
		return -1, lp.live == 0
	}
	at, ok := lp.timers.next()
	if !ok {
		return -1, false
	}
	left := time.Duration(at - lp.e.now())
	return int(min(max(0, left+time.Millisecond-1), time.Hour) / time.Millisecond), false
}

// fire lets what is due happen.
func (lp *loop) fire() {
	lp.mu.Lock()
	if len(lp.timers) == 0 || lp.closed {
		lp.mu.Unlock()
		return
	}
	now := lp.e.now()
	for range turnEvents {
		t := lp.timers.pop(now)
		if t == nil {
			break
		}
		owner := t.owner
		lp.mu.Unlock()
		owner.due()
		lp.mu.Lock()
	}
	lp.mu.Unlock()
}

// set has owner.due called by the loop after d.
func (lp *loop) set(t *timer, owner interface{ due() }, d time.Duration) {
	at := (lp.e.now() + int64(d) + timerGrain - 1) / timerGrain * timerGrain
	lp.mu.Lock()
	t.owner = owner
	lp.timers.set(t, at)
	first := t.index == 1
	lp.mu.Unlock()
	if first {
		lp.wake()
	}
}

func (lp *loop) stop(t *timer) {
	lp.mu.Lock()
	lp.timers.remove(t)
	lp.mu.Unlock()
}

// enqueue has a leg served soon. l is locked, or not yet known to anybody else.
func (lp *loop) enqueue(l *loopLeg) {
	if l.queued {
		return
	}
	l.queued = true
	lp.mu.Lock()
	lp.queue.add(l)
	lp.mu.Unlock()
	lp.wake()
}

// wake ends the loop's wait, if it waits: it looks at its queue and its timers then. Each
// write to an eventfd is an event of its own; nobody has to read it.
func (lp *loop) wake() {
	if lp.asleep.Load() && lp.asleep.CompareAndSwap(true, false) {
		var one = [8]byte{1}
		lp.wakeMu.Lock()
		if lp.wakefd >= 0 {
			_, _ = unix.Write(lp.wakefd, one[:])
		}
		lp.wakeMu.Unlock()
	}
}

// register gives l a slot and has its socket watched. The call to the system is made without mu: a loop that waits for
// events may get one in the middle of it.
func (lp *loop) register(l *loopLeg) error {
	lp.mu.Lock()
	if lp.closed {
		lp.mu.Unlock()
		return errLoopClosed
	}
	if len(lp.free) > 0 {
		l.slot = lp.free[len(lp.free)-1]
		lp.free = lp.free[:len(lp.free)-1]
	} else {
		l.slot = uint32(len(lp.slots))
		lp.slots = append(lp.slots, slot{})
	}
	s := &lp.slots[l.slot]
	s.leg = l
	ev := eventsOf(l, s, 0)
	l.g.users++
	lp.live++
	lp.load.Add(1)
	lp.mu.Unlock()
	err := addToEpoll(lp.epfd, int(l.fd), &ev)
	if err == nil {
		return nil
	}
	l.mu.Lock()
	refused := l.state == open
	if refused {
		l.state = over
	}
	l.mu.Unlock()
	if !refused {
		return nil // endAll was faster: the loop closes l as any other
	}
	lp.unregister(l)
	return os.NewSyscallError("epoll_ctl", err)
}

// watchRoom has the system tell of room for l to write as well. Hardly any leg ever needs that, and each would begin with such
// an event.
func (lp *loop) watchRoom(l *loopLeg) error {
	lp.mu.Lock()
	ev := eventsOf(l, &lp.slots[l.slot], unix.EPOLLOUT)
	lp.mu.Unlock()
	return os.NewSyscallError("epoll_ctl", changeInEpoll(lp.epfd, int(l.fd), &ev))
}

// eventsOf is what the system is asked to tell of l.
func eventsOf(l *loopLeg, s *slot, more uint32) unix.EpollEvent {
	return unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET | more,
		Fd:     int32(l.slot), Pad: int32(s.gen),
	}
}

// unregister frees the slot of l, whose socket is closed.
func (lp *loop) unregister(l *loopLeg) {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	s := &lp.slots[l.slot]
	s.leg = nil
	s.gen++
	lp.free = append(lp.free, l.slot)
	lp.live--
	lp.load.Add(-1)
	l.g.users--
	lp.release(l.g)
}

// endAll begins the end of the loop.
func (lp *loop) endAll() {
	lp.mu.Lock()
	lp.closed = true
	lp.mu.Unlock()
	lp.wake()
}

func (lp *loop) abortAll() {
	lp.mu.Lock()
	var all []*loopLeg
	for i := range lp.slots {
		if l := lp.slots[i].leg; l != nil {
			all = append(all, l)
		}
	}
	lp.mu.Unlock()
	for _, l := range all {
		l.Close(false)
	}
}
