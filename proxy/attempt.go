package proxy

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
)

// An attempt is what a handshake waits for: another handshake for the same session, or the upstream. It
// ends early when its client has gone. Its lock is a leaf, but for the deadlines of connections.
type attempt struct {
	pass pass // entered while the handshake works, left while it waits

	mu       sync.Mutex
	gone     bool               // the client
	strict   bool               // deadlines are to be set at once; else enforce does so
	deadline time.Time          // of the upstream's handshake
	conn     net.Conn           // the upstream's, while its handshake lasts
	cancel   context.CancelFunc // of the context that is in use, or nil
}

// longAgo is a deadline that interrupts reads and writes in progress.
var longAgo = time.Unix(1, 0)

// abandon ends what is waited for, now and later: the client has gone.
func (a *attempt) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
	if a.cancel != nil {
		a.cancel()
	}
	if a.conn != nil {
		_ = a.conn.SetDeadline(longAgo)
	}
}

// enforce makes deadlines hold that are not strict.
func (a *attempt) enforce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.strict = true
	if a.conn != nil && !a.gone {
		_ = a.conn.SetDeadline(a.deadline)
	}
}

func (a *attempt) isGone() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gone
}

// enter has the handshake go on with its work. What it waits for is other handshakes' doing and not the
// upstream's, whose deadline is put off by as much.
func (a *attempt) enter() {
	if a.pass.at == nil || a.pass.inside {
		return
	}
	began := time.Now()
	a.pass.enter()
	waited := time.Since(began)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deadline = a.deadline.Add(waited)
	if a.conn != nil && a.strict && !a.gone {
		_ = a.conn.SetDeadline(a.deadline)
	}
}

// yield lets those handshakes go on that wait already.
func (a *attempt) yield() {
	a.pass.leave()
	a.enter()
}

// context is done at deadline, and when the client has gone.
func (a *attempt) context(deadline time.Time) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cancel = cancel
	if a.gone {
		cancel()
	}
	return ctx, cancel
}

// begin puts conn, a connection to the upstream, under the deadline.
func (a *attempt) begin(conn net.Conn, deadline time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn, a.deadline = conn, deadline
	switch {
	case a.gone:
		_ = conn.SetDeadline(longAgo)
	case a.strict:
		_ = conn.SetDeadline(deadline)
	}
}

// end takes the connection back, without a deadline. The error tells that the client has gone, or that the
// deadline has passed, which a conn that was not asked to does not notice.
func (a *attempt) end() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil && a.strict && !a.gone {
		_ = a.conn.SetDeadline(time.Time{})
	}
	a.conn = nil
	switch {
	case a.gone:
		return context.Canceled
	case time.Now().After(a.deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// keep is what making conn, which a has, led to.
func (a *attempt) keep(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		_ = a.end()
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
