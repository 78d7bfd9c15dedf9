package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// This file is what happens to a leg between its owner's calls: first the decisions, all
// made with mu held, then the goroutines that act on them.

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
	} else if l.parked {
		l.limitDrain()
	}
	l.kick()
}

// limitDrain keeps the last reads after a failed write from waiting for more input.
func (l *leg) limitDrain() {
	if l.raw != nil {
		_ = l.conn.SetReadDeadline(time.Unix(1, 0)) // wakes it, to look once more
	} else if l.timer == nil {
		// A blocking read can't look without waiting. The peer's last bytes, and mostly
		// the read's own error too, are there already: a moment is enough.
		l.timer = time.AfterFunc(drainTime, l.timeOver)
	}
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
		if l.writeErr != nil && l.raw == nil {
			l.limitDrain()
		}
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
