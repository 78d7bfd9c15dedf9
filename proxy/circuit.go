package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// circuitTrips is how many failures to connect, one after the other, open a circuit: as many
	// as Envoy's outlier detection takes by default. A single one never does.
	circuitTrips = 5
	// A probe follows the one before after circuitPause at first, then after twice as long each
	// time, up to circuitMaxPause: that is how long an upstream that is back may go unnoticed.
	circuitPause    = 100 * time.Millisecond
	circuitMaxPause = time.Second
)

// A circuit keeps a storm of clients from becoming a storm of dials to an upstream that is
// known to be down. It is closed, and lets everybody dial, until circuitTrips dials in a row have
// failed. Then it is open: one caller at a time may try, with pauses in between; all others get, at
// once, the error that is known. The first connection that is made closes it.
//
// Only connecting counts (with TLS, up to the end of its handshake): what comes over a
// connection is about one request, and a client that knows how to make the upstream refuse or hang
// up must not be able to shut out the others. Nor do the failures count that are the
// client's or this machine's own.
//
// The zero value is closed. It is safe for concurrent use.
type circuit struct {
	mu       sync.Mutex
	failures int           // in a row
	pause    time.Duration // before the next probe; 0 while closed
	probeAt  time.Time
	probing  bool  // a probe is on its way
	cause    error // of the latest failure
}

// A circuitError tells that a circuit is open. It wraps the failure that is known.
type circuitError struct {
	retryAfter time.Duration // until the next probe
	cause      error
}

func (e *circuitError) Error() string { return fmt.Sprintf("not tried again yet: %v", e.cause) }
func (e *circuitError) Unwrap() error { return e.cause }

// retryAfter tells a client that was turned away by an open circuit when to try again
// (RFC 9110, section 10.2.3: whole seconds). It reports whether err is of that kind.
func retryAfter(w http.ResponseWriter, err error) bool {
	var open *circuitError
	if !errors.As(err, &open) {
		return false
	}
	seconds := max(1, (open.retryAfter+time.Second-1)/time.Second)
	w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
	return true
}

// connect calls dial, or returns a *circuitError. ctx is the one that dial uses.
func (c *circuit) connect(ctx context.Context, dial func() (net.Conn, error)) (net.Conn, error) {
	probe, err := c.enter(time.Now())
	if err != nil {
		return nil, err
	}
	conn, err := dial()
	ours := errors.Is(ctx.Err(), context.Canceled) || isLocal(err)
	c.leave(time.Now(), probe, err, ours)
	return conn, err
}

// enter lets a dial begin.
func (c *circuit) enter(now time.Time) (probe bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.pause == 0:
		return false, nil
	case c.probing || now.Before(c.probeAt):
		return false, &circuitError{retryAfter: c.probeAt.Sub(now), cause: c.cause}
	}
	c.probing = true
	return true, nil
}

// leave takes the outcome of a dial; ours is a failure that tells nothing about the upstream.
func (c *circuit) leave(now time.Time, probe bool, err error, ours bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if probe {
		c.probing = false
	}
	switch {
	case err == nil:
		c.failures, c.pause, c.cause = 0, 0, nil
	case ours:
		// The next one may try at once.
	case probe:
		// It may have been closed meanwhile, by a dial from before it opened.
		if c.pause > 0 {
			c.pause = min(2*c.pause, circuitMaxPause)
			c.probeAt, c.cause = now.Add(c.pause), err
		}
	case c.pause == 0:
		if c.failures++; c.failures >= circuitTrips {
			c.pause = circuitPause
			c.probeAt, c.cause = now.Add(c.pause), err
		}
	}
}

// isOpen reports whether dials are being held back.
func (c *circuit) isOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pause > 0
}

// isLocal reports whether a dial failed for want of something on this machine: descriptors,
// ports, memory. Trying again costs nobody else anything, and may succeed at any moment.
func isLocal(err error) bool {
	for _, want := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}
