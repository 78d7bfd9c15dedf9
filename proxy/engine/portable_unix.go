//go:build darwin || linux

package engine

import (
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openRaw takes the way without blocking calls where conn is a socket. The type itself
// decides, not SyscallConn: a type that embeds a socket to change its Read has that too.
func (l *leg) openRaw() {
	var err error
	switch c := l.conn.(type) {
	case *net.TCPConn:
		l.raw, err = c.SyscallConn()
	case *net.UnixConn:
		if c.LocalAddr().Network() == "unix" {
			l.raw, err = c.SyscallConn()
		}
	}
	if err != nil {
		l.raw = nil
	}
	if l.raw != nil {
		l.onReadable, l.onWritable = l.readReady, l.writeReady // bound once: no allocation for each call
	}
}

func (l *leg) readRaw() {
	if err := l.raw.Read(l.onReadable); err != nil {
		l.gotErr = err
	}
}

// readReady reads once if the socket has something; false waits until it has. A read
// that finds nothing is the price of the runtime's poller, also after a short read: it
// does not tell again of a FIN that came together with data.
func (l *leg) readReady(fd uintptr) bool {
	l.mu.Lock()
	wants, draining := l.wantsInput(), l.writeErr != nil
	l.mu.Unlock()
	if !wants {
		return true
	}
	b := l.e.buffers.Get().(*buffer)
	n, err := unix.Read(int(fd), b.b)
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), b.b)
	}
	if n > 0 {
		b.w = n
		l.got = b
		return true
	}
	b.free()
	switch {
	case err == nil:
		l.gotErr = io.EOF
	case err != unix.EAGAIN:
		l.gotErr = l.opError("read", err)
	case draining:
		l.gotErr = errDrained
	default:
		return false
	}
	return true
}

// maxVec is what unix.Writev takes without allocating.
const maxVec = 8

// writeNow writes what the socket takes of bufs. mu is held, and no flusher runs, so
// that nobody else is inside raw.Write and this can't block.
func (l *leg) writeNow(bufs [][]byte) (int, error) {
	l.bufs, l.taken = bufs, 0
	err := l.raw.Write(l.onWritable)
	l.bufs = nil
	if err == nil {
		err, l.flushErr = l.flushErr, nil
	}
	return l.taken, err
}

// flushRaw returns when the backlog is written or can't be.
func (l *leg) flushRaw() error {
	if l.writeTimeout > 0 {
		_ = l.conn.SetWriteDeadline(time.Now().Add(l.writeTimeout))
		defer func() { _ = l.conn.SetWriteDeadline(time.Time{}) }()
	}
	err := l.raw.Write(l.onWritable)
	if err == nil {
		err, l.flushErr = l.flushErr, nil
	}
	return err
}

// writeReady serves both: the flusher, and a Write while there is none.
func (l *leg) writeReady(fd uintptr) bool {
	if !l.flushing {
		l.taken, l.flushErr = l.writeBufs(int(fd), l.bufs)
		return true
	}
	return l.writeBacklog(int(fd))
}

// writeBacklog is a function of its own to keep vec off the stack of a reading
// goroutine, which comes by writeReady for every message.
func (l *leg) writeBacklog(fd int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.out.size > 0 && l.state <= closing && l.writeErr == nil {
		var vec [maxVec][]byte
		n, err := l.writeVec(fd, l.out.front(vec[:]))
		if err != nil {
			l.flushErr = err
			return true
		}
		if n == 0 {
			return false
		}
		l.out.drop(n)
		if l.writeTimeout > 0 {
			_ = l.conn.SetWriteDeadline(time.Now().Add(l.writeTimeout))
		}
	}
	return true
}

// writeBufs writes bufs until the socket is full. Up to maxVec buffers are one system
// call; more of them are copied together first, 64 KiB a call.
func (l *leg) writeBufs(fd int, bufs [][]byte) (int, error) {
	if len(bufs) <= maxVec {
		return l.writeVec(fd, bufs)
	}
	b := getBuffer(maxClass)
	defer b.free()
	taken := 0
	for off := 0; len(bufs) > 0; {
		b.w = 0
		for len(bufs) > 0 && b.w < len(b.b) {
			n := copy(b.b[b.w:], bufs[0][off:])
			b.w += n
			if off += n; off == len(bufs[0]) {
				bufs, off = bufs[1:], 0
			}
		}
		n, err := l.writeOne(fd, b.b[:b.w])
		taken += n
		if err != nil || n < b.w {
			return taken, err
		}
	}
	return taken, nil
}

func (l *leg) writeVec(fd int, bufs [][]byte) (int, error) {
	if len(bufs) == 1 {
		return l.writeOne(fd, bufs[0])
	}
	for {
		n, err := unix.Writev(fd, bufs)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, l.opError("writev", err)
		}
	}
}

// writeOne returns 0 and no error when the socket takes nothing.
func (l *leg) writeOne(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, err := unix.Write(fd, b)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, l.opError("write", err)
		}
	}
}

func (l *leg) opError(call string, err error) error {
	op := call
	if op == "writev" {
		op = "write"
	}
	addr := l.conn.RemoteAddr()
	return &net.OpError{Op: op, Net: addr.Network(), Source: l.conn.LocalAddr(), Addr: addr, Err: os.NewSyscallError(call, err)}
}
