package proxytest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeBuffer is how many bytes each direction of a Pipe takes before a Write waits.
const pipeBuffer = 64 << 10

// A PipeConn is one end of an in-memory connection. Unlike net.Pipe's, and like a socket's,
// its writes don't wait for a reader, its sides can be shut down alone, and it can fail as
// sockets do. It suits testing/synctest: all that waits there waits on conditions and timers.
type PipeConn struct {
	pipe        *pipe
	peer        *PipeConn
	local, away net.Addr

	// Guarded by pipe.mu.
	in            []byte // sent by the peer, not read yet
	fin           bool   // the peer sends nothing more
	closed        bool
	readBy        time.Time
	writeBy       time.Time
	readT, writeT *time.Timer
}

// pipe is what both ends share.
type pipe struct {
	mu      sync.Mutex
	changed sync.Cond
	silent  bool
	reset   bool
}

// Pipe returns the ends of an in-memory connection. Their addresses are made up.
func Pipe() (near, far *PipeConn) {
	return pipeBetween(pipeAddr("192.0.2.1:1"), pipeAddr("192.0.2.2:2"))
}

func pipeBetween(nearAddr, farAddr net.Addr) (near, far *PipeConn) {
	p := &pipe{}
	p.changed.L = &p.mu
	near = &PipeConn{pipe: p, local: nearAddr, away: farAddr}
	far = &PipeConn{pipe: p, local: farAddr, away: nearAddr, peer: near}
	near.peer = far
	return near, far
}

type pipeAddr string

func (pipeAddr) Network() string  { return "tcp" }
func (a pipeAddr) String() string { return string(a) }

// Read implements net.Conn.
func (c *PipeConn) Read(b []byte) (int, error) {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case passed(c.readBy):
			return 0, os.ErrDeadlineExceeded
		case p.reset:
			return 0, c.opError("read", syscall.ECONNRESET)
		case p.silent:
		case len(c.in) > 0:
			n := copy(b, c.in)
			c.in = c.in[n:]
			p.changed.Broadcast()
			return n, nil
		case c.fin:
			return 0, io.EOF
		}
		p.changed.Wait()
	}
}

// Write implements net.Conn.
func (c *PipeConn) Write(b []byte) (int, error) {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := 0; ; {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case passed(c.writeBy):
			return n, os.ErrDeadlineExceeded
		case p.reset:
			return n, c.opError("write", syscall.ECONNRESET)
		case c.peer.fin, c.peer.closed && !p.silent:
			return n, c.opError("write", syscall.EPIPE)
		case n == len(b):
			return n, nil
		}
		if k := min(pipeBuffer-len(c.peer.in), len(b)-n); k > 0 {
			c.peer.in = append(c.peer.in, b[n:n+k]...)
			n += k
			p.changed.Broadcast()
			continue
		}
		p.changed.Wait()
	}
}

// CloseWrite ends what this side sends.
func (c *PipeConn) CloseWrite() error {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.peer.fin = true
	p.changed.Broadcast()
	return nil
}

// Close implements net.Conn. What was written is still read by the other side.
func (c *PipeConn) Close() error {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	c.closed, c.peer.fin, c.in = true, true, nil
	for _, t := range []*time.Timer{c.readT, c.writeT} {
		if t != nil {
			t.Stop()
		}
	}
	p.changed.Broadcast()
	return nil
}

// Reset ends the connection for both sides at once, with ECONNRESET.
func (c *PipeConn) Reset() {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reset = true
	p.changed.Broadcast()
}

// Silence makes the connection half-open: nothing arrives, an end neither, and nobody is
// told. Silence(false) mends it, and what was written meanwhile arrives.
func (c *PipeConn) Silence(on bool) {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = on
	p.changed.Broadcast()
}

// LocalAddr implements net.Conn.
func (c *PipeConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *PipeConn) RemoteAddr() net.Addr { return c.away }

// SetDeadline implements net.Conn.
func (c *PipeConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *PipeConn) SetReadDeadline(t time.Time) error { return c.deadline(&c.readBy, &c.readT, t) }

// SetWriteDeadline implements net.Conn.
func (c *PipeConn) SetWriteDeadline(t time.Time) error { return c.deadline(&c.writeBy, &c.writeT, t) }

func (c *PipeConn) deadline(by *time.Time, timer **time.Timer, t time.Time) error {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	*by = t
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		*timer = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changed.Broadcast()
		})
	}
	p.changed.Broadcast()
	return nil
}

func passed(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

func (c *PipeConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.away, Err: os.NewSyscallError(op, err)}
}

// A PipeListener is a net.Listener for Pipes.
type PipeListener struct {
	addr   pipeAddr
	accept chan *PipeConn
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	count int
}

// ListenPipe returns a listener that is reached by its own Dial only.
func ListenPipe(addr string) *PipeListener {
	return &PipeListener{addr: pipeAddr(addr), accept: make(chan *PipeConn), closed: make(chan struct{})}
}

// Dial connects to the listener, from another made-up address each time.
func (l *PipeListener) Dial(ctx context.Context) (*PipeConn, error) {
	l.mu.Lock()
	l.count++
	from := pipeAddr(fmt.Sprintf("198.51.100.%d:%d", 1+l.count%250, 1024+l.count))
	l.mu.Unlock()
	near, far := pipeBetween(from, l.addr)
	select {
	case l.accept <- far:
		return near, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: l.addr, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *PipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *PipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *PipeListener) Addr() net.Addr { return l.addr }
