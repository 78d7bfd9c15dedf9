package session

import (
	"time"

	"github.com/tideover/tideover/proxy/dedup"
)

// Time is a moment on the proxy's monotonic clock, in nanoseconds; zero means never.
type Time int64

func (t Time) add(d time.Duration) Time { return t + Time(d) }

// Heartbeat says how dead peers are found: a ping each Interval; MaxMissed of them without a
// pong, or any other sign of life, mean that the leg is lost. A zero Interval is off.
type Heartbeat struct {
	Interval  time.Duration
	MaxMissed int
}

// Overflow says what happens when the window of an away session is full.
type Overflow uint8

// The policies of replay.overflow.
const (
	OverflowEnd        Overflow = iota // end the session with 1013
	OverflowDropOldest                 // make room, count the loss, tell a tideover.v1 client of the gap
	OverflowPause                      // stop reading the upstream
)

// Config is what all sessions of a proxy share. It is not changed once a session uses it.
type Config struct {
	Grace           time.Duration // how long a session may be away
	AwayAfter       time.Duration // how long Away is held back
	ReceiptInterval time.Duration // how long a delivered message may wait for its receipt to be asked for
	CloseTimeout    time.Duration // how long a peer may take to answer a Close
	Client          Heartbeat
	Upstream        Heartbeat
	BeatMessage     []byte // also sent to clients with each heartbeat, as a text message; empty: no
	MaxMessages     int    // in the window
	MaxBytes        int    // in the window
	MaxMessageBytes int64  // payload, and the headers of fragments but the first
	Overflow        Overflow
	EndOnClose      []uint16 // close codes of clients that end the session at once
	Dedup           Deduper  // nil: off
}

// A Deduper knows the ids of messages that upstreams have been handed. The core asks;
// only the shell marks, once the hand-over is done (effect Mark).
type Deduper interface {
	// Find returns the id in the text message json, if it has one.
	Find(json []byte) (id dedup.ID, ok bool)
	// Seen reports whether id counts as seen for the session with this number.
	Seen(session uint64, id dedup.ID, now Time) bool
}

// Mode is what a session does for its client; it never changes.
type Mode uint8

// The modes.
const (
	// Relay is relaying without grace, for clients without identity: the session ends with
	// its client leg, and frames are cut through.
	Relay Mode = iota
	// Keyed serves a client that knows nothing of the proxy: receipts by ping, at least once.
	Keyed
	// Counted serves a client that speaks tideover.v1 and counts for itself: exactly once.
	Counted
)

// State is where a session is in its life.
//
//	          Attach                  drop                  grace over
//	StateFresh ───▶ StateAttached ───────────▶ StateAway ─────────────▶ StateLeft
//	                   │   ▲                      │                         ▲
//	                   │   └─── resume: Attach ───┘                         │
//	                   └── clean close, upstream's end, overflow, End ──────┘
type State uint8

// The states.
const (
	// StateFresh has an upstream and waits for its first client leg: Attach leads to StateAttached.
	StateFresh State = iota
	// StateAttached relays both ways. The loss of the client leg leads to StateAway; a clean close,
	// the upstream's end and End lead to StateLeft.
	StateAttached
	// StateAway has no client leg: upstream messages go into the window, the grace runs. Attach
	// leads back to StateAttached; the end of the grace, an overflow and End lead to StateLeft.
	StateAway
	// StateLeft is final: peers have heard Left, nobody can find the session; legs that still
	// exist are being closed.
	StateLeft
)

func (s State) String() string { return [...]string{"fresh", "attached", "away", "left"}[s] }

// Reason says why a session came to its end.
type Reason uint8

// The reasons.
const (
	NotEnded       Reason = iota
	ClientClosed          // a close code of EndOnClose, what it was sent refused twice, or the client of a Relay session went
	GraceOver             // nobody came back in time
	UpstreamClosed        // the upstream closed, and the client has been told
	UpstreamLost          // the upstream's connection broke or it stopped answering
	UpstreamFault         // the upstream violated the protocol
	WindowOverflow        // replay.overflow: end
	Evicted               // the longest away, when limits.max_buffer_bytes was exceeded
	Stopped               // the proxy shuts down
	Reasons               // how many there are
)

func (r Reason) String() string {
	return [...]string{"", "client_closed", "grace_over", "upstream_closed", "upstream_lost",
		"upstream_fault", "overflow", "evicted", "stopped"}[r]
}

// Loss says why a client leg was lost, for the counters.
type Loss uint8

// The losses.
const (
	Broken    Loss = iota // reset, end of file, failed write
	Unheard               // missed heartbeats
	Violation             // the peer broke the protocol
	CleanDrop             // a Close whose code is not in EndOnClose
)

func (l Loss) String() string {
	return [...]string{"broken", "unheard", "violation", "closed"}[l]
}

// Stats counts what a session did. Messages are data messages, bytes are frame bytes. What happens now and
// then has small counters.
type Stats struct {
	Up, UpBytes     uint64 // messages and bytes from the client
	Down, DownBytes uint64 // from the upstream
	Receipts        uint64 // downstream messages known to be received
	Dropped         uint64 // downstream messages lost to OverflowDropOldest
	Duplicates      uint32 // client messages dropped as duplicates
	Replayed        uint32 // messages that a resume handed over again or for the first time
	Gaps            uint32 // resumes that could not be whole
	Missed          uint32 // heartbeats without an answer, both legs
	Resumes         uint32
	Supersedes      uint32
	Losses          [4]uint32 // client legs, by Loss
}

// Totals are the sums of the Stats of many sessions.
type Totals struct {
	Up, UpBytes, Down, DownBytes, Receipts, Dropped, Duplicates, Replayed, Gaps, Missed, Resumes, Supersedes uint64

	Losses [4]uint64
}

// Add adds what one session has counted.
func (t *Totals) Add(s *Stats) {
	t.Up += s.Up
	t.UpBytes += s.UpBytes
	t.Down += s.Down
	t.DownBytes += s.DownBytes
	t.Receipts += s.Receipts
	t.Dropped += s.Dropped
	t.Duplicates += uint64(s.Duplicates)
	t.Replayed += uint64(s.Replayed)
	t.Gaps += uint64(s.Gaps)
	t.Missed += uint64(s.Missed)
	t.Resumes += uint64(s.Resumes)
	t.Supersedes += uint64(s.Supersedes)
	for i := range t.Losses {
		t.Losses[i] += uint64(s.Losses[i])
	}
}
