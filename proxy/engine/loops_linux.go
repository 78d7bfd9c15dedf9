package engine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// New returns the engine for Linux: event loops over epoll(7).
//
// Each loop is one goroutine that serves many legs: it waits for all of them at once, reads
// into a buffer that they share, and makes all Handler calls of its groups. An idle leg is a
// small struct and no buffer. The legs of a group are on the same loop. For a relayed message a
// busy loop makes a read, a write and a share of an epoll_wait.
//
// TCP and unix stream sockets are served so, and TLS over them (ServerTLS) after its handshake.
// Conns of any other kind, and those for which the process has no descriptor left to spare
// for a moment, get a portable leg (NewPortable).
//
// The loops begin with the first Group. A loop is not locked to a thread, and may keep a
// processor busy, a single one also while it waits for some milliseconds: GOMAXPROCS should be
// one more than Options.Loops, or handshakes and all else wait until the scheduler takes it
// away from them.
func New(o Options) Engine {
	if o.Loops <= 0 {
		o.Loops = max(1, runtime.GOMAXPROCS(0)-1)
	}
	if o.Linger <= 0 {
		o.Linger = defaultLinger
	}
	portable := o
	if o.ReadBuffer <= 0 {
		o.ReadBuffer = 256 << 10
	}
	return &loops{o: o, start: time.Now(), portable: NewPortable(portable).(*portableEngine), buffers: newPool(o.ReadBuffer)}
}

// loops is the engine over event loops.
type loops struct {
	o        Options
	start    time.Time
	portable *portableEngine // for the conns that the loops can't serve
	buffers  *sync.Pool      // of ReadBuffer bytes, for the loops

	mu     sync.Mutex
	all    []*loop // begun, or none
	closed bool
}

// now is the loops' clock: monotonic, in nanoseconds.
func (e *loops) now() int64 { return int64(time.Since(e.start)) }

func (e *loops) Group(h Handler, room *Room) Group {
	lp := e.pick()
	if lp == nil {
		return e.portable.Group(h, nil)
	}
	if room == nil {
		room = new(Room)
	}
	g := &room.g
	g.lp, g.h = lp, h
	return g
}

// pick returns the loop with the fewest legs; nil if there is none.
func (e *loops) pick() *loop {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.all == nil && e.begin() != nil {
		return nil // for want of descriptors, perhaps: the next one may have more luck
	}
	best := e.all[0]
	for _, lp := range e.all[1:] {
		if lp.load.Load() < best.load.Load() {
			best = lp
		}
	}
	return best
}

func (e *loops) begin() error {
	for range e.o.Loops {
		lp, err := newLoop(e)
		if err != nil {
			for _, lp := range e.all {
				lp.shut()
			}
			e.all = nil
			return fmt.Errorf("begin an event loop: %w", err)
		}
		e.all = append(e.all, lp)
	}
	for _, lp := range e.all {
		go lp.run()
	}
	return nil
}

func (e *loops) Close() {
	e.mu.Lock()
	e.closed = true
	all := e.all
	e.mu.Unlock()
	for _, lp := range all {
		lp.endAll()
	}
	e.portable.Close()
	for _, lp := range all {
		<-lp.done
	}
}

// A Room is what a group takes of its owner's memory. Owners that lie side by side have their groups there as well:
// small objects of their own would be scattered among what handshakes leave behind.
type Room struct{ g loopGroup }

// A loopGroup is the timer and the legs of one owner on one loop. The first two legs, most have no more, are
// part of it.
type loopGroup struct {
	lp    *loop
	h     Handler
	timer timer
	first [2]loopLeg // taken once g is set, and never again: owners tell legs by their identity

	other    *portableGroup // of conns that a loop can't serve; nil while there have been none
	users    int32          // legs in the loop's slots, and other; guarded by lp.mu, as is the next
	released bool
}

// newLeg is for Add, which the owner calls once at a time.
func (g *loopGroup) newLeg() *loopLeg {
	for i := range g.first {
		if l := &g.first[i]; l.g == nil {
			return l
		}
	}
	return new(loopLeg)
}

func (g *loopGroup) Add(conn net.Conn, early []byte) Leg {
	if l := g.lp.add(g, conn, early); l != nil {
		return l
	}
	if g.other == nil {
		g.other = g.lp.e.portable.group(g.h, g.otherOver)
		g.lp.mu.Lock()
		g.users++
		g.lp.mu.Unlock()
	}
	return g.other.Add(conn, early)
}

func (g *loopGroup) Wake(d time.Duration) { g.lp.set(&g.timer, g, d) }
func (g *loopGroup) due()                 { g.h.Tick() }

func (g *loopGroup) Release() {
	lp, other := g.lp, g.other
	lp.mu.Lock()
	lp.timers.remove(&g.timer)
	g.released = true
	lp.release(g)
	lp.mu.Unlock()
	if other != nil {
		other.Release()
	}
}

func (g *loopGroup) otherOver() {
	lp := g.lp
	lp.mu.Lock()
	defer lp.mu.Unlock()
	g.users--
	lp.release(g)
}

// add takes conn over; nil if a loop can't, and then conn is as it was.
func (lp *loop) add(g *loopGroup, conn net.Conn, early []byte) *loopLeg {
	socket := conn
	secure, below := secured(conn)
	if secure != nil {
		socket = below.Conn
	}
	var fd int
	tcp, own := false, true
	before, _ := socket.(*Conn)
	if before != nil {
		tcp = true
		fd, own = before.borrow()
	} else {
		fd, tcp = duplicate(socket)
	}
	if fd < 0 {
		return nil
	}
	l := g.newLeg()
	l.g, l.fd, l.paused = g, int32(fd), true
	if secure != nil {
		l.tls, below.Conn = secure, (*legWire)(l)
		l.ahead, l.unread = true, true
	}
	if timeout := lp.e.o.UserTimeout; timeout > 0 && (before == nil || before.userTimeout != timeout) {
		l.watched = !tcp || userTimeout(fd, timeout) != nil
	}
	if len(early) > 0 {
		l.in = getBuffer(len(early))
		l.in.w = copy(l.in.b, early)
	}
	if err := lp.register(l); err != nil {
		if own {
			_ = closeFD(fd)
		}
		if l.in != nil {
			l.in.free()
		}
		if secure != nil {
			below.Conn = socket
		}
		return nil // l is over: endAll may still look at it
	}
	if !own {
		before.gone()
		return l
	}
	// The duplicate is the socket now: closing the conn frees what Go keeps for it.
	_ = socket.Close()
	return l
}

// duplicate returns another descriptor of the socket that conn is, or -1. The type itself
// decides, not SyscallConn: a type that embeds a socket to change its Read has that too.
func duplicate(conn net.Conn) (fd int, tcp bool) {
	var raw syscall.RawConn
	var err error
	switch c := conn.(type) {
	case *net.TCPConn:
		tcp = true
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		if c.LocalAddr().Network() != "unix" {
			return -1, false
		}
		raw, err = c.SyscallConn()
	default:
		return -1, false
	}
	if err != nil {
		return -1, false
	}
	fd = -1
	if err := raw.Control(func(old uintptr) {
		// The runtime has made the socket non-blocking, which is a property of what both
		// descriptors stand for.
		if n, err := unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = n
		}
	}); err != nil && fd >= 0 {
		_ = closeFD(fd)
		return -1, false
	}
	return fd, tcp
}

var errLoopClosed = errors.New("the event loop is closed")

// socketError is what a system call on a leg's socket failed with.
func socketError(call string, err error) error { return os.NewSyscallError(call, err) }
