package proxy

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/resume"
	"github.com/tideover/tideover/proxy/session"
)

// ServeHTTP takes every request of the public listener: WebSocket handshakes, and plain
// requests for the upstream's HTTP origin.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	set := p.settings.Load()
	conn := handedOf(r)
	if conn != nil && r.TLS == nil {
		r.TLS = tlsStateOf(conn.Conn)
	}
	if v := conn.takeDenial(); v != nil {
		v.answer(w, r)
		return
	}
	switch {
	case isUpgrade(r):
		p.upgrade(set, w, r)
	case r.URL.Path == clientPath:
		p.serveClient(w, r)
	case r.URL.Path == injectPath && set.cfg.HTTP.InjectClient:
		p.serveInject(w, r)
	case set.passthrough != nil:
		set.passthrough.ServeHTTP(w, r)
	default:
		upgradeOnly(w, r)
	}
}

// upgrade serves a handshake that net/http has read.
func (p *Proxy) upgrade(set *settings, w http.ResponseWriter, r *http.Request) {
	if status, msg := checkUpgrade(r); status != 0 {
		p.counters.refused[refusedMalformed].Add(1)
		refuseUpgrade(w, status, msg)
		return
	}
	var a attempt
	a.strict = true
	stop := context.AfterFunc(r.Context(), a.abandon)
	v := p.handshake(&candidate{set: set, r: r, attempt: &a, at: hijackable{w}})
	stop()
	if v != nil {
		v.answer(w, r)
	}
}

// A candidate is a client in its handshake.
type candidate struct {
	set     *settings
	r       *http.Request // of a door's, only the strings may be kept
	attempt *attempt
	at      holder
	offer   resume.Offer
	bind    bindDigest
	conn    net.Conn // once taken
	early   []byte
}

// A holder has the connection of a candidate, and gives it away for a 101: take returns it
// with what came behind the head. On an error there is nothing to be done for the client.
type holder interface {
	take() (conn net.Conn, early []byte, err error)
}

// hijackable is net/http as holder.
type hijackable struct{ w http.ResponseWriter }

func (h hijackable) take() (net.Conn, []byte, error) {
	conn, rw, err := http.NewResponseController(h.w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	if c, ok := conn.(*handed); ok {
		early = append(early[:len(early):len(early)], c.unread...)
		conn = c.Conn
	}
	return conn, early, nil
}

// handshake serves c, which has passed checkUpgrade. The denial is nil where the answer is a 101, and
// else not answered yet.
func (p *Proxy) handshake(c *candidate) *denial {
	p.calm.handshakes.Add(1)
	set, r := c.set, c.r
	if !originAllowed(set.cfg.Limits.AllowedOrigins, r) {
		return p.refuse(refusedOrigin, http.StatusForbidden, "this Origin may not connect (limits.allowed_origins)")
	}
	if p.stopping.Load() {
		return p.refuse(refusedStopping, http.StatusServiceUnavailable, "the proxy is stopping: try again")
	}
	protocols, ok := offeredProtocols(r)
	if !ok {
		return p.refuse(refusedMalformed, http.StatusBadRequest, "Sec-WebSocket-Protocol must list different tokens, 100 at most")
	}
	c.offer, c.bind = resume.ReadOffer(protocols), digestOf(set.cfg.Session.Bind, r)
	switch {
	case c.offer.Resume:
		p.resumeByToken(c)
		return nil
	case c.offer.V1:
		return p.open(c, nil, session.Counted)
	}
	return p.openByKey(c)
}

// offeredProtocols lists the subprotocols that r offers (RFC 6455, section 11.3.4).
func offeredProtocols(r *http.Request) (list []string, ok bool) {
	for _, line := range r.Header["Sec-Websocket-Protocol"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.Trim(name, " \t")
			if name == "" || strings.ContainsFunc(name, notTokenChar) || slices.Contains(list, name) || len(list) == 100 {
				return nil, false
			}
			list = append(list, name)
		}
	}
	return list, true
}

// notTokenChar is RFC 9110, section 5.6.2.
func notTokenChar(c rune) bool {
	return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
}

// openByKey serves a client that knows nothing of the proxy: its session is found by
// session.key.
func (p *Proxy) openByKey(c *candidate) *denial {
	key, missing, err := sessionKey(c.set.cfg.Session.Key, c.r)
	if err != nil {
		return p.refuse(refusedMalformed, http.StatusBadRequest, err.Error())
	}
	if missing != "" {
		p.noteUnkeyed(missing)
		return p.open(c, nil, session.Relay)
	}
	var ctx context.Context // only those who wait for others need one
	for {
		found, mine, ready := p.sessions.claim(key)
		switch {
		case mine != nil:
			return p.open(c, mine, session.Keyed)
		case found != nil:
			v, left := p.resumeByKey(c, found)
			if left { // in this very moment; its key is free, or will be in the next
				p.sessions.forget(found)
			}
			found.release()
			if left {
				continue
			}
			return v
		}
		if ctx == nil {
			var cancel context.CancelFunc
			ctx, cancel = c.attempt.context(time.Now().Add(c.set.cfg.Limits.HandshakeTimeout))
			defer cancel()
		}
		c.attempt.pass.leave()
		select {
		case <-ready:
			c.attempt.pass.enter()
		case <-ctx.Done():
			return p.refuse(refusedUpstream, http.StatusGatewayTimeout, "another handshake for the same session takes too long")
		}
	}
}

// resumeByKey attaches c to the session of its key, unless that has left.
func (p *Proxy) resumeByKey(c *candidate, r *relay) (v *denial, left bool) {
	if subtle.ConstantTimeCompare(c.bind[:], r.bind[:]) != 1 {
		return p.refuse(refusedBind, http.StatusForbidden, "this session belongs to a client with other credentials (session.bind)"), false
	}
	cl := claim{nonce: rand.Uint64(), remote: c.r.RemoteAddr}
	switch err := r.mayResume(cl); {
	case errors.Is(err, errLeft):
		return nil, true
	case err != nil:
		return p.refuse(refusedConflict, http.StatusConflict, err.Error()), false
	}
	if !p.take(c) {
		return nil, false
	}
	if err := r.resume(c.conn, c.early, c.answer(r.protocol, nil), cl); err != nil {
		p.tooLate(c)
	}
	return nil, false
}

// resumeByToken attaches a tideover.v1 client to its session. A browser's script sees no
// HTTP status, so that it learns from a close code what is wrong.
func (p *Proxy) resumeByToken(c *candidate) {
	r, cl := p.byToken(c)
	if r == nil {
		p.counters.refused[refusedToken].Add(1)
		p.answerAndClose(c, resume.CodeGone, p.departed.reason(c))
		return
	}
	defer r.release()
	if !p.take(c) {
		return
	}
	switch err := r.resume(c.conn, c.early, c.answer("", nil), cl); {
	case errors.Is(err, session.ErrReceived):
		p.counters.refused[refusedToken].Add(1)
		p.farewell(c, frame.AppendClose(c.answer("", nil), frame.CodeProtocolError, err.Error(), nil))
	case err != nil:
		p.counters.refused[refusedToken].Add(1)
		p.farewell(c, frame.AppendClose(c.answer("", nil), resume.CodeGone, p.departed.reason(c), nil))
	}
}

// byToken finds the session for which c has a good token; the caller has to release it.
func (p *Proxy) byToken(c *candidate) (*relay, claim) {
	id, presented, ok := readToken(c.offer.Token)
	if !ok {
		return nil, claim{}
	}
	r := p.sessions.get(id)
	if r == nil {
		return nil, claim{}
	}
	cl := claim{presented: &presented, nonce: rand.Uint64(), received: c.offer.Received, remote: c.r.RemoteAddr}
	if subtle.ConstantTimeCompare(c.bind[:], r.bind[:]) != 1 || r.mayResume(cl) != nil {
		r.release()
		return nil, claim{}
	}
	return r, cl
}

// open dials the upstream for a new session and attaches the client to it. mine is the place that
// was reserved for its key, or nil.
func (p *Proxy) open(c *candidate, mine *place, mode session.Mode) *denial {
	up, v := p.openUpstream(c)
	if up == nil {
		// Before the answer, which may take as long as the client likes.
		if mine != nil {
			p.sessions.giveUp(mine)
		}
		return v
	}
	r := p.newRelay(c.set)
	defer r.release()
	r.bind = c.bind
	r.protocol = strings.Clone(up.Protocol) // what it is a part of must not live as long as the session
	r.who = c.set.events.Identify(c.r)
	if mine != nil {
		r.key = mine.key
	}
	r.core = session.Make(&c.set.core, mode, p.numbers.Add(1), rand.Uint64(), p.now())
	p.counters.opened[mode].Add(1)
	// From here on the session is its own: it ends when its core says so.
	r.open(up, mine, c.conn, c.early, c.answer(up.Protocol, up.Header), claim{nonce: rand.Uint64(), remote: c.r.RemoteAddr})
	return nil
}

// openUpstream dials for a new session, counts it against the limit, and takes the client's
// connection over. Without an upstream, the denial answers the client; none: it has gone.
func (p *Proxy) openUpstream(c *candidate) (up *upstreamConn, v *denial) {
	if p.live.Add(1) > int64(c.set.cfg.Limits.MaxSessions) {
		p.live.Add(-1)
		return nil, p.refuse(refusedLimit, http.StatusServiceUnavailable, "too many sessions (limits.max_sessions)")
	}
	up, err := c.set.dialer.open(c.attempt, c.r, c.r.RemoteAddr, c.offer.App)
	if err != nil {
		p.live.Add(-1)
		return nil, p.refuseUpstream(err)
	}
	if !p.take(c) {
		p.live.Add(-1)
		up.Conn.Close()
		return nil, nil
	}
	return up, nil
}

// answer is the 101 that opens the WebSocket (RFC 6455, section 4.2.2). protocol is the
// application's, selected only if the client offered it; extra are the upstream's own
// headers.
func (c *candidate) answer(protocol string, extra http.Header) []byte {
	b := make([]byte, 0, 512)
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = append(b, acceptOf(c.r.Header["Sec-Websocket-Key"][0])...)
	b = append(b, "\r\n"...)
	switch {
	case c.offer.V1:
		protocol = resume.Protocol
	case !slices.Contains(c.offer.App, protocol):
		protocol = ""
	}
	if protocol != "" {
		b = append(b, "Sec-WebSocket-Protocol: "+protocol+"\r\n"...)
	}
	for name, values := range extra {
		for _, v := range values {
			b = append(b, name+": "+v+"\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

// take takes the connection over. On false the client is gone.
func (p *Proxy) take(c *candidate) bool {
	conn, early, err := c.at.take()
	if err != nil {
		p.log.Error("take over a client's connection", zap.Error(err))
		return false
	}
	c.conn, c.early = conn, early
	return true
}

// answerAndClose completes the handshake only to say why the WebSocket is closed.
func (p *Proxy) answerAndClose(c *candidate, code uint16, reason string) {
	if p.take(c) {
		p.farewell(c, frame.AppendClose(c.answer("", nil), code, reason, nil))
	}
}

// tooLate answers a client whose session changed while its handshake was on its way: if it tries
// again it will be told, or served, as things are then.
func (p *Proxy) tooLate(c *candidate) {
	p.counters.refused[refusedConflict].Add(1)
	p.farewell(c, []byte("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
}

// farewell writes last bytes to a hijacked connection and closes it once the client has had
// the time to read them.
func (p *Proxy) farewell(c *candidate, last []byte) {
	c.attempt.pass.leave()
	defer c.conn.Close()
	_ = c.conn.SetDeadline(time.Now().Add(closeTimeout))
	if _, err := c.conn.Write(last); err != nil {
		return
	}
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		// A reset for unread bytes could overtake the last ones.
		_, _ = io.Copy(io.Discard, io.LimitReader(c.conn, 1<<20))
	}
}

// refuse is the answer to a handshake that the proxy itself turns away.
func (p *Proxy) refuse(why refusedBecause, status int, msg string) *denial {
	p.counters.refused[why].Add(1)
	return &denial{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, msg, status)
	}}
}

// refuseUpstream is the answer to a handshake for which there is no upstream.
func (p *Proxy) refuseUpstream(err error) *denial {
	var refused *refusal
	if errors.As(err, &refused) {
		p.counters.refused[refusedByUpstream].Add(1)
		return &denial{
			answer: func(w http.ResponseWriter, r *http.Request) { refused.relay(r.Context(), w) },
			drop:   func() { _ = refused.Body.Close() },
		}
	}
	var open *circuitError
	switch {
	case errors.As(err, &open):
		p.counters.refused[refusedCircuit].Add(1)
	case errors.Is(err, errClientGone):
		p.counters.refused[refusedUpstream].Add(1)
	default:
		p.counters.refused[refusedUpstream].Add(1)
		p.counters.dialFailed[dialFailure(err)].Add(1)
	}
	status := statusOf(err)
	return &denial{answer: func(w http.ResponseWriter, _ *http.Request) {
		retryAfter(w, err)
		http.Error(w, fmt.Sprintf("%d %s: the WebSocket backend gave no answer", status, http.StatusText(status)), status)
	}}
}
