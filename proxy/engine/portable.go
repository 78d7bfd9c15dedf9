package engine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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
// the backlog (portable.go): such a leg reports a backlog for every Write.
func NewPortable(o Options) Engine {
	if o.ReadBuffer <= 0 {
		o.ReadBuffer = 64 << 10
	}
	if o.Linger <= 0 {
		o.Linger = 5 * time.Second
	}
	e := &portable{o: o, buffers: newPool(o.ReadBuffer), legs: make(map[*leg]struct{})}
	e.gone.L = &e.mu
	return e
}

type portable struct {
	o       Options
	buffers *sync.Pool // of ReadBuffer bytes

	mu     sync.Mutex
	closed bool
	legs   map[*leg]struct{} // those with a Lost call to come or a goroutine left
	gone   sync.Cond         // a leg has left the map
}

func (e *portable) Add(conn net.Conn, early []byte, h Handler) Leg {
	l := &leg{e: e, h: h, conn: conn, paused: true}
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

func (e *portable) Close() {
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
	for len(e.legs) > 0 {
		e.gone.Wait()
	}
}

func (e *portable) remove(l *leg) {
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
	e    *portable
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
		return 0
	}
	n := 0
	if l.raw != nil && !l.flushing {
		var err error
		if n, err = l.writeNow(bufs); err != nil {
			l.failWrite(err)
			return 0
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
	case l.state <= closing:
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

// Everything below up to the goroutines is called with mu held.

// end settles how the leg ended, unless that is settled already.
func (l *leg) end(err error) {
	if l.state < ended {
		l.state, l.err = ended, err
	}
}

func (l *leg) dropInput() {
	if l.in != nil && !l.calling {
		l.in.free()
		l.in = nil
	}
}

// failWrite notes that nothing can be written any more. Unless the leg is paused, what
// the peer sent before is still handed over: its Close frame may be among it.
func (l *leg) failWrite(err error) {
	if l.writeErr != nil || l.state >= ended {
		return
	}
	l.writeErr = err
	l.owed = false
	if l.state == closing {
		l.reset = true
		l.end(ErrAborted)
	} else if l.raw == nil {
		// A read that waits can't be told to look once more and return: give it a
		// moment. The peer's bytes, and mostly the read's own error, are there by then.
		l.timer = time.AfterFunc(drainTime, l.timeOver)
	} else if l.reading {
		_ = l.conn.SetReadDeadline(time.Unix(1, 0)) // wakes it
	}
	l.kick()
}

type call uint8

const (
	callNone call = iota
	callData
	callWritable
	callLost
)

// next tells which Handler call is due, and settles the end once all before it is told.
func (l *leg) next() call {
	if l.calling || !l.started {
		return callNone
	}
	if l.state == open {
		switch {
		case l.in != nil && !l.paused:
			return callData
		case l.writeErr != nil && (l.paused || l.drained || l.readErr != nil):
			l.end(l.writeErr)
		case l.readErr != nil && !l.paused:
			l.end(l.readErr)
		case l.owed && l.out.size == 0:
			return callWritable
		}
	}
	if l.state == ended {
		return callLost
	}
	return callNone
}

// wantsInput tells whether the reading goroutine has something to do.
func (l *leg) wantsInput() bool {
	switch l.state {
	case open:
		return l.started && !l.paused && l.in == nil && l.readErr == nil && !l.drained
	case closing:
		return l.readErr == nil
	}
	return false
}

// serve makes the Handler calls that are due, one after the other, and lets mu go meanwhile.
func (l *leg) serve() {
	for {
		switch l.next() {
		case callData:
			l.deliver()
		case callWritable:
			l.owed, l.calling = false, true
			l.mu.Unlock()
			l.h.Writable(l)
			l.mu.Lock()
			l.calling = false
		case callLost:
			l.state, l.calling = over, true
			l.mu.Unlock()
			l.h.Lost(l, l.err)
			l.closeSocket()
			l.mu.Lock()
		default:
			return
		}
	}
}

func (l *leg) deliver() {
	b := l.in
	size := b.len()
	l.calling, l.pausedInCall = true, false
	l.mu.Unlock()
	n := l.h.Data(l, b.b[b.r:b.w])
	l.mu.Lock()
	l.calling = false
	if n < 0 || n > size || n < size && !l.pausedInCall && l.state == open {
		l.reset = true
		l.end(fmt.Errorf("handing over %d bytes: the handler consumed %d without a Pause", size, n))
	}
	if n == size || l.state != open {
		b.free()
		l.in = nil
		return
	}
	b.r += n
	l.in = b.fit()
}

// kick sees to it that some goroutine does what has become due.
func (l *leg) kick() {
	switch {
	case !l.reading && (l.next() != callNone || l.wantsInput()):
		l.reading = true
		l.running++
		go l.read()
	case l.parked && l.next() != callNone:
		l.running++
		go l.callOut()
	}
}

func (l *leg) startFlush() {
	if !l.flushing {
		l.flushing = true
		l.running++
		go l.flush()
	}
}

// closingStep ends a graceful Close when both sides have finished.
func (l *leg) closingStep() {
	switch {
	case l.state != closing:
	case l.readErr != nil && l.readErr != io.EOF:
		l.end(ErrAborted)
	case l.sent && l.readErr != nil:
		l.end(ErrAborted)
	}
}

// leave ends a goroutine's work on the leg and lets mu go.
func (l *leg) leave() {
	l.running--
	last := l.state == over && l.running == 0
	if last {
		if l.in != nil {
			l.in.free()
			l.in = nil
		}
		l.out.drop(l.out.size)
	}
	l.mu.Unlock()
	if last {
		l.e.remove(l)
	}
}

// read is the reading goroutine. It ends when there is nothing to read for: a paused
// leg has none.
func (l *leg) read() {
	l.mu.Lock()
	for {
		l.serve()
		if !l.wantsInput() {
			break
		}
		l.parked = true
		l.mu.Unlock()
		if l.raw != nil {
			l.readRaw()
		} else {
			l.readBlocking()
		}
		l.mu.Lock()
		l.parked = false
		l.received()
	}
	l.reading = false
	l.leave()
}

const drainTime = time.Second

var errDrained = errors.New("nothing left to read")

// received files what a read brought. mu is held.
func (l *leg) received() {
	b, err := l.got, l.gotErr
	l.got, l.gotErr = nil, nil
	switch {
	case b == nil:
	case l.state != open:
		b.free()
	case l.paused:
		l.in = b.fit()
	default:
		l.in = b
	}
	switch {
	case err == nil:
	case err == errDrained:
		l.drained = true
	case l.writeErr != nil && errors.Is(err, os.ErrDeadlineExceeded): // failWrite woke us
		_ = l.conn.SetReadDeadline(time.Time{})
	default:
		l.readErr = err
		l.closingStep()
	}
}

// readBlocking waits in conn.Read, which needs a buffer beforehand: a small one, larger
// after a read that filled it.
func (l *leg) readBlocking() {
	b := getBuffer(max(l.small, classSizes[0]))
	n, err := l.conn.Read(b.b[:min(len(b.b), l.e.o.ReadBuffer)])
	switch {
	case n == len(b.b):
		l.small = min(4*n, maxClass)
	case n < len(b.b)/4:
		l.small = len(b.b) / 4
	}
	if n > 0 {
		b.w = n
		l.got = b
	} else {
		b.free()
	}
	l.gotErr = err
}

// flush is the flushing goroutine: it writes the backlog out and ends.
func (l *leg) flush() {
	l.mu.Lock()
	for l.out.size > 0 && l.state <= closing && l.writeErr == nil {
		l.mu.Unlock()
		var err error
		if l.raw != nil {
			err = l.flushRaw()
		} else {
			err = l.flushBlocking()
		}
		l.mu.Lock()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err, l.reset = ErrWriteTimeout, true
			}
			l.failWrite(err)
		}
	}
	if l.state == closing && l.writeErr == nil && !l.sent {
		l.mu.Unlock()
		err := l.closeWrite()
		l.mu.Lock()
		l.sent = err == nil
		if err != nil {
			l.end(ErrAborted)
		}
		l.closingStep()
	}
	l.flushing = false
	l.serve()
	l.kick()
	l.leave()
}

// flushBlocking writes the first part of the backlog. It stays in the backlog meanwhile.
func (l *leg) flushBlocking() error {
	l.mu.Lock()
	var vec [1][]byte
	l.out.front(vec[:])
	l.mu.Unlock()
	if l.writeTimeout > 0 {
		_ = l.conn.SetWriteDeadline(time.Now().Add(l.writeTimeout))
	}
	n, err := l.conn.Write(vec[0])
	l.mu.Lock()
	l.out.drop(n)
	l.mu.Unlock()
	if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // some progress; tls.Conn repeats its error if it can't go on
	}
	return err
}

var errNoCloseWrite = errors.New("the conn can't shut down its sending side alone")

func (l *leg) closeWrite() error {
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errNoCloseWrite
}

// callOut makes calls while the reading goroutine waits for the socket.
func (l *leg) callOut() {
	l.mu.Lock()
	l.serve()
	l.kick()
	l.leave()
}

// timeOver is what the timer runs: a graceful Close, or waiting for input after a
// failed write, has taken too long.
func (l *leg) timeOver() {
	l.mu.Lock()
	switch l.state {
	case open:
		l.drained = true
	case closing:
		l.reset = !l.sent
		l.end(ErrAborted)
	default:
		l.mu.Unlock()
		return
	}
	l.running++
	l.serve()
	l.leave()
}

func (l *leg) closeSocket() {
	l.mu.Lock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	if tcp := tcpOf(l.conn); tcp != nil && l.reset {
		_ = tcp.SetLinger(0)
	}
	if c, ok := l.conn.(interface{ NetConn() net.Conn }); ok && !l.sent {
		_ = c.NetConn().Close() // else tls.Conn.Close would wait to send its close_notify
	}
	_ = l.conn.Close()
}

// tcpOf returns the TCP socket that conn is, or that a tls.Conn runs over, or nil.
func tcpOf(conn net.Conn) *net.TCPConn {
	if c, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = c.NetConn()
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}
