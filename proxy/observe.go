package proxy

import (
	"errors"
	"time"

	"github.com/tideover/tideover/proxy/admin"
	"github.com/tideover/tideover/proxy/session"
)

// Ready implements admin.Source.
func (p *Proxy) Ready() error {
	switch {
	case p.stopping.Load():
		return errors.New("draining")
	case !p.serving.Load():
		return errors.New("starting")
	}
	return nil
}

// Session implements admin.Source.
func (p *Proxy) Session(id string) (admin.Session, bool) {
	name, ok := parseID(id)
	if !ok {
		return admin.Session{}, false
	}
	r := p.sessions.get(name)
	if r == nil {
		return admin.Session{}, false
	}
	defer r.release()
	return r.snapshot()
}

// Sessions implements admin.Source.
func (p *Proxy) Sessions(f func(admin.Session) bool) {
	for r := range p.sessions.all {
		if s, ok := r.snapshot(); ok && !f(s) {
			return
		}
	}
}

// snapshot is what the API shows of r; false if it is neither attached nor away.
func (r *relay) snapshot() (admin.Session, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, wall := r.p.now(), time.Now()
	state := r.core.State()
	if state != session.StateAttached && state != session.StateAway {
		return admin.Session{}, false
	}
	lasted := time.Duration(now - r.core.Since())
	stats := &r.core.Stats
	s := admin.Session{
		ID: r.id.String(), Key: r.key, State: state.String(), Since: wall.Add(-lasted),
		Upstream: upstreamName(r.set.cfg.Upstream.URL), Remote: r.remote,
		MessagesUp: stats.Up, MessagesDown: stats.Down, Replayed: uint64(stats.Replayed),
		DuplicatesDropped: uint64(stats.Duplicates), Resumes: uint64(stats.Resumes),
	}
	s.WindowMessages, s.WindowBytes = r.core.Window()
	if state == session.StateAway {
		s.AwayFor, s.GraceLeft = lasted, time.Duration(r.core.GraceAt()-now)
	}
	return s, true
}

// Stats implements admin.Source.
func (p *Proxy) Stats() admin.Stats {
	c := &p.counters
	set := p.settings.Load()
	s := admin.Stats{
		CertificateExpiry: set.certificateExpiry(),
		BufferBytes:       p.buffered.Load(),
		BufferLimitBytes:  set.cfg.Limits.MaxBufferBytes,
		DedupIDs:          int64(p.ids.Len()),
		CircuitOpen:       p.settings.Load().dialer.outages.circuit.isOpen(),
		SessionsOpened:    map[string]uint64{},
		SessionsLeft:      map[string]uint64{},
		LegsLost:          map[string]uint64{},
		HandshakesRefused: map[string]uint64{},
		DialFailures:      map[string]uint64{},
	}
	for mode, name := range [...]string{session.Relay: "relay", session.Keyed: "keyed", session.Counted: "counted"} {
		s.SessionsOpened[name] = c.opened[mode].Load()
	}
	for kind, name := range dialFailures {
		s.DialFailures[name] = c.dialFailed[kind].Load()
	}
	for why := range refusedKinds {
		s.HandshakesRefused[why.String()] = c.refused[why].Load()
	}

	sum, lefts := c.totals(p.sessions.all, func(r *relay) {
		switch r.core.State() {
		case session.StateAttached:
			s.SessionsAttached++
		case session.StateAway:
			s.SessionsAway++
		}
	})
	for reason := session.NotEnded + 1; reason < session.Reasons; reason++ {
		s.SessionsLeft[reason.String()] = lefts[reason]
	}

	s.MessagesUp, s.BytesUp, s.MessagesDown, s.BytesDown = sum.Up, sum.UpBytes, sum.Down, sum.DownBytes
	s.DuplicatesDropped, s.Replayed, s.OverflowDropped, s.Gaps = sum.Duplicates, sum.Replayed, sum.Dropped, sum.Gaps
	s.Receipts, s.HeartbeatsMissed, s.Resumes, s.Supersedes = sum.Receipts, sum.Missed, sum.Resumes, sum.Supersedes
	for loss, n := range sum.Losses {
		s.LegsLost[session.Loss(loss).String()] = n
	}
	return s
}
