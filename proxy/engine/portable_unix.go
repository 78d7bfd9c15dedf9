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
	n, errno := readFD(int(fd), b.b)
	if n > 0 {
		b.w = n
		l.got = b
		return true
	}
	b.free()
	switch {
	case errno == 0:
		l.gotErr = io.EOF
	case errno != unix.EAGAIN:
		l.gotErr = l.opError("read", errno)
	case draining:
		l.gotErr = errDrained
	default:
		return false
	}
	return true
}

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
		var err error
		if l.taken, err = writeBufs(int(fd), l.bufs); err != nil {
			l.flushErr = l.opError("write", err)
		}
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
		n, err := writeVec(fd, l.out.front(vec[:]))
		if err != nil {
			l.flushErr = l.opError("write", err)
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

func (l *leg) opError(call string, err error) error {
	addr := l.conn.RemoteAddr()
	return &net.OpError{Op: call, Net: addr.Network(), Source: l.conn.LocalAddr(), Addr: addr, Err: os.NewSyscallError(call, err)}
}
