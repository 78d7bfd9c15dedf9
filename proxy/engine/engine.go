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

// An Engine takes connections over. Its methods may be called from any goroutine.
type Engine interface {
	// Group returns a group for the legs and the timer of one owner. room is where the engine may keep what it knows of
	// the group, as a part of what the owner allocates for itself: it must be zero, and is the engine's until Handler.Over.
	// With nil the engine allocates.
	Group(h Handler, room *Room) Group

	// Close ends every leg at once, as Leg.Close(false) would, and returns when the last
	// Handler call has and nothing of the legs is left: no goroutine, no descriptor. No timer
	// fires after it; a group that was not over by then may never be told so. It must not be
	// called from a Handler or with a lock held that one takes.
	Close()
}

// A Group is what belongs together in an engine: the legs of one owner, which an engine may
// serve from one place, and the owner's timer.
type Group interface {
	// Add takes conn over, whose first unread bytes are early (copied). From here on only
	// the engine uses and closes conn; deadlines set on it before are gone. The leg begins
	// paused, and no Handler call for it begins before its first Resume or Close, so that the
	// owner can record it; Write may be used at once. (Engine.Close closes such a leg too: an
	// owner that may be overtaken by it holds its lock while it adds and records.)
	// On a closed engine Add returns a leg that is lost already, with ErrAborted, which the
	// Handler hears after the leg's first Resume or Close like any other loss.
	// Calls for one group must not overlap.
	Add(conn net.Conn, early []byte) Leg

	// Wake has Handler.Tick called once, after d, or some milliseconds later; it replaces
	// what an earlier Wake asked for and was not called yet. A call of Tick that was already on
	// its way may still come. Like the methods of a Leg, it may be called with the owner's lock
	// held.
	Wake(d time.Duration)

	// Release gives the group back, once; the owner's lock may be held. It stops the timer, and after it the owner must
	// call neither the group nor the legs any more, all of which it has closed or lost. When the last of their Lost calls
	// has returned, and a Tick that was already on its way, Handler.Over is called.
	Release()
}

// Options of an engine; a zero field is its default.
type Options struct {
	// Loops is how many event loops there are, in engines that have any; default one fewer
	// than GOMAXPROCS, but at least one.
	Loops int
	// ReadBuffer is the most that one read brings, in bytes; default 64 KiB for a leg that
	// is read on its own, 256 KiB where many legs share one buffer.
	ReadBuffer int
	// UserTimeout is how long sent data may stay without acknowledgement before the leg
	// counts as lost; default 0, off. On Linux the system sees to it (TCP_USER_TIMEOUT,
	// RFC 5482; the loss is ETIMEDOUT), and it counts a peer that acknowledges but
	// takes nothing for so long as well. Elsewhere the engine ends a leg whose backlog made
	// no progress for so long, with ErrWriteTimeout.
	UserTimeout time.Duration
	// Linger bounds how long a graceful Close may take, from the call on; default 5 s.
	Linger time.Duration
}

const defaultLinger = 5 * time.Second

// ErrAborted is the loss reported for a leg that its owner closed itself.
var ErrAborted = errors.New("leg closed by its owner")

// ErrWriteTimeout is the loss reported when a backlog made no progress for the
// configured time (Options.UserTimeout) and the system could not tell by itself.
var ErrWriteTimeout = errors.New("peer accepted no data in time")

// Refused is what Leg.Write returns where it has dropped the bytes: they have not been handed
// over.
const Refused = -1

// A Leg is one socket in an engine's care. Its methods may be called from any
// goroutine, also while a Handler call for the same leg is running, also with the
// owner's lock held: they never block and never call the Handler back themselves. On a
// leg that has ended they do nothing.
type Leg interface {
	// Write sends bufs in order, as one system call where that is possible. What the
	// socket does not take at once is copied and sent later; the buffers belong to the
	// caller again when Write returns, and so does the slice that lists them (a literal is
	// allocated for each call, one kept by the owner is not). One Write's bytes stay
	// together, whoever else writes meanwhile. The result is the backlog: how many bytes
	// this leg still holds (of TLS, those of its records).
	// While it is above zero the owner should stop producing. A result above zero opens
	// an episode, which ends with one call of Writable at a moment when all is written;
	// what Write adds before that moment belongs to the same episode. Legs whose conn can't
	// be written without blocking (in-memory; TLS that no loop serves) report a backlog for every Write.
	// On a leg that is closed or lost, Write drops the bytes and returns Refused: the loss
	// is, or will be, reported by Handler.Lost, and no Writable comes any more.
	Write(bufs [][]byte) (backlog int)

	// Pause stops reading; the peer's bytes then wait in the system's buffers, save at most
	// one read's worth. Data already on its way to the Handler may still be consumed or not,
	// as Handler.Data says. Resume goes on, with the bytes left over first. Both are
	// idempotent, and neither concerns Writable.
	Pause()
	Resume()

	// Close ends the leg, paused or not. Graceful: the backlog is written out, then the
	// sending side is shut down, and what the peer still sends is read and thrown away until
	// it closes too, so that no reset overtakes the last bytes; all of that within
	// Options.Linger, and only then Lost is called. (A conn that can't be shut down on one side
	// is closed after the backlog.) Not graceful: at once, with a TCP reset where it is TCP;
	// the backlog is dropped. It also cuts a graceful Close short. No Data or Writable call
	// begins after Close returned, save one that was already on its way to the Handler:
	// owners tell stale calls by the identity of the leg.
	Close(graceful bool)

	// Stat tells what the socket and the system know of this leg.
	Stat() Stat
}

// Stat is a snapshot of one leg, for liveness decisions and accounting.
type Stat struct {
	// Acked counts bytes that the peer's TCP has acknowledged (tcpi_bytes_acked) since the
	// connection began, what was sent before Add and the ciphertext of TLS included: what
	// tells is its growth. AckedKnown is false where the system can't tell (unix sockets,
	// other systems) and once the leg is lost and its socket closed.
	Acked      uint64
	AckedKnown bool
	// Held is the memory, in bytes, that the engine keeps for this leg: the buffers that
	// its backlog and the bytes read but not yet consumed lie in, unused room included.
	Held int
}

// A Handler owns legs. Calls for one leg never overlap; calls for different legs, and Tick, may.
// A call should not block: in some engines it holds up all the legs of a loop.
type Handler interface {
	// Expect tells that a call of Data for leg is likely to come after so many calls for other legs, so that a Handler can
	// have its memory at hand then (package prefetch). It means no more than that: Data may come without it, in the portable
	// engine it always does, and it may come without Data.
	Expect(leg Leg, before int)

	// Data hands over b, what one read brought, and returns how many bytes it consumed.
	// b belongs to the engine again when Data returns (the Handler may change its
	// contents in place meanwhile). Fewer than len(b) may be consumed only if Pause was called
	// on this leg, by whomever, since Data was called: the engine keeps the rest and hands it
	// over again, ahead of anything newer, after Resume. (If Resume was called meanwhile too,
	// that is at once.) Anything else is a mistake of the Handler, which costs it the leg.
	Data(leg Leg, b []byte) (consumed int)

	// Writable tells that a backlog reported by Write is down to zero. By the time it runs
	// another Write may have opened the next episode, which gets a call of its own.
	Writable(leg Leg)

	// Lost is the last call for a leg, made exactly once however it ended: io.EOF when the
	// peer finished sending (FIN), ErrAborted after Close, otherwise what the system reported.
	// Everything received before the loss has been handed over first, also where the leg was
	// paused when it happened: such a loss is told after Resume. Close tells it earlier, and so
	// does a failing write while the leg is paused; on a leg that is not, what has arrived
	// is still handed over first (a peer's Close frame often is what a failing write
	// follows). A backlog is dropped. The socket is closed by the engine when Lost returns.
	Lost(leg Leg, err error)

	// Tick tells that the time that Group.Wake asked for has come.
	Tick()

	// Over is the last call of all for a group that was released, from whichever goroutine, with no lock of the engine's
	// held: the engine knows nothing of the Handler and the group's room any more, and both may be used again.
	Over()
}
