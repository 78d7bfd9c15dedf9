package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/engine"
)

// A dialer opens upstream legs. It is safe for concurrent use.
type dialer struct {
	url     config.URL
	timeout time.Duration         // for connecting, TLS and the handshake together
	tls     *pemFiles[tls.Config] // nil for plain text
	outages *outageLog
	direct  netip.AddrPort                                                       // the upstream, where it is no name and takes plain text; else not valid
	netDial func(ctx context.Context, network, address string) (net.Conn, error) // nil for the system's
}

func newDialer(upstream config.Upstream, secure *pemFiles[tls.Config], outages *outageLog) *dialer {
	d := &dialer{url: upstream.URL, timeout: upstream.ConnectTimeout, tls: secure, outages: outages}
	if network, address := d.url.Dial(); engine.HasConns && network == "tcp" && secure == nil {
		d.direct, _ = netip.ParseAddrPort(address) // fails for names
	}
	return d
}

// An upstreamConn is an open WebSocket to the upstream.
type upstreamConn struct {
	// Conn has no deadline set and no buffer of the dialer's.
	Conn net.Conn
	// Early is what came behind the upstream's 101 in the same read; it goes before all
	// that is read from Conn.
	Early []byte
	// Header is what the upstream's 101 says beside the handshake itself (cookies, for
	// example), for the client's 101.
	Header http.Header
	// Protocol is the subprotocol the upstream chose, one of those offered, or "".
	Protocol string
}

// open opens a WebSocket to the upstream on behalf of r, a client's handshake from
// remoteAddr, offering it protocols as subprotocols.
//
// The upstream gets r's target behind its own URL's path, r's Host, and r's headers save
// those between client and proxy: hop-by-hop headers, the handshake's own, extensions (none is
// negotiated), and X-Forwarded-* and Forwarded, which an untrusted client may have made up
// and which say now whom the proxy itself saw. Once a is abandoned, dialling ends.
//
// The error is a *refusal, whose Body must be closed, where the upstream answered anything
// but 101; otherwise statusOf tells what the client should get, and a *circuitError in it when.
// The outage log knows already.
func (d *dialer) open(a *attempt, r *http.Request, remoteAddr string, protocols []string) (*upstreamConn, error) {
	up, refused, err := d.dial(a, r, remoteAddr, protocols)
	d.outages.note(err)
	if refused != nil {
		return nil, refused
	}
	return up, err
}

func (d *dialer) dial(a *attempt, r *http.Request, remoteAddr string, protocols []string) (*upstreamConn, *refusal, error) {
	began := time.Now()
	deadline := began.Add(d.timeout)
	key := newKey()
	s := scratches.Get().(*scratch)
	defer s.free()
	request := d.request(s, r, remoteAddr, protocols, key)
	probe, err := d.outages.circuit.enter(began)
	var conn net.Conn
	if err == nil {
		conn, err = d.connect(a, deadline, request)
		a.enter()
		d.outages.circuit.leave(time.Now(), probe, err, a.isGone() || isLocal(err))
	}
	if err != nil {
		return nil, nil, classify(a.isGone(), "connect to upstream "+upstreamName(d.url), err)
	}
	direct, _ := conn.(*engine.Conn)
	if direct != nil {
		a.yield() // by then there may be an answer
	} else {
		a.pass.leave()
	}
	answer, err := readAnswer(conn, s, key, protocols)
	a.enter()
	if direct != nil {
		direct.BeforeWait(nil)
	}
	if over := a.end(); err == nil {
		err = over
	}
	if err != nil {
		conn.Close()
		return nil, nil, classify(a.isGone(), "WebSocket handshake with upstream "+upstreamName(d.url), err)
	}
	if answer.refused != nil {
		answer.refused.Body = &refusalBody{answer.refused.Body, conn, d.timeout}
		answer.refused.timeout = d.timeout
		return nil, answer.refused, nil
	}
	return &upstreamConn{Conn: conn, Early: answer.early, Header: answer.header, Protocol: answer.protocol}, nil, nil
}

// connect makes a connection, which a has under the deadline, and sends request. It leaves the
// turnstile to wait.
func (d *dialer) connect(a *attempt, deadline time.Time, request []byte) (net.Conn, error) {
	if d.direct.IsValid() && d.netDial == nil {
		conn, err := engine.Dialing(d.direct)
		if err != nil {
			return nil, err
		}
		conn.BeforeWait(a.pass.leave)
		a.begin(conn, deadline)
		return a.keep(conn, conn.Connect(request))
	}
	a.pass.leave()
	ctx, cancel := a.context(deadline)
	defer cancel()
	network, address := d.url.Dial()
	dial := d.netDial
	if dial == nil {
		// Heartbeats watch the leg once it is open; TCP keep-alives would only wake
		// machines up for the same answer.
		dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	conn, err := dial(ctx, network, address)
	if err == nil && d.tls != nil {
		conn, err = secured(ctx, conn, d.tls.get())
	}
	if err != nil {
		return nil, err
	}
	a.begin(conn, deadline)
	_, err = conn.Write(request)
	return a.keep(conn, err)
}

// A line is what a request says under one name.
type line struct {
	name   string
	values []string
}

// scratch is memory for one handshake with an upstream.
type scratch struct {
	lines []line
	own   [8][1]string // values of the proxy's own
	text  []byte

	in     [answerBufferBytes]byte // for its answer
	fields fields
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) free() {
	clear(s.lines)
	s.lines, s.text, s.own = s.lines[:0], s.text[:0], [8][1]string{}
	scratches.Put(s)
}

// request is the client's handshake as the upstream gets it (RFC 6455 section 4.1), good until s is free.
func (d *dialer) request(s *scratch, r *http.Request, remoteAddr string, protocols []string, key string) []byte {
	named := r.Header["Connection"]
	for name, values := range r.Header {
		switch {
		case isHopByHop(name), isHandshake(name), isForwarded(name), name == "Content-Length": // checkUpgrade refuses a body
		case hasToken(named, name):
		default:
			s.lines = append(s.lines, line{name, values})
		}
	}
	n := 0
	add := func(name, value string) {
		s.own[n][0] = value
		s.lines = append(s.lines, line{name, s.own[n][:]})
		n++
	}
	forward(r, remoteAddr, add)
	// net/http would write "Sec-Websocket-…". Case means nothing, but servers that know
	// only the spelling of the RFC exist.
	add("Upgrade", "websocket")
	add("Connection", "Upgrade")
	add("Sec-WebSocket-Version", "13")
	add("Sec-WebSocket-Key", key)
	if len(protocols) > 0 {
		add("Sec-WebSocket-Protocol", strings.Join(protocols, ", "))
	}
	slices.SortFunc(s.lines, func(a, b line) int { return strings.Compare(a.name, b.name) })
	b := append(s.text, "GET "...)
	b = append(b, upstreamTarget(d.url, r)...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, "\r\n"...)
	for _, l := range s.lines {
		for _, value := range l.values {
			b = append(b, l.name...)
			b = append(b, ": "...)
			b = append(b, onOneLine(value)...)
			b = append(b, "\r\n"...)
		}
	}
	s.text = append(b, "\r\n"...)
	return s.text
}

// onOneLine keeps line breaks out of a value.
func onOneLine(value string) string {
	if strings.ContainsAny(value, "\r\n") {
		value = lineBreaks.Replace(value)
	}
	return textproto.TrimString(value)
}

var lineBreaks = strings.NewReplacer("\n", " ", "\r", " ")

// newKey makes a Sec-WebSocket-Key: 16 random bytes (RFC 6455 section 4.1).
func newKey() string {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	return base64.StdEncoding.EncodeToString(nonce[:])
}
