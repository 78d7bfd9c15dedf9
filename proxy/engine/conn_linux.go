package engine

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Conn is a TCP connection before it becomes a leg. It does with fewer system calls than a
// net.TCPConn: the runtime's poller hears of its socket only once something has to be waited for,
// which after an accept is seldom, and a loop takes the socket as it is instead of a duplicate.
type Conn struct {
	local, remote netip.AddrPort
	userTimeout   time.Duration // that the socket has already
	beforeWait    func()

	mu      sync.Mutex
	fd      int             // -1 once closed, taken, or the file's
	file    *os.File        // polls; nil as long as nothing had to be waited for
	raw     syscall.RawConn // of file
	readBy  time.Time       // deadlines from before there is a file
	writeBy time.Time
}

// BeforeWait has f called before Connect, Read or Write waits, by the goroutine that will; nil for
// nobody. It must not be called while one of them is running.
func (c *Conn) BeforeWait(f func()) { c.beforeWait = f }

// Dialing returns a socket that Connect connects to remote. Deadlines may be set before, and at any time.
func Dialing(remote netip.AddrPort) (*Conn, error) {
	to := socketAddrOf(remote)
	fd, err := socketFor(&to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(remote), Err: os.NewSyscallError("socket", err)}
	}
	_ = setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return &Conn{remote: remote, fd: fd}, nil
}

// Connect makes the connection, and writes first to it (nothing if empty).
func (c *Conn) Connect(first []byte) error {
	to := socketAddrOf(c.remote)
	sent := 0
	err := c.try(func() error { return connectFD(c.fd, &to) })
	if err == unix.EINPROGRESS || err == unix.EINTR {
		// A connection to this machine is there already, and takes what it is given.
		err = c.try(func() error {
			if len(first) == 0 {
				return connectFD(c.fd, &to)
			}
			n, errno := writeFD(c.fd, first)
			sent = n
			return failure(errno)
		})
		if err == unix.EALREADY || err == unix.EAGAIN {
			err = c.awaitConnection(&to)
		}
	}
	if err != nil && err != unix.EISCONN {
		return c.failed("dial", "connect", err)
	}
	if sent < len(first) {
		_, err := c.Write(first[sent:])
		return err
	}
	return nil
}

// try makes a call on the socket while it is not polled.
func (c *Conn) try(call func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.fd < 0:
		return net.ErrClosed
	case expired(c.writeBy):
		return os.ErrDeadlineExceeded
	}
	return call()
}

func (c *Conn) awaitConnection(to *socketAddr) error {
	c.waits()
	c.mu.Lock()
	err := c.poll()
	raw := c.raw
	c.mu.Unlock()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Write(func(fd uintptr) bool {
		result = connectFD(int(fd), to)
		return result != unix.EALREADY && result != unix.EINTR
	}); err != nil {
		return err
	}
	return result
}

func (c *Conn) waits() {
	if c.beforeWait != nil {
		c.beforeWait()
	}
}

// poll gives the socket to the runtime's poller. mu is held.
func (c *Conn) poll() error {
	if c.file != nil {
		return nil
	}
	if c.fd < 0 {
		return net.ErrClosed
	}
	file := os.NewFile(uintptr(c.fd), "socket")
	raw, err := file.SyscallConn()
	c.file, c.raw, c.fd = file, raw, -1
	if err == nil && !c.readBy.IsZero() {
		err = file.SetReadDeadline(c.readBy)
	}
	if err == nil && !c.writeBy.IsZero() {
		err = file.SetWriteDeadline(c.writeBy)
	}
	return err
}

func (c *Conn) polled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.file != nil
}

// expired reports whether a deadline has passed.
func expired(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

func (c *Conn) failed(op, call string, err error) error {
	switch e := err.(type) {
	case *os.PathError:
		err = e.Err
	case syscall.Errno:
		err = os.NewSyscallError(call, e)
	}
	return &net.OpError{Op: op, Net: "tcp", Addr: c.RemoteAddr(), Err: err}
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, done, err := c.readNow(b)
	if done {
		return n, err
	}
	c.waits()
	if !c.polled() {
		// While others work, it may come; the poller is the dearer way to wait.
		runtime.Gosched()
		if n, done, err = c.readNow(b); done {
			return n, err
		}
	}
	c.mu.Lock()
	file := c.file
	if file == nil {
		if expired(c.readBy) && c.fd >= 0 {
			err = os.ErrDeadlineExceeded
		} else if err = c.poll(); err == nil {
			file = c.file
		}
	}
	c.mu.Unlock()
	if err != nil {
		return 0, c.failed("read", "read", err)
	}
	n, err = file.Read(b)
	if err != nil && err != io.EOF {
		err = c.failed("read", "read", err)
	}
	return n, err
}

// readNow reads if the socket is not polled and has something to read; else it is not done.
func (c *Conn) readNow(b []byte) (n int, done bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil || c.fd < 0 || expired(c.readBy) {
		return 0, false, nil
	}
	n, errno := readFD(c.fd, b)
	switch {
	case n > 0 || errno == 0 && len(b) == 0:
		return n, true, nil
	case errno == 0:
		return 0, true, io.EOF
	case errno != unix.EAGAIN:
		return 0, true, c.failed("read", "read", errno)
	}
	return 0, false, nil
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	done := 0
	if c.file == nil && c.fd >= 0 && !expired(c.writeBy) {
		n, errno := writeFD(c.fd, b)
		if n == len(b) {
			c.mu.Unlock()
			return n, nil
		}
		if errno != 0 && errno != unix.EAGAIN {
			c.mu.Unlock()
			return 0, c.failed("write", "write", errno)
		}
		done = n
	}
	file, err := c.file, error(nil)
	if file == nil {
		if expired(c.writeBy) && c.fd >= 0 {
			err = os.ErrDeadlineExceeded
		} else if err = c.poll(); err == nil {
			file = c.file
		}
	}
	c.mu.Unlock()
	if err != nil {
		return done, c.failed("write", "write", err)
	}
	c.waits()
	n, err := file.Write(b[done:])
	if err != nil {
		err = c.failed("write", "write", err)
	}
	return done + n, err
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.file != nil:
		return c.file.Close()
	case c.fd < 0:
		return net.ErrClosed
	}
	fd := c.fd
	c.fd = -1
	return os.NewSyscallError("close", closeFD(fd))
}

// CloseWrite ends what this side sends.
func (c *Conn) CloseWrite() error {
	err := net.ErrClosed
	_ = c.control(func(fd int) { err = os.NewSyscallError("shutdown", shutdownFD(fd, unix.SHUT_WR)) })
	return err
}

// control calls f with the descriptor, if there is one.
func (c *Conn) control(f func(fd int)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil {
		return c.raw.Control(func(fd uintptr) { f(int(fd)) })
	}
	if c.fd < 0 {
		return net.ErrClosed
	}
	f(c.fd)
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr {
	c.mu.Lock()
	known := c.local.IsValid()
	c.mu.Unlock()
	if !known {
		_ = c.control(func(fd int) {
			if local, err := localAddr(fd); err == nil {
				c.local = local.addrPort()
			}
		})
	}
	return net.TCPAddrFromAddrPort(c.local)
}

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// Remote is RemoteAddr as a value.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy, c.writeBy = t, t
	if c.file != nil {
		return c.file.SetDeadline(t)
	}
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	if c.file != nil {
		return c.file.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy = t
	if c.file != nil {
		return c.file.SetWriteDeadline(t)
	}
	return nil
}

// borrow returns the descriptor where nothing but c knows it, else a duplicate, or -1.
func (c *Conn) borrow() (fd int, duplicate bool) {
	c.mu.Lock()
	fd = c.fd
	c.mu.Unlock()
	if fd >= 0 {
		return fd, false
	}
	_ = c.control(func(old int) {
		if n, err := unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = n
		}
	})
	return fd, true
}

// gone tells that the descriptor that was borrowed is somebody else's now.
func (c *Conn) gone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fd = -1
}

// Accepting returns a listener that accepts a TCP listener's connections as Conns. What legs need
// of their sockets is set on the listener, from which they inherit it. Any other listener is
// returned as it is.
func Accepting(l net.Listener, o Options) net.Listener {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return l
	}
	file, err := tcp.File() // a duplicate: a net.TCPListener itself lets nobody else wait
	if err != nil {
		return l
	}
	raw, err := file.SyscallConn()
	if err != nil || file.SetDeadline(time.Time{}) != nil { // fails if it is not polled
		file.Close()
		return l
	}
	a := &acceptor{TCPListener: tcp, file: file, raw: raw}
	a.tryAccept = a.accept
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if o.UserTimeout > 0 && userTimeout(int(fd), o.UserTimeout) == nil {
			a.userTimeout = o.UserTimeout
		}
	})
	return a
}

// An acceptor is for one goroutine.
type acceptor struct {
	*net.TCPListener
	file        *os.File
	raw         syscall.RawConn
	userTimeout time.Duration
	tryAccept   func(fd uintptr) bool // bound once: no allocation for each call

	fd   int
	from socketAddr
	err  error
}

// Close implements net.Listener.
func (a *acceptor) Close() error {
	_ = a.file.Close()
	return a.TCPListener.Close()
}

func (a *acceptor) Accept() (net.Conn, error) {
	err := a.raw.Read(a.tryAccept)
	if err == nil {
		err = a.err
	}
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: a.Addr(), Err: err}
	}
	return &Conn{fd: a.fd, remote: a.from.addrPort(), userTimeout: a.userTimeout}, nil
}

func (a *acceptor) accept(fd uintptr) bool {
	for {
		a.fd, a.err = acceptFD(int(fd), &a.from)
		switch a.err {
		case nil:
			return true
		case unix.EAGAIN:
			return false
		case unix.EINTR, unix.ECONNABORTED: // gone before it was accepted
			continue
		}
		a.err = os.NewSyscallError("accept4", a.err)
		return true
	}
}

// HasConns tells whether there are Conns on this system.
const HasConns = true

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.poll(); err != nil {
		return nil, err
	}
	return c.raw, nil
}
