package engine

import (
	"net"
	"sync"
	"syscall"
	"time"
)

// NewPortable returns the engine for every system: a goroutine for each leg that reads,
// over net.Conn. An idle leg holds no buffer, and no leg has a goroutine for writing
// unless it has a backlog.
//
// Two ways to move bytes share one state machine. TCP and unix stream sockets on Linux
// and macOS are read and written without blocking (portable_unix.go). Every other
// conn, tls.Conn and in-memory ones among them, is read with blocking calls into a small
// buffer that grows with the traffic, and written by a goroutine that lives as long as
// the backlog (portable_loop.go): such a leg reports a backlog for every Write.
//
// What it costs, for sockets on Linux. A relayed message: three system calls, which are a
// read, a write and the read that finds nothing more, and at light load a share of the
// runtime's epoll_pwait; no allocation. An idle leg: about 0.5 KiB of heap and, for its
// goroutine, 4 KiB of stack, or more where a Handler's call goes deep, until the next garbage
// collection (BenchmarkPortableIdleLegs); over other conns 1 KiB of read buffer besides. A
// paused leg has no goroutine; what it holds is in Stat.Held.
func NewPortable(o Options) Engine {
	if o.ReadBuffer <= 0 {
		o.ReadBuffer = 64 << 10
	}
	if o.Linger <= 0 {
		o.Linger = defaultLinger
	}
	e := &portableEngine{o: o, buffers: newPool(o.ReadBuffer), legs: make(map[*leg]struct{})}
	e.gone.L = &e.mu
	return e
}

type portableEngine struct {
	o       Options
	buffers *sync.Pool // of ReadBuffer bytes

	mu     sync.Mutex
	closed bool
	legs   map[*leg]struct{} // those with a Lost call to come or a goroutine left
	ticks  int               // Tick and Over calls that run
	gone   sync.Cond         // a leg has left the map, or a Tick or Over call has ended
}

func (e *portableEngine) Group(h Handler, _ *Room) Group { return e.group(h, h.Over) }

// add is Group.Add.
func (e *portableEngine) add(g *portableGroup, conn net.Conn, early []byte) Leg {
	l := &leg{e: e, g: g, h: g.h, conn: conn, paused: true}
	_ = conn.SetDeadline(time.Time{}) // a handshake may have left one
	systemTimeout := false
	if tcp := tcpOf(conn); tcp != nil {
		_ = tcp.SetNoDelay(true)
		_ = tcp.SetKeepAlive(false) // heartbeats do that
		if e.o.UserTimeout > 0 {
			systemTimeout = setUserTimeout(tcp, e.o.UserTimeout) == nil
		}
	}
	l.openRaw()
	if e.o.UserTimeout > 0 && !(systemTimeout && l.raw != nil) {
		l.writeTimeout = e.o.UserTimeout
	}
	if len(early) > 0 {
		l.in = getBuffer(len(early))
		l.in.w = copy(l.in.b, early)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		l.state, l.err = ended, ErrAborted
	} else {
		e.legs[l] = struct{}{}
	}
	return l
}

func (e *portableEngine) Close() {
	e.mu.Lock()
	e.closed = true
	all := make([]*leg, 0, len(e.legs))
	for l := range e.legs {
		all = append(all, l)
	}
	e.mu.Unlock()
	for _, l := range all {
		l.Close(false)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.legs) > 0 || e.ticks > 0 {
		e.gone.Wait()
	}
}

// enter begins a Tick or Over call, unless the engine is closed; exit ends it.
func (e *portableEngine) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.ticks++
	}
	return !e.closed
}

func (e *portableEngine) exit() {
	e.mu.Lock()
	e.ticks--
	e.mu.Unlock()
	e.gone.Broadcast()
}

func (e *portableEngine) remove(l *leg) {
	l.g.leave()
	e.mu.Lock()
	delete(e.legs, l)
	e.mu.Unlock()
	e.gone.Broadcast()
}

type state uint8

const (
	// open: bytes go both ways. Close and a loss leave it.
	open state = iota
	// closing: Close(true) was called; the backlog goes out, input is thrown away. Left
	// when the peer has finished too, on any error, and by the linger timer.
	closing
	// ended: how the leg ended is known, only the Lost call is to come.
	ended
	// over: the Lost call has begun; the socket is closed when it returns.
	over
)

// A leg has at most one goroutine that reads, one that flushes, and now and then a short
// one that makes a Handler call while the others wait for the socket. Whichever of them
// finds a call due makes it; calling keeps the others from overlapping it.
type leg struct {
	e    *portableEngine
	g    *portableGroup
	h    Handler
	conn net.Conn

	raw          syscall.RawConn // nil where only conn's blocking methods serve
	onReadable   func(fd uintptr) bool
	onWritable   func(fd uintptr) bool
	writeTimeout time.Duration // what the flusher has to enforce; 0 for none

	// The reading goroutine's own.
	got    *buffer
	gotErr error
	small  int // how much a blocking read asks for

	mu           sync.Mutex
	state        state
	started      bool // Resume or Close was called
	paused       bool
	calling      bool // a Handler call is running; stays set from Lost on
	pausedInCall bool // Pause was called during the running Data call
	owed         bool // Write reported a backlog, Writable has not been called since
	reading      bool // the reading goroutine exists
	parked       bool // and waits for the socket
	flushing     bool // the flushing goroutine exists
	sent         bool // closing: all is written and the sending side shut down
	drained      bool // after writeErr: nothing is left to be read
	reset        bool // close the socket with a reset
	running      int  // goroutines

	in       *buffer // read (or early) and not consumed, or nil
	out      backlog
	bufs     [][]byte // of the Write call that runs
	taken    int      // what the socket took of them
	flushErr error    // of the raw write that runs
	readErr  error    // why nothing more can be read
	writeErr error    // why nothing more can be written
	err      error    // what Lost is told
	timer    *time.Timer
}

func (l *leg) Write(bufs [][]byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != open || l.writeErr != nil {
		return Refused
	}
	n := 0
	if l.raw != nil && !l.flushing {
		var err error
		if n, err = l.writeNow(bufs); err != nil {
			l.failWrite(err)
			return Refused
		}
	}
	l.out.add(bufs, n)
	if l.out.size > 0 {
		l.owed = true
		l.startFlush()
	}
	return l.out.size
}

func (l *leg) Pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused, l.pausedInCall = true, true
	l.kick() // after a failed write the loss need not wait for input any more
}

func (l *leg) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started, l.paused = true, false
	l.kick()
}

func (l *leg) Close(graceful bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started = true
	switch {
	case graceful && l.state == open && l.writeErr == nil:
		l.state = closing
		l.timer = time.AfterFunc(l.e.o.Linger, l.timeOver)
		l.dropInput()
		l.startFlush() // also without a backlog: shutting down may block
	case l.state == open || l.state == closing && !graceful:
		l.end(ErrAborted)
		l.reset = true
	}
	l.kick()
}

func (l *leg) Stat() Stat {
	l.mu.Lock()
	s := Stat{Held: l.out.held}
	if l.in != nil {
		s.Held += len(l.in.b)
	}
	l.mu.Unlock()
	if tcp := tcpOf(l.conn); tcp != nil {
		s.Acked, s.AckedKnown = ackedBytes(tcp)
	}
	return s
}

func (l *leg) closeSocket() {
	l.mu.Lock()
	if l.timer != nil {
		l.timer.Stop()
	}
	reset, sent := l.reset, l.sent
	l.mu.Unlock()
	if tcp := tcpOf(l.conn); tcp != nil && reset {
		_ = tcp.SetLinger(0)
	}
	if c, ok := l.conn.(interface{ NetConn() net.Conn }); ok && !sent {
		_ = c.NetConn().Close() // else tls.Conn.Close would wait to send its close_notify
	}
	_ = l.conn.Close()
}

// tcpOf returns the TCP socket that conn is, or that a tls.Conn runs over, or nil.
func tcpOf(conn net.Conn) *net.TCPConn {
	for {
		c, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = c.NetConn()
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}
