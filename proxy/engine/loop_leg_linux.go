package engine

import (
	"crypto/tls"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// A loopLeg is a socket on a loop. The loop alone reads and calls the Handler; the methods
// write, change what is wanted, and queue the leg where that makes something due.
type loopLeg struct {
	g    *loopGroup
	slot uint32
	fd   int32 // -1 once it is closed; mu

	mu           sync.Mutex
	state        state
	started      bool // Resume or Close was called
	paused       bool
	pausedInCall bool // Pause was called during the running Data call
	calling      bool // a Handler call is running: the loop looks again after it
	queued       bool // it is in the loop's queue
	unread       bool // the socket may have something to read
	hup          bool // its end is to be read, too: a short read does not mean that it is dry
	lastRead     bool // only the end is left to be read
	owed         bool // Write reported a backlog, Writable has not been called since
	sent         bool // closing: all is written and the sending side shut down
	reset        bool // close the socket with a reset
	watched      bool // the engine itself sees to UserTimeout
	roomWatched  bool // the system tells of room for writing
	ahead        bool // crypto/tls may hold bytes that it has not been asked for
	gathering    bool // records go to the backlog, for one system call

	in  *buffer   // read (or early) and not consumed, or nil
	out *backlog  // nil while there has been none
	tls *tls.Conn // nil for plain bytes
	end *ending   // nil while nothing has gone wrong or is being closed
}

// ending is what a leg needs only towards its end.
type ending struct {
	readErr  error // why nothing more can be read
	writeErr error // why nothing more can be written
	err      error // what Lost is told
	timer    timer // of a graceful Close, or for a backlog that makes no progress
}

func (l *loopLeg) ending() *ending {
	if l.end == nil {
		l.end = new(ending)
	}
	return l.end
}

func (l *loopLeg) backlogged() bool { return l.out != nil && l.out.size > 0 }

func (l *loopLeg) Write(bufs [][]byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != open || l.end != nil && l.end.writeErr != nil {
		return Refused
	}
	if l.tls != nil {
		return l.writeTLS(bufs)
	}
	if l.backlogged() {
		l.out.add(bufs, 0)
		return l.out.size
	}
	n, err := writeBufs(int(l.fd), bufs)
	if err != nil {
		l.failWrite(socketError("write", err))
		return Refused
	}
	size := 0
	for _, b := range bufs {
		size += len(b)
	}
	if n == size {
		return 0
	}
	if l.out == nil {
		l.out = new(backlog)
	}
	l.out.add(bufs, n)
	l.owed = true
	if !l.awaitRoom() {
		return Refused
	}
	l.watch()
	return l.out.size
}

func (l *loopLeg) Pause() {
	l.mu.Lock()
	l.paused, l.pausedInCall = true, true
	l.kick() // after a failed write the loss need not wait for input any more
	l.mu.Unlock()
}

func (l *loopLeg) Resume() {
	l.mu.Lock()
	l.started, l.paused = true, false
	l.kick()
	l.mu.Unlock()
}

func (l *loopLeg) Close(graceful bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started = true
	switch {
	case graceful && l.state == open && (l.end == nil || l.end.writeErr == nil):
		l.state = closing
		l.g.lp.set(&l.ending().timer, l, l.g.lp.e.o.Linger)
		if l.in != nil && !l.calling {
			l.in.free()
			l.in = nil
		}
		if l.tls != nil {
			_ = l.tls.CloseWrite() // close_notify goes out behind the backlog
		}
		if !l.backlogged() {
			l.shutWrite()
		}
	case l.state == open || l.state == closing && !graceful:
		l.finish(ErrAborted)
		l.reset = true
	}
	l.kick()
}

func (l *loopLeg) Stat() Stat {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s Stat
	if l.out != nil {
		s.Held = l.out.held
	}
	if l.in != nil {
		s.Held += len(l.in.b)
	}
	if l.fd >= 0 {
		s.Acked, s.AckedKnown = acked(int(l.fd))
	}
	return s
}

// What follows is called with mu held, unless it says otherwise.

// kick has the loop look at the leg if something is due, unless it will anyway.
func (l *loopLeg) kick() {
	if !l.calling && l.next() != doNothing {
		l.g.lp.enqueue(l)
	}
}

// finish settles how the leg ended, unless that is settled already.
func (l *loopLeg) finish(err error) {
	if l.state < ended {
		l.state, l.ending().err = ended, err
	}
}

// failWrite notes that nothing can be written any more. Unless the leg is paused, what
// the peer sent before is still handed over: its Close frame may be among it.
func (l *loopLeg) failWrite(err error) {
	e := l.ending()
	if e.writeErr != nil || l.state >= ended {
		return
	}
	e.writeErr = err
	l.owed = false
	if l.out != nil {
		l.out.drop(l.out.size)
	}
	if l.state == closing {
		l.reset = true
		l.finish(ErrAborted)
	} else if e.readErr == nil {
		l.unread = true
	}
	l.kick()
}

func (l *loopLeg) shutWrite() {
	if l.hup { // what is said after the peer's end is said by closing the socket, which is next
		l.sent = true
		return
	}
	if err := shutdownFD(int(l.fd), unix.SHUT_WR); err != nil {
		l.finish(ErrAborted)
		return
	}
	l.sent = true
}

// awaitRoom has the system tell when there is room again, after a write was cut short. On false no room is awaited any more.
func (l *loopLeg) awaitRoom() bool {
	if !l.roomWatched {
		if err := l.g.lp.watchRoom(l); err != nil {
			l.failWrite(err)
			return false
		}
		l.roomWatched = true
	}
	return true
}

// watch (re)starts the time that a backlog may go without progress, where the system does
// not see to that.
func (l *loopLeg) watch() {
	if l.watched && l.state == open {
		l.g.lp.set(&l.ending().timer, l, l.g.lp.e.o.UserTimeout)
	}
}

// due is called by the loop, without mu: a graceful Close, or a backlog, took too long.
func (l *loopLeg) due() {
	l.mu.Lock()
	switch {
	case l.state == closing:
		l.reset = !l.sent
		l.finish(ErrAborted)
	case l.state == open && l.backlogged():
		l.reset = true
		l.failWrite(ErrWriteTimeout)
	}
	l.g.lp.serve(l)
}

// endEvents are what epoll tells of a socket whose peer has ended, or that has failed.
const endEvents = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR

// note takes what epoll told of the socket.
func (l *loopLeg) note(events uint32) {
	if events&(unix.EPOLLIN|endEvents) != 0 && (l.end == nil || l.end.readErr == nil) {
		l.unread = true
		l.hup = l.hup || events&endEvents != 0
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 && l.backlogged() && l.state <= closing {
		l.flush()
	}
}

// flush writes the backlog until the socket is full.
func (l *loopLeg) flush() {
	for l.backlogged() {
		var vec [maxVec][]byte
		n, err := writeVec(int(l.fd), l.out.front(vec[:]))
		if err != nil {
			l.failWrite(socketError("write", err))
			return
		}
		if n == 0 {
			l.awaitRoom()
			return
		}
		l.out.drop(n)
		l.watch()
	}
	switch {
	case l.state == closing:
		l.shutWrite()
	case l.watched && l.end != nil:
		l.g.lp.stop(&l.end.timer)
	}
}

// What a loop does for a leg.
type deed uint8

const (
	doNothing deed = iota
	doRead         // and hand over
	doData         // hand over what was kept
	doDiscard      // read and throw away
	doWritable
	doLost
)

// next tells what is due, and settles the end once all before it is told.
func (l *loopLeg) next() deed {
	if !l.started {
		return doNothing
	}
	e := l.end
	switch l.state {
	case open:
		switch {
		case l.owed && !l.backlogged():
			return doWritable
		case l.in != nil && !l.paused:
			return doData
		case e != nil && e.writeErr != nil && (l.paused || !l.unread):
			l.finish(e.writeErr)
		case e != nil && e.readErr != nil && !l.paused:
			l.finish(e.readErr)
		case l.unread && !l.paused:
			return doRead
		}
	case closing:
		switch {
		case e.readErr != nil && (l.sent || e.readErr != io.EOF):
			l.finish(ErrAborted)
		case l.unread:
			return doDiscard
		}
	}
	if l.state == ended {
		return doLost
	}
	return doNothing
}

// serve does what is due for l, one read at the most: a leg that always has something to
// read must not hold the others up. It is called by the loop, and unlocks l.
func (lp *loop) serve(l *loopLeg) {
	for reads := 0; ; {
		switch l.next() {
		case doData:
			b := l.in
			l.in = nil
			if rest := lp.deliver(l, b.b[b.r:b.w]); rest > 0 {
				b.r = b.w - rest
				l.in = b.fit()
			} else {
				b.free()
			}
		case doRead, doDiscard:
			if l.lastRead && l.state == closing {
				l.end.readErr, l.unread = io.EOF, false
				continue
			}
			if reads++; reads > 1 {
				lp.enqueue(l)
				l.mu.Unlock()
				return
			}
			read := lp.read
			if l.tls != nil && l.state == open {
				read = lp.readTLS
			}
			if b := read(l); len(b) > 0 && l.state == open {
				if rest := lp.deliver(l, b); rest > 0 {
					l.in = lp.keep(b, rest)
				}
			}
		case doWritable:
			l.owed, l.calling = false, true
			l.mu.Unlock()
			l.g.h.Writable(l)
			l.mu.Lock()
			l.calling = false
		case doLost:
			lp.lose(l)
			return
		default:
			l.mu.Unlock()
			return
		}
	}
}

// read reads once, into the loop's buffer. A short read has emptied the socket: what comes
// after it is told by a new event.
func (lp *loop) read(l *loopLeg) []byte {
	n, errno := readFD(int(l.fd), lp.buf.b)
	switch {
	case n > 0:
		l.unread = l.hup || n == len(lp.buf.b)
		l.lastRead = l.hup && n < len(lp.buf.b) // but for urgent data, on which recv stops: only who reads on sees it
		return lp.buf.b[:n]
	case errno == unix.EAGAIN:
	case errno == 0:
		l.ending().readErr = io.EOF
	default:
		l.ending().readErr = socketError("read", errno)
	}
	l.unread = false
	return nil
}

// deliver hands b over, and returns how many bytes at its end are to be kept. It lets mu go meanwhile.
func (lp *loop) deliver(l *loopLeg, b []byte) (rest int) {
	l.calling, l.pausedInCall = true, false
	l.mu.Unlock()
	n := l.g.h.Data(l, b)
	l.mu.Lock()
	l.calling = false
	if n == len(b) || l.state != open {
		return 0
	}
	if n < 0 || n > len(b) || !l.pausedInCall {
		l.reset = true
		l.finish(fmt.Errorf("handing over %d bytes: the handler consumed %d without a Pause", len(b), n))
		return 0
	}
	return len(b) - n
}

// keep returns a buffer with the last rest bytes of what was read. Where they fill most of the loop's own, that is kept as it is,
// and the loop takes another.
func (lp *loop) keep(b []byte, rest int) *buffer {
	if own := lp.buf; 2*rest > len(own.b) && &b[0] == &own.b[0] {
		own.r, own.w = len(b)-rest, len(b)
		lp.buf = lp.e.buffers.Get().(*buffer)
		return own
	}
	kept := getBuffer(rest)
	kept.w = copy(kept.b, b[len(b)-rest:])
	return kept
}

// lose makes the last call for l, and lets its socket and memory go. It unlocks l.
func (lp *loop) lose(l *loopLeg) {
	l.state, l.calling = over, true
	err := l.end.err
	l.mu.Unlock()
	l.g.h.Lost(l, err)
	l.mu.Lock()
	lp.stop(&l.end.timer)
	if l.reset {
		// Ignored where it is no TCP socket.
		_ = unix.SetsockoptLinger(int(l.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	_ = closeFD(int(l.fd))
	l.fd, l.tls = -1, nil
	if l.in != nil {
		l.in.free()
		l.in = nil
	}
	if l.out != nil {
		l.out.drop(l.out.size)
	}
	l.mu.Unlock()
	lp.unregister(l)
}
