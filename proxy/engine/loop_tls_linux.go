package engine

import (
	"crypto/tls"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// TLS on a loop. The handshake is made before, by somebody who may block. Then the loop takes
// the socket away from below the tls.Conn and puts the leg there (legWire), which never
// blocks: it hands over what the loop has read, and an error of its own when that is
// used up. crypto/tls keeps its state over errors that are net.Error and Temporary, half a
// record or half a message included. That is not documented, and TestTLSGoesOnAfterDry holds it.
//
// What a tls.Conn keeps for itself, after a handshake some 6 KiB, is not in Stat.Held.

const (
	// maxRecord is the largest TLS record with its header, as crypto/tls takes it (RFC 5246,
	// section 6.2.3). So much may be left of one read, and come with the next one.
	maxRecord = 5 + 16<<10 + 2048
	// recordPlain is what one record holds (RFC 8446, section 5.1).
	recordPlain = 16 << 10
)

// errDry is what crypto/tls hears when it wants more than there is.
var errDry net.Error = dry{}

type dry struct{}

func (dry) Error() string   { return "nothing to read for now" }
func (dry) Timeout() bool   { return false }
func (dry) Temporary() bool { return true }

// secured returns the TLS connection that conn is, and the wire below it, if a loop can serve it.
func secured(conn net.Conn) (*tls.Conn, *wire) {
	c, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil
	}
	w, ok := c.NetConn().(*wire)
	if !ok || !c.ConnectionState().HandshakeComplete {
		return nil, nil
	}
	return c, w
}

// tlsInput is what a loop needs for legs with TLS.
type tlsInput struct {
	raw    []byte // read from the socket, not yet taken by crypto/tls
	err    error  // what comes after it: errDry, io.EOF, or why reading failed
	opened []byte // for what crypto/tls makes of it
}

// A legWire is a leg as the net.Conn of its tls.Conn. Its methods are called with mu held.
type legWire loopLeg

// Read is called by the loop only.
func (w *legWire) Read(b []byte) (int, error) {
	c := &w.g.lp.sealed
	if len(c.raw) == 0 {
		return 0, c.err
	}
	n := copy(b, c.raw)
	c.raw = c.raw[n:]
	return n, nil
}

// Write takes one record, and always all of it: what the socket does not take goes to the
// backlog. While records are gathered, all goes there.
func (w *legWire) Write(b []byte) (int, error) {
	l := (*loopLeg)(w)
	n := 0
	if !l.gathering && !l.backlogged() {
		var err error
		if n, err = writeOne(int(l.fd), b); err != nil {
			return 0, err
		}
	}
	if n < len(b) {
		if l.out == nil {
			l.out = new(backlog)
		}
		l.out.add([][]byte{b[n:]}, 0)
		if !l.gathering && !l.awaitRoom() {
			return 0, l.end.writeErr
		}
	}
	return len(b), nil
}

func (w *legWire) Close() error                     { return nil }
func (w *legWire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *legWire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *legWire) SetDeadline(time.Time) error      { return nil }
func (w *legWire) SetReadDeadline(time.Time) error  { return nil }
func (w *legWire) SetWriteDeadline(time.Time) error { return nil }

// readTLS reads once from the socket, and opens all that is whole: with the rest of a record
// from before it fits into opened. A handshake, though, may have read far ahead: that comes
// first, and alone. What it returns is to be handed over before any end.
func (lp *loop) readTLS(l *loopLeg) []byte {
	c := &lp.sealed
	if c.opened == nil {
		c.opened = make([]byte, len(lp.buf.b)+maxRecord)
	}
	c.raw, c.err = nil, errDry
	if !l.ahead {
		n, errno := readFD(int(l.fd), lp.buf.b)
		c.raw = lp.buf.b[:n]
		l.unread = n > 0 && (l.hup || n == len(lp.buf.b))
		switch {
		case n > 0, errno == unix.EAGAIN:
		case errno == 0:
			c.err = io.EOF
		default:
			c.err = socketError("read", errno)
		}
	}
	got := 0
	for got < len(c.opened) {
		n, err := l.tls.Read(c.opened[got:])
		got += n
		if err == errDry {
			l.ahead = false
			break
		}
		if err != nil { // the peer's end, the socket's, or a record that is none
			l.ending().readErr = err
			l.unread = false
			break
		}
	}
	return c.opened[:got]
}

// writeTLS writes bufs as records. What fits into one record is one, and one system call.
func (l *loopLeg) writeTLS(bufs [][]byte) int {
	size := 0
	for _, b := range bufs {
		size += len(b)
	}
	if size == 0 {
		return l.backlogSize()
	}
	before := l.backlogged()
	l.gathering = size > recordPlain
	err := l.seal(bufs, size)
	l.gathering = false
	if err != nil {
		l.failWrite(err)
		return Refused
	}
	if !before && size > recordPlain {
		if l.flush(); l.end != nil && l.end.writeErr != nil {
			return Refused
		}
	}
	if !l.backlogged() {
		return 0
	}
	l.owed = true
	if !before {
		l.watch()
	}
	return l.out.size
}

// seal encrypts bufs. Several of them are copied together first: a record for each would cost
// more.
func (l *loopLeg) seal(bufs [][]byte, size int) error {
	if len(bufs) == 1 {
		_, err := l.tls.Write(bufs[0])
		return err
	}
	b := getBuffer(min(size, recordPlain))
	defer b.free()
	for _, buf := range bufs {
		for len(buf) > 0 {
			n := copy(b.b[b.w:min(len(b.b), recordPlain)], buf)
			b.w += n
			buf = buf[n:]
			if size -= n; size > 0 && b.w < min(len(b.b), recordPlain) {
				continue
			}
			if _, err := l.tls.Write(b.b[:b.w]); err != nil {
				return err
			}
			b.w = 0
		}
	}
	return nil
}

func (l *loopLeg) backlogSize() int {
	if l.out == nil {
		return 0
	}
	return l.out.size
}
