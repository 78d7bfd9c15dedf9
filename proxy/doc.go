// Package proxy keeps WebSocket sessions alive while their clients come and go.
//
// # The house
//
// The session is a pure state machine (package session); everything else is a thin shell
// around it. The shell of one session is a relay: its lock, its two legs, its timer.
//
//	handshake.go    a client's upgrade: identity, binding, token, subprotocol, the 101
//	upstream.go     the upstream's: dial, headers, refusals relayed (refusal.go, headers.go, outage.go)
//	passthrough.go  requests that are no upgrade
//	tls.go          certificates, TLS on both sides (pemfiles.go: files that change)
//	identity.go     session.key, session.bind, origins
//	relay.go        runs the core's effects in order, on the engine's legs
//	registry.go     finds sessions by key and by id; token.go: who may resume by token
//	settings.go     what a configuration means; a reload makes another
//	door.go         accepts clients, serves handshakes at once (doorman.go, head.go, attempt.go), gives the rest to net/http
//	proxy.go        listeners, start and stop, limits over all sessions
//	observe.go      what the admin API shows (counters.go)
//
//	session/   the core          frame/     RFC 6455 frames over byte slices
//	dedup/     ids of messages   resume/    the messages of tideover.v1
//	engine/    how bytes move    presence/  event messages
//	admin/     health, metrics   slab/      sessions side by side in memory
//	proxytest/ fakes and faults for tests
//
// Imports run one way, from here to the children, and never back; session knows neither
// net nor time.Now. A test holds that.
//
// # Four paths
//
// Client message to upstream: the engine reads a batch and calls relay.Data; under the relay's
// lock the core finds the frames, keeps control frames, drops duplicates, and answers with one
// Send of the whole messages as they are, mask and all. A message goes up only when it is
// whole: half a message can't be taken back when its client drops. (Sessions without a key cut
// through.)
//
// Upstream message to client: the core appends it to the window, the only copy and the only
// place where downstream messages are counted, and hands the client leg what it has not been
// handed yet.
//
// Drop, away, resume: the engine reports the loss of a leg; if it is the current one (a
// superseded leg's late loss means nothing) the core is away: Away is emitted, the grace
// runs. A handshake with the session's key or token finds the relay, shows its binding, and
// is attached: the window, trimmed to what was received, is replayed and newer messages queue
// up behind it, under one lock. Reconnected is emitted.
//
// Grace to left: the relay's timer is set to what session.Next says; session.Advance emits
// Left, closes the upstream, and the registry forgets the session. When its legs are gone the
// relay releases its group, and when the engine says Over and nobody else holds it any more, its
// memory is the next session's.
//
// # States
//
//	StateFresh ──attach──▶ StateAttached ──drop──▶ StateAway ──grace over──▶ StateLeft
//	                             ▲                     │                        ▲
//	                             └───────resume────────┘                        │
//	                             └── clean close, upstream's end, stop ─────────┘
//
// # Locks
//
// relay.mu guards one session and may be held while a leg is written to: engine calls never
// block and never call back. Below it are only leaves: a shard of the registry, the dedup
// cache, the counters, the slab. No two relays are ever locked at once.
package proxy
