package proxy

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// A doorman is a goroutine at the door. It serves one client at a time until that has its session,
// or belongs to net/http.
type doorman struct {
	d *door
	head
	c       candidate
	attempt attempt

	mu      sync.Mutex
	conn    net.Conn // the client; nil while there is none
	began   time.Time
	waiting bool        // for the upstream, no longer for the client
	looking chan error  // while a goroutine looks whether the client is still there
	seen    [1]byte     // what it reads instead
	extra   []byte      // and has read
	timer   *time.Timer // calls slow
}

func newDoorman(d *door) *doorman {
	m := &doorman{d: d}
	m.timer = time.AfterFunc(time.Hour, m.slow)
	m.timer.Stop()
	return m
}

func (m *doorman) work(conn net.Conn) {
	for ok := true; ok; {
		if !m.serve(conn) {
			m.d.serving.Done()
			m.d.leave(m)
			return
		}
		if !m.d.rests(m) {
			break
		}
		select {
		case conn, ok = <-m.d.next:
		case <-m.d.home:
			m.d.leave(m)
			return
		}
	}
	m.d.doormenOff.Put(m)
}

// serve brings conn to where it belongs. On false it has panicked, and m is not to be used again.
func (m *doorman) serve(conn net.Conn) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			m.d.log.panicked(fmt.Sprintf("serving %v: %v\n%s", conn.RemoteAddr(), r, debug.Stack()))
			conn.Close()
			return
		}
		m.depart()
	}()
	m.mu.Lock()
	m.conn, m.began = conn, time.Now()
	m.timer.Reset(min(slowAfter, m.d.timeout))
	m.mu.Unlock()
	if secure, ok := conn.(*tls.Conn); ok && secure.Handshake() != nil {
		m.give(conn) // which knows what to say, and to log
		return true
	}
	end := m.read(conn)
	if end < 0 {
		conn.Close()
		return true
	}
	if r, plain := m.parse(end); plain && isUpgrade(r) {
		if status, _ := checkUpgrade(r); status == 0 {
			r.RemoteAddr, r.TLS = conn.RemoteAddr().String(), tlsStateOf(conn)
			m.open(r, end)
			return true
		}
	}
	m.hand(nil)
	return true
}

// read reads until the head is complete, and returns where it ends; 0 if it is none for the door,
// -1 if the client has gone, or was too slow.
func (m *doorman) read(conn net.Conn) (end int) {
	for m.n < len(m.buf) {
		n, err := conn.Read(m.buf[m.n:])
		m.mu.Lock()
		m.n += n
		m.mu.Unlock()
		if end = m.end(); end > 0 {
			return end
		}
		if err != nil {
			return -1
		}
	}
	return 0
}

// open serves the handshake r, whose head ends at end.
func (m *doorman) open(r *http.Request, end int) {
	set := m.d.p.settings.Load()
	m.mu.Lock()
	m.waiting = true
	m.attempt = attempt{pass: pass{at: m.d.works}}
	m.timer.Reset(min(slowAfter, set.dialer.timeout))
	m.mu.Unlock()
	m.c = candidate{set: set, r: r, attempt: &m.attempt, at: m}
	m.c.early = m.buf[end:m.n]
	m.attempt.pass.enter()
	defer m.attempt.pass.leave()
	if v := m.d.p.handshake(&m.c); v != nil {
		m.hand(v)
	}
}

// take implements holder: it gives the connection to the session.
func (m *doorman) take() (net.Conn, []byte, error) {
	m.stopWaiting()
	m.mu.Lock()
	defer m.mu.Unlock()
	conn := m.conn
	m.conn = nil
	early := m.c.early
	if len(m.extra) > 0 {
		early = append(early[:len(early):len(early)], m.extra...)
	}
	return conn, early, nil
}

// hand gives the client, and what it has said, to net/http.
func (m *doorman) hand(no *denial) {
	m.stopWaiting()
	c := &handed{Conn: m.conn, unread: slices.Concat(m.buf[:m.n], m.extra)}
	c.denial.Store(no)
	m.give(c)
}

func (m *doorman) give(conn net.Conn) {
	m.timer.Stop()
	m.mu.Lock()
	m.conn = nil
	_ = conn.SetReadDeadline(time.Time{}) // net/http sets its own
	m.mu.Unlock()
	if !m.d.rest.give(conn) {
		conn.Close()
	}
}

// slow is called by the timer, in the middle of a handshake that takes long.
func (m *doorman) slow() {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.conn == nil || m.looking != nil:
	case !m.waiting:
		_ = m.conn.SetReadDeadline(m.began.Add(m.d.timeout))
	default:
		m.attempt.enforce()
		_ = m.conn.SetReadDeadline(time.Time{})
		m.looking = make(chan error, 1)
		go m.look(m.conn, m.looking)
	}
}

// look waits for whatever the client sends: its end, mostly.
func (m *doorman) look(conn net.Conn, done chan<- error) {
	n, err := conn.Read(m.seen[:])
	if n == 0 && err != nil && !isTimeout(err) {
		m.attempt.abandon()
	}
	if n > 0 {
		err = nil
	}
	done <- err
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// stopWaiting ends looking. What was read meanwhile is early.
func (m *doorman) stopWaiting() {
	m.timer.Stop()
	m.mu.Lock()
	m.waiting = false
	looking, conn := m.looking, m.conn
	m.mu.Unlock()
	if looking == nil {
		return
	}
	_ = conn.SetReadDeadline(longAgo)
	if err := <-looking; err == nil {
		m.extra = m.seen[:]
	}
	_ = conn.SetReadDeadline(time.Time{})
	m.mu.Lock()
	m.looking = nil
	m.mu.Unlock()
}

// depart makes the doorman ready for the next client.
func (m *doorman) depart() {
	m.timer.Stop()
	m.mu.Lock()
	m.conn, m.waiting, m.extra = nil, false, nil
	m.mu.Unlock()
	m.c = candidate{}
	m.reset()
}

// dismiss turns a client away that has not said anything yet.
func (m *doorman) dismiss() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil && !m.waiting && m.n == 0 {
		m.conn.Close()
	}
}

// abort turns a client away, whatever it waits for.
func (m *doorman) abort() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.attempt.abandon()
		m.conn.Close()
	}
}
