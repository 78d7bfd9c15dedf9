// Package engine moves bytes between sockets and the sessions that own them.
//
// An engine knows nothing of WebSocket: it hands over what one read brought and
// writes what it is given. Everything above it is written against the two small
// contracts of this file, Leg and Handler, so that one implementation can replace
// another; the conformance suite (conformance_test.go) states them as tests.
package engine

import (
	"errors"
	"net"
	"time"
)

// An Engine takes connections over. Close ends every leg at once, as Leg.Close(false)
// would, and returns when the last Handler call has.
type Engine interface {
	// Add takes conn over, whose first unread bytes are early (copied). The leg begins
	// paused: nothing is called before its first Resume, so that the owner can record it.
	Add(conn net.Conn, early []byte, h Handler) Leg
	Close()
}

// Options of an engine; a zero field is its default.
type Options struct {
	// ReadBuffer is the most that one read brings, in bytes; default 64 KiB.
	ReadBuffer int
	// UserTimeout is how long sent data may stay without acknowledgement before the leg
	// counts as lost (TCP_USER_TIMEOUT, RFC 5482, on Linux); default 0, off.
	UserTimeout time.Duration
	// Linger bounds how long a graceful Close may take; default 5 s.
	Linger time.Duration
}

// ErrAborted is the loss reported for a leg that its owner closed itself.
var ErrAborted = errors.New("leg closed by its owner")

// ErrWriteTimeout is the loss reported when a backlog made no progress for the
// configured time (Options.UserTimeout) and the system could not tell by itself.
var ErrWriteTimeout = errors.New("peer accepted no data in time")

// A Leg is one socket in an engine's care. Its methods may be called from any
// goroutine, also while a Handler call for the same leg is running, also with the
// owner's lock held: they never block and never call the Handler back themselves.
type Leg interface {
	// Write sends bufs in order, as one system call where that is possible. What the
	// socket does not take at once is copied and sent later; the buffers belong to the
	// caller again when Write returns. The result is the backlog: how many bytes this
	// leg still holds. While it is above zero the owner should stop producing; once it
	// is back at zero the Handler hears Writable, exactly once for each such episode.
	// On a leg that is closed or lost, Write drops the bytes and returns 0: the loss
	// is, or will be, reported by Handler.Lost.
	Write(bufs [][]byte) (backlog int)

	// Pause stops reading. Data already being handed over may still be consumed or not,
	// as Handler.Data says. Resume goes on, with the bytes left over first. Both are
	// idempotent.
	Pause()
	Resume()

	// Close ends the leg. Graceful: the backlog is written out, then the sending side
	// is shut down, and what the peer still sends is read and thrown away until it closes
	// too, so that no reset overtakes the last bytes; all of that within Options.Linger.
	// Not graceful: at once, with a TCP reset. No Data or Writable call begins after Close
	// returned, save one that was already on its way to the Handler: owners tell
	// stale calls by the identity of the leg.
	Close(graceful bool)

	// Stat tells what the socket and the system know of this leg.
	Stat() Stat
}

// Stat is a snapshot of one leg, for liveness decisions and accounting.
type Stat struct {
	// Acked counts bytes of this leg that the peer's TCP has acknowledged (tcpi_bytes_acked);
	// AckedKnown is false where the system can't tell (unix sockets, other systems).
	Acked      uint64
	AckedKnown bool
	// Held is the memory, in bytes, that the engine keeps for this leg: backlog and
	// bytes read but not yet consumed.
	Held int
}

// A Handler owns legs. Calls for one leg never overlap; calls for different legs may.
type Handler interface {
	// Data hands over b, what one read brought, and returns how many bytes it consumed.
	// b belongs to the engine again when Data returns (the Handler may change its
	// contents in place meanwhile). Fewer than len(b) may be consumed only if Pause was called
	// on this leg before returning: the engine keeps the rest and hands it over again,
	// ahead of anything newer, after Resume.
	Data(leg Leg, b []byte) (consumed int)

	// Writable tells that a backlog reported by Write is down to zero.
	Writable(leg Leg)

	// Lost is the last call for a leg, made exactly once however it ended: io.EOF when the
	// peer finished sending (FIN), ErrAborted after Close, otherwise what the system reported.
	// Everything received before the loss has been handed over first, also where the leg was
	// paused when it happened: such a loss is told after Resume. Only a failing write
	// and Close tell it earlier. The socket is closed by the engine when Lost returns.
	Lost(leg Leg, err error)
}
