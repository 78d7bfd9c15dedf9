package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxIdleDoormen is how many goroutines wait for the next client with a stack that has
	// grown already, so that a storm of handshakes need not grow one for each.
	maxIdleDoormen = 64
	// slowAfter is how long a handshake takes before somebody watches it: sets the deadlines that it
	// has, and looks whether its client is still there. Most are over long before.
	slowAfter = 50 * time.Millisecond
	// acceptsATurn is how many clients are accepted before those who are in go first.
	acceptsATurn = 16
	// acceptPause is the shortest pause after an accept that failed, acceptPauseMax the longest.
	acceptPause, acceptPauseMax = 5 * time.Millisecond, time.Second
)

// A door accepts clients. It reads the head of a client's first request: a plain WebSocket
// handshake is served at once, by the goroutine that has read it, out of pooled memory. All else is
// given, with what has been read, to an http.Server: other requests, heads that are large, odd
// or wrong in any way, handshakes that are refused (they come with their answer), and
// with them everything that comes later on such a connection. So all rules of net/http for
// requests hold; the door only knows a part of what they let pass (readHead).
type door struct {
	p        *Proxy
	listener net.Listener
	server   *http.Server
	rest     *handover
	log      *serverLog
	timeout  time.Duration // for a head
	works    turnstile

	next    chan net.Conn // to a doorman that waits
	home    chan struct{} // sends one home that waits
	stopped chan struct{} // closed when no client is accepted any more
	serving sync.WaitGroup
	spare   *doorman // the next to be employed, or nil; admit's own

	mu         sync.Mutex
	closed     bool
	doormen    map[*doorman]struct{} // at work or waiting
	idle       int
	doormenOff sync.Pool // those that there is no work for
}

func newDoor(p *Proxy, l net.Listener, server *http.Server, log *serverLog) *door {
	d := &door{
		p: p, listener: l, server: server, log: log, timeout: server.ReadHeaderTimeout, works: newTurnstile(),
		rest: newHandover(l.Addr()), next: make(chan net.Conn), home: make(chan struct{}), stopped: make(chan struct{}),
		doormen: make(map[*doorman]struct{}),
	}
	server.ConnContext = withHanded
	return d
}

// run accepts until the listener is closed, and returns nil if that was shutdown's doing.
func (d *door) run() error {
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = d.server.Serve(d.rest) // ends with the door
	}()
	err := d.accept()
	<-served
	return err
}

// accept lets clients in when there is time for them: in a storm they wait in the system's queue, not as hundreds of
// goroutines with a head to read, behind which an event loop that Go's scheduler has stopped for once would have to queue.
func (d *door) accept() error {
	defer close(d.stopped)
	pause := acceptPause
	turn := pass{at: d.works}
	for n := 1; ; n++ {
		if n%acceptsATurn == 0 {
			runtime.Gosched() // those who are in look first whether it is their turn
			turn.enter()
			turn.leave()
		}
		conn, err := d.listener.Accept()
		switch {
		case err == nil:
			pause = acceptPause
			d.admit(conn)
		case d.isClosed():
			return nil
		case !transient(err):
			_ = d.server.Close()
			return fmt.Errorf("serve %s: %w", d.listener.Addr(), err)
		default:
			d.log.acceptFailed(err.Error())
			time.Sleep(pause) // the clients wait in the system's queue
			pause = min(2*pause, acceptPauseMax)
		}
	}
}

// transient reports whether accepting may succeed again after err: descriptors or memory have run
// out, or what failed was the one connection (accept(2) on Linux names many ways).
func transient(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.EBADF, syscall.EFAULT, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP:
		return false
	}
	return true
}

// admit gives conn to a doorman.
func (d *door) admit(conn net.Conn) {
	if d.spare == nil { // made without the lock, which all the others take as well
		if d.spare, _ = d.doormenOff.Get().(*doorman); d.spare == nil {
			d.spare = newDoorman(d)
		}
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		conn.Close()
		return
	}
	d.serving.Add(1)
	wait := d.idle > 0
	var m *doorman
	if wait {
		d.idle-- // one of those who wait, or are about to, is meant
	} else {
		m, d.spare = d.spare, nil
		d.doormen[m] = struct{}{}
	}
	d.mu.Unlock()
	if wait {
		d.next <- conn
		return
	}
	go m.work(conn)
}

// rests tells a doorman whether to wait for another client.
func (d *door) rests(m *doorman) bool {
	d.serving.Done()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.idle == maxIdleDoormen {
		delete(d.doormen, m)
		return false
	}
	d.idle++
	return true
}

// sendHome ends those who wait, but for keep of them: each has a stack that has grown, and buffers.
func (d *door) sendHome(keep uint64) {
	d.mu.Lock()
	n := d.idle - int(min(keep, uint64(d.idle)))
	d.idle -= n
	d.mu.Unlock()
	for range n {
		select {
		case d.home <- struct{}{}:
		case <-d.stopped: // they go as well
			return
		}
	}
}

// leave is the end of a doorman.
func (d *door) leave(m *doorman) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.doormen, m)
}

func (d *door) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// shutdown ends accepting and waits until ctx is done, or all handshakes and requests have their
// answers.
func (d *door) shutdown(ctx context.Context) {
	d.mu.Lock()
	d.closed = true
	for m := range d.doormen {
		m.dismiss()
	}
	d.mu.Unlock()
	_ = d.listener.Close()
	d.server.SetKeepAlivesEnabled(false) // closes those that wait for a next request
	<-d.stopped
	close(d.next)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		d.serving.Wait()
	}()
	select {
	case <-answered:
	case <-ctx.Done():
		d.mu.Lock()
		for m := range d.doormen {
			m.abort()
		}
		d.mu.Unlock()
	}
	_ = d.rest.Close()
	_ = d.server.Shutdown(ctx)
	_ = d.server.Close()
}

// handed is a connection on its way from the door to net/http: what the door has read comes
// first.
type handed struct {
	net.Conn
	unread []byte
	denial atomic.Pointer[denial] // on the first request; nil if net/http's handler is to serve it
}

// A denial is how a handshake is to be answered that got no 101.
type denial struct {
	answer func(w http.ResponseWriter, r *http.Request)
	drop   func() // instead of answer; may be nil
}

func (c *handed) Read(b []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(b, c.unread)
		if c.unread = c.unread[n:]; len(c.unread) == 0 {
			c.unread = nil
		}
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite is what net/http does before it closes a connection with an unread body.
func (c *handed) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// takeDenial gives the denial to the first who asks: the handler, or one of those who close c, which net/http
// does from several goroutines when it stops.
func (c *handed) takeDenial() *denial {
	if c == nil {
		return nil
	}
	return c.denial.Swap(nil)
}

// Close is also what happens to a connection whose denial nobody has taken.
func (c *handed) Close() error {
	if v := c.takeDenial(); v != nil && v.drop != nil {
		v.drop()
	}
	return c.Conn.Close()
}

// tlsStateOf is the state of c's TLS, nil without. To net/http only a *tls.Conn has one.
func tlsStateOf(c net.Conn) *tls.ConnectionState {
	if s, ok := c.(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := s.ConnectionState()
		return &state
	}
	return nil
}

type handedKey struct{}

func withHanded(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, handedKey{}, c)
}

func handedOf(r *http.Request) *handed {
	c, _ := r.Context().Value(handedKey{}).(*handed)
	return c
}

// handover is the net.Listener through which net/http gets its connections.
type handover struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give passes c on; false, once nobody takes it any more.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		return false
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handover) Addr() net.Addr { return h.addr }
